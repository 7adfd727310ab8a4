package ssmstream

import (
	"context"
	"errors"
	"time"

	"github.com/gorilla/websocket"
)

const (
	ackMargin     = 10 * time.Millisecond  // how long an acknowledgement may take beside the round trip
	goodbyeWithin = 250 * time.Millisecond // what may be waited for once the stream is over

	firstUnpause = 500 * time.Millisecond // doubled each time
	lastUnpause  = 32 * time.Second
)

var (
	errDeadPeer    = errors.New("no sign of life from the service")
	errSilentAgent = errors.New("no sign of life from the instance")
)

// serve writes what there is to write to a connection until it breaks or the
// stream is over.
func (s *Stream) serve(ctx context.Context, ch *channel) error {
	s.mu.Lock()
	s.connects++
	now := time.Now()
	underway := s.live.heard.Add(-s.send.rtt.srtt - ackMargin) // what was sent later may not have arrived
	s.live = newLiveness(now)
	s.live.wait(s.send.unacked > 0 || !s.ready, now)
	s.reading, s.paused, s.pongs = true, false, nil
	s.acksTrial = max((s.send.carried()+s.acksSent)/4, leastTrial)
	s.acksSent = 0
	s.send.reconnected()
	if s.ready && !s.greeted {
		s.holdData(now)
	}
	s.acks = s.recent.with(s.acks, underway)
	if s.connects > 1 {
		s.unpause = unpause{now, firstUnpause}
		if len(s.acks) > 0 { // they tell it
			s.unpause.due(now)
		}
	}
	s.mu.Unlock()

	// When the stream ends, a write that stands still must not hold that up.
	stop := context.AfterFunc(ctx, func() { time.AfterFunc(goodbyeWithin, ch.close) })
	defer stop()

	if s.announced != nil { // the answer shows that the connection is good
		if err := ch.control(websocket.PingMessage, nil); err != nil {
			ch.close()
			return err
		}
	}
	read := make(chan error, 1)
	go func() { read <- s.readLoop(ch) }() // ends when ch is closed
	err, readEnded := s.writeLoop(ctx, ch, read)
	if ctx.Err() != nil {
		ch.goodbye()
	}
	ch.close()
	if !readEnded {
		s.mu.Lock()
		ch.broken = true
		s.roomy.Broadcast()
		s.mu.Unlock()
		<-read
	}
	return err
}

// writeLoop returns why it ended, and whether that was the end of the read
// loop, taken from read.
func (s *Stream) writeLoop(ctx context.Context, ch *channel, read <-chan error) (err error, readEnded bool) {
	timer := time.NewTimer(time.Hour)
	defer timer.Stop()
	scratch := newAckScratch()
	for {
		next, err := s.flush(ch, scratch)
		if err != nil {
			return err, false
		}
		timer.Reset(time.Until(next))
		select {
		case <-s.wake:
		case <-timer.C:
		case err := <-read:
			return err, true
		case <-ctx.Done():
			return ctx.Err(), false
		}
	}
}

// unpause decides when the agent is told that the client is there again. An
// agent that knows of a loss neither reads the port nor sends until it gets
// start_publication or any message of the client's (Pause in its
// datachannel.go), and who waits for output has nothing to say. That
// start_publication never comes before pause_publication nobody has promised,
// and a gateway may find only after a while that the old connection is dead. So
// the latest acknowledgement is repeated for a minute, which does no harm.
type unpause struct {
	at   time.Time     // when to repeat it next; zero: not any more
	wait time.Duration // from then to the next time
}

// due reports whether it is time, once each time.
func (u *unpause) due(now time.Time) bool {
	if u.at.IsZero() || now.Before(u.at) {
		return false
	}
	if u.wait > lastUnpause {
		*u = unpause{}
		return true
	}
	u.at, u.wait = now.Add(u.wait), 2*u.wait
	return true
}

// ackScratch is the write loop's memory for encoding acknowledgements.
type ackScratch struct{ payload, frame []byte }

