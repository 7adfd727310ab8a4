package ssmstream

import "time"

const (
	// ringSize is how many messages there are at most from the first that is
	// unacknowledged on. Until that one is in doubt, the others fill the window.
	ringSize  = doubtAfter*maxWindow/(MaxPayload+payloadOffset) + ringSpare
	ringSpare = 64 // kept for control messages and probes

	// lossThreshold acknowledgements of later transmissions mean that one is
	// lost (RFC 9002 section 6.1.1, TCP's three duplicates).
	lossThreshold = 3

	// tailMargin is how much longer than two round trips, and four times their
	// variation, the last messages may stay unacknowledged before one of them
	// is sent again.
	tailMargin = 10 * time.Millisecond

	// takesByNow timeouts in a row, and the agent must have connected to the
	// port by now, even if nothing has come from there.
	takesByNow = 4

	leastTrial = 4 // messages that are sent again before one is acknowledged
)

// sender numbers the messages of one direction, keeps each until it is
// acknowledged, and decides what to send when. It does no I/O and reads no
// clock: its owner serialises the calls and hands in the time.
type sender struct {
	ring [ringSize]*slot // by number, nil what is acknowledged or in doubt
	base int64           // the lowest number that is not acknowledged
	next int64           // the number of the next message

	unacked int   // bytes of frames from base on that are not acknowledged
	queued  int   // messages that wait to be sent, or sent again
	cursor  int64 // no message below it is queued
	flight  flight

	spare []*slot // of messages that are dealt with, for the next ones

	order     uint64 // transmissions so far
	connected uint64 // those before the connection of now
	trial     int    // how many it may have carried before the next acknowledgement; 0: any number
	latest    uint64 // the latest one that is known to have arrived

	held   bool  // only message 0, the HandshakeResponse, may be sent
	taking bool  // the agent takes data: what stays unacknowledged is not merely refused
	probe  int64 // number of the newest probe; 0: none yet
	doubts doubts
	turns  turns

	rtt     rttEstimator
	window  window
	timerAt time.Time // when the retransmission timer fires; zero: not running
	probed  bool      // it has fired once for the tail, and nothing has been acknowledged since
	resent  int       // transmissions beyond each message's first, for statistics
}

// slot is that of a number from base to next, nil where it is dealt with.
func (s *sender) slot(seq int64) *slot { return s.ring[seq%ringSize] }

// write admits as much of p as the window has room for, cut into messages,
// and returns how many bytes that was.
func (s *sender) write(p []byte, now time.Time) int {
	n := 0
	for n < len(p) {
		if s.room() <= 0 {
			break
		}
		chunk := p[n:min(n+MaxPayload, len(p))]
		s.push(PayloadOutput, chunk, now)
		n += len(chunk)
	}
	return n
}

// room is how many bytes of frames would be admitted.
func (s *sender) room() int {
	if s.next-s.base >= ringSize-ringSpare || len(s.doubts.messages) >= maxDoubts {
		return 0
	}
	if s.brief() {
		return maxWindow - s.unacked // all that ssh has, for quiet to see; limit holds it back
	}
	return s.window.size - s.unacked
}

// push queues one message, whatever the window says, and returns its number,
// or -1 where the ring is full.
func (s *sender) push(t PayloadType, payload []byte, now time.Time) int64 {
	if s.next-s.base >= ringSize {
		return -1
	}
	m := Message{
		Type:           InputStreamData,
		CreatedDate:    uint64(now.UnixMilli()),
		SequenceNumber: s.next,
		ID:             NewUUID(),
		PayloadType:    t,
		Payload:        payload,
	}
	sl := s.unused()
	*sl = slot{seq: s.next, frame: m.AppendTo(sl.frame[:0]), state: slotQueued}
	s.ring[s.next%ringSize] = sl
	if !s.brief() {
		sl.written = now
	}
	s.unacked += len(sl.frame)
	s.window.fill(s.unacked)
	s.queued++
	s.next++
	return sl.seq
}

// unused returns a slot that has memory for a frame.
func (s *sender) unused() *slot {
	var sl *slot
	if n := len(s.spare); n > 0 {
		sl, s.spare = s.spare[n-1], s.spare[:n-1]
	} else {
		sl = new(slot)
	}
	if sl.frame == nil {
		sl.frame = make([]byte, 0, payloadOffset+MaxPayload)
	}
	return sl
}

// pop returns the frame to send now, in the order of the numbers, or nil. The
// frame is valid until the next call of acknowledge.
func (s *sender) pop(now time.Time) []byte {
	if frame := s.popDoubt(now); frame != nil {
		return frame
	}
	if s.takeTurns(now) && s.queued > 0 && s.flight.bytes < s.limit() {
		sl := s.firstQueued()
		if s.held && sl.seq > 0 {
			return nil
		}
		return s.transmit(sl, now)
	}
	// Of what is sent again the agent may have all, and say nothing. A probe
	// behind it is acknowledged.
	if s.taking && s.flight.oldest != nil && s.flight.fresh == 0 && s.addProbe(now) {
		return s.transmit(s.slot(s.next-1), now)
	}
	return nil
}

// carried is how many transmissions the connection of now has carried.
func (s *sender) carried() int { return int(s.order - s.connected) }

// firstQueued is the lowest message that waits to be sent. There has to be one.
func (s *sender) firstQueued() *slot {
	for {
		if sl := s.slot(s.cursor); sl != nil && sl.state == slotQueued {
			return sl
		}
		s.cursor++
	}
}