func newAckScratch() *ackScratch {
	return &ackScratch{payload: make([]byte, 0, 256)} // above what any acknowledgement takes
}

// write puts one acknowledgement into the channel's batch.
func (k *ackScratch) write(ch *channel, a acknowledgement, now time.Time) error {
	k.frame = appendAcknowledge(k.frame[:0], k.payload, uint64(now.UnixMilli()), a.messageType, a.id, a.seq)
	return ch.write(k.frame)
}

// flush sends everything that is due, and returns when to look again at the
// latest.
func (s *Stream) flush(ch *channel, scratch *ackScratch) (next time.Time, err error) {
	for {
		next, more, err := s.collect(ch, scratch)
		if err == nil {
			err = ch.out.flush()
		}
		if err != nil || !more {
			return next, err
		}
	}
}

// collect puts what is due into the channel's batch: pongs, acknowledgements,
// then data. It reports whether there is more than fits one.
func (s *Stream) collect(ch *channel, scratch *ackScratch) (next time.Time, more bool, err error) {
	s.mu.Lock()
	defer s.mu.Unlock()
	now := time.Now()
	next, err = s.judge(ch, now)
	if err != nil {
		return next, false, err
	}
	for _, payload := range s.pongs {
		if err := ch.control(websocket.PongMessage, []byte(payload)); err != nil {
			return next, false, err
		}
	}
	s.pongs = s.pongs[:0]
	if s.unpause.due(now) {
		if a, ok := s.recent.latest(); ok {
			if err := scratch.write(ch, a, now); err != nil {
				return next, false, err
			}
		}
	}
	sent := 0
	for _, a := range s.acks {
		if len(ch.out.batch) > batchSize || !ch.proven && s.acksSent+sent >= s.acksTrial {
			break
		}
		if err := scratch.write(ch, a, now); err != nil {
			return next, false, err
		}
		sent++
	}
	s.acks = s.acks[:copy(s.acks, s.acks[sent:])]
	s.acksSent += sent
	for len(ch.out.batch) < batchSize {
		frame := s.send.pop(now)
		if frame == nil {
			break
		}
		if err := ch.write(frame); err != nil {
			return next, false, err
		}
	}
	if at := s.send.timerAt; !at.IsZero() {
		next = earliest(next, at)
	}
	if at := s.send.turns.due; !at.IsZero() {
		next = earliest(next, at)
	}
	if at := s.unpause.at; !at.IsZero() {
		next = earliest(next, at)
	}
	if s.ready && s.send.held {
		next = earliest(next, s.heldUntil)
	}
	return next, len(ch.out.batch) >= batchSize, nil
}

// judge runs the timers that are due: is the connection alive, has the agent
// been silent for too long, is anything to be sent again. s.mu is held.
func (s *Stream) judge(ch *channel, now time.Time) (next time.Time, err error) {
	if at := s.send.timerAt; !at.IsZero() && !now.Before(at) {
		s.send.timeout(now)
	}
	if s.ready && !now.Before(s.heldUntil) {
		s.send.held = false
	}
	if !s.reading {
		return now.Add(clockTick), nil // silence is ours
	}
	if now.Sub(s.live.checked) >= clockTick {
		s.live.compareClocks(now, now.Round(0))
	}
	verdict, next := s.live.judge(now)
	switch verdict {
	case deadPeer:
		return next, errDeadPeer
	case agentSilent:
		if now.Sub(ch.opened) >= silentAgent {
			return next, errSilentAgent
		}
	case askForPong:
		if err := ch.control(websocket.PingMessage, nil); err != nil {
			return next, err
		}
		next = now.Add(busyPing)
	}
	return next, nil
}

// goodbye closes the websocket by its rules, as far as that takes no time.
func (ch *channel) goodbye() {
	ch.out.Conn.SetWriteDeadline(time.Now().Add(goodbyeWithin))
	ch.out.passing = true
	ch.ws.WriteControl(websocket.CloseMessage,
		websocket.FormatCloseMessage(websocket.CloseNormalClosure, ""), time.Now().Add(goodbyeWithin))
}