// limit is how many bytes may be in flight. The window may have shrunk since they
// were admitted; and where connections are brief, all of it goes again with each.
func (s *sender) limit() int {
	switch {
	case s.trial > 0 && s.carried() >= s.trial:
		return 0
	case s.brief():
		return min(s.window.size, 2*initialWindow)
	}
	return s.window.size
}

func (s *sender) transmit(sl *slot, now time.Time) []byte {
	s.order++
	if sl.first == 0 {
		sl.first = s.order
	} else {
		s.resent++
	}
	if sl.written.IsZero() { // waiting for limit tells nothing of the path
		sl.written = now
	}
	sl.last, sl.sent, sl.state = s.order, now, slotInFlight
	s.queued--
	s.flight.add(sl)
	if s.timerAt.IsZero() {
		s.timerAt = now.Add(s.patience())
	}
	return sl.frame
}

// acknowledge takes in the acknowledgement of one number. It reports whether
// that was news.
func (s *sender) acknowledge(seq int64, now time.Time) bool {
	if seq < s.base || seq >= s.next {
		return s.doubts.acknowledge(seq)
	}
	sl := s.slot(seq)
	if sl == nil || sl.first == 0 {
		return s.doubts.acknowledge(seq)
	}
	s.trial = 0
	var delay time.Duration
	if sl.first == sl.last { // Karn: sent twice, it is unknown which one arrived
		s.rtt.sample(now.Sub(sl.sent))
		delay = max(now.Sub(sl.written), 1)
	}
	if sl.state == slotInFlight {
		s.flight.remove(sl)
	} else {
		s.queued--
	}
	s.window.acknowledged(len(sl.frame), delay, seq, s.next)
	s.latest = max(s.latest, sl.first) // its first transmission, for Karn's reason
	s.doubts.heard(s.latest)
	s.free(sl)
	if s.doubts.keepWitness(seq, sl.frame) {
		sl.frame = nil
	}
	threshold := uint64(lossThreshold)
	if seq == s.probe {
		threshold = 1 // it is there to tell, and overtook nothing that is worth waiting for
	}
	for s.flight.oldest != nil && s.flight.oldest.last+threshold <= s.latest {
		s.overtaken(s.flight.oldest)
	}
	for s.base < s.next && s.slot(s.base) == nil {
		s.base++
	}
	s.cursor = max(s.cursor, s.base)
	s.restartTimer(now)
	return true
}

// free gives up a slot whose message is dealt with. Who keeps its frame takes
// it from the slot.
func (s *sender) free(sl *slot) {
	s.unacked -= len(sl.frame)
	s.ring[sl.seq%ringSize] = nil
	s.spare = append(s.spare, sl)
}

// restartTimer follows RFC 6298 section 5: it runs while anything is
// unacknowledged, anew from each acknowledgement.
func (s *sender) restartTimer(now time.Time) {
	s.probed = false
	if s.flight.oldest == nil {
		s.timerAt = time.Time{}
		return
	}
	s.timerAt = now.Add(s.patience())
}

// patience is how long to wait for an acknowledgement.
func (s *sender) patience() time.Duration {
	rto := s.rtt.rto()
	if !s.taking {
		return min(rto, initialRTO) // the handshake has only so much time
	}
	if s.probed || s.rtt.srtt == 0 || s.rtt.backoff > 0 {
		return rto
	}
	return min(2*s.rtt.srtt+4*s.rtt.rttvar+tailMargin, rto)
}

// timeout is called when the time of timerAt has come. At first the newest
// message alone is sent again, and a probe behind it: no later acknowledgements
// tell that the last messages are lost (RFC 8985 section 7). The second time
// all that is in flight counts as lost and is sent again from the oldest on, as
// acknowledgements allow.
func (s *sender) timeout(now time.Time) {
	s.timerAt = time.Time{}
	if s.trial > 0 { // or nothing could be sent
		s.try(leastTrial)
	}
	if s.taking && s.patience() < s.rtt.rto() {
		s.probed = true
		s.lose(s.flight.newest)
		s.addProbe(now)
		return
	}
	s.rtt.backoff++
	if s.rtt.backoff >= takesByNow {
		s.taking = true
	}
	s.window.shrink()
	s.loseAll()
	s.try(leastTrial)
}

// reconnected prepares for another connection: nothing of what was in flight
// is known to have arrived, and nothing is known of the new path.
func (s *sender) reconnected() {
	s.loseAll()
	for seq := s.base; seq < s.next; seq++ {
		if sl := s.slot(seq); sl != nil && sl.first != 0 {
			sl.overtaken = doubtAfter - 1 // most of these have arrived, their acknowledgements have not
		}
	}
	s.doubts.askedAt = 0
	s.judgeTurns()
	s.rtt = rttEstimator{}
	s.window.restart()
	carried := s.carried()
	s.connected = s.order
	if s.order > 0 {
		// This one may carry as little: an answer must come before its end.
		s.try(max(carried/4, leastTrial))
	}
	s.timerAt = time.Time{}
}

// try limits how many messages are sent before the next acknowledgement: all
// that was in flight is lost, and the next may be.
func (s *sender) try(messages int) { s.trial = s.carried() + messages }

// loseAll queues everything in flight again.
func (s *sender) loseAll() {
	for s.flight.oldest != nil {
		s.lose(s.flight.oldest)
	}
	s.timerAt, s.trial = time.Time{}, 0
}

func (s *sender) lose(sl *slot) {
	s.flight.remove(sl)
	sl.state = slotQueued
	s.queued++
	s.cursor = min(s.cursor, sl.seq)
}
