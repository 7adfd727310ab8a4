package ssmstream

import (
	"encoding/json"
	"fmt"
	"io"
	"time"
)

// acknowledgement is one that is owed to the agent.
type acknowledgement struct {
	messageType MessageType
	id          UUID
	seq         int64
}

// recentAcks remembers the last acknowledgements, since some get lost: what was
// on its way when a connection broke, and what the gateway loses. The agent asks
// again for one of them every 100 ms only, and what it really lacks waits behind
// them: they are better repeated unasked.
type recentAcks struct {
	ring  [2048]recentAck
	count int
}

type recentAck struct {
	acknowledgement
	owed     time.Time
	repeated bool // by after or before
}

// latest returns the latest one, if there is one.
func (r *recentAcks) latest() (a acknowledgement, ok bool) {
	if r.count == 0 {
		return a, false
	}
	return r.ring[(r.count-1)%len(r.ring)].acknowledgement, true
}

func (r *recentAcks) add(a acknowledgement, now time.Time) {
	r.ring[r.count%len(r.ring)] = recentAck{a, now, false}
	r.count++
}

// since returns those that were owed at t or later, oldest first.
func (r *recentAcks) since(t time.Time) []acknowledgement {
	return r.pick(func(a *recentAck) bool { return !a.owed.Before(t) })
}

// with returns those that were owed at t or later, and behind them what else is
// owed, each once.
func (r *recentAcks) with(owed []acknowledgement, t time.Time) []acknowledgement {
	all := r.since(t)
	known := make(map[int64]bool, len(all)+len(owed))
	for _, a := range all {
		known[a.seq] = true
	}
	for _, a := range owed {
		if !known[a.seq] {
			known[a.seq] = true
			all = append(all, a)
		}
	}
	return all
}

// after returns those of messages after seq that were owed before t, oldest
// first, each of them in one call at most.
func (r *recentAcks) after(seq int64, t time.Time) []acknowledgement {
	return r.pick(func(a *recentAck) bool {
		wanted := a.seq > seq && a.owed.Before(t) && !a.repeated
		a.repeated = a.repeated || wanted
		return wanted
	})
}

// before returns those of messages before seq, oldest first, each of them here
// or in after once at most.
func (r *recentAcks) before(seq int64) []acknowledgement {
	return r.pick(func(a *recentAck) bool {
		wanted := a.seq < seq && !a.repeated
		a.repeated = a.repeated || wanted
		return wanted
	})
}

func (r *recentAcks) pick(wanted func(*recentAck) bool) []acknowledgement {
	var picked []acknowledgement
	for i := max(0, r.count-len(r.ring)); i < r.count; i++ {
		if a := &r.ring[i%len(r.ring)]; wanted(a) {
			picked = append(picked, a.acknowledgement)
		}
	}
	return picked
}

// readLoop takes in the frames of one connection until it breaks.
func (s *Stream) readLoop(ch *channel) error {
	ch.ws.SetPingHandler(func(payload string) error {
		s.hear(ch)
		s.mu.Lock()
		defer s.mu.Unlock()
		if len(s.pongs) < 4 {
			s.pongs = append(s.pongs, payload)
		}
		s.kick()
		return nil
	})
	ch.ws.SetPongHandler(func(string) error {
		s.hear(ch)
		return nil
	})
	ch.ws.SetCloseHandler(func(int, string) error { return nil })
	var m Message
	for {
		if err := s.awaitRoom(ch); err != nil {
			return err
		}
		frame, err := ch.read()
		if err != nil {
			return err
		}
		s.hear(ch)
		if err := m.Decode(frame); err != nil {
			s.log.Warn("frame ignored", "error", err)
			continue
		}
		s.receive(ch, &m)
	}
}

// hear takes in that something has come. Where a loss was announced it is over
// now, and not before: a service may take connections and drop them.
func (s *Stream) hear(ch *channel) {
	s.mu.Lock()
	s.live.hear(time.Now())
	ch.heard = true
	s.mu.Unlock()
	if s.announced != nil {
		s.announced(true)
		s.announced = nil
	}
}

// awaitRoom returns when the next frame may be read: while the reader is far
// behind and nothing of ours waits for an acknowledgement, the gateway is held
// back by not reading.
func (s *Stream) awaitRoom(ch *channel) error {
	s.mu.Lock()
	defer s.mu.Unlock()
	for s.err == nil && !ch.broken && s.recv.unread.Len() >= maxUnread && s.send.unacked == 0 {
		s.reading = false
		s.roomy.Wait()
	}
	if !s.reading {
		s.reading = true
		s.live.hear(time.Now()) // silence was ours
	}
	return s.err
}

// receive takes in one message.
func (s *Stream) receive(ch *channel, m *Message) {
	s.mu.Lock()
	defer s.mu.Unlock()
	now := time.Now()
	switch m.Type {
	case Acknowledge:
		seq, err := acknowledgedSequence(m.Payload)
		if err != nil {
			s.log.Warn("acknowledgement ignored", "error", err)
			return
		}
		s.hearAgent(ch, now)
		if s.send.acknowledge(seq, now) {
			s.acknowledged(now)
		}
	case OutputStreamData:
		s.hearAgent(ch, now)
		s.receiveOutput(m, now)
	case ChannelClosed:
		s.receiveClosed(m.Payload)
	case PausePublication:
		s.log.Info("the agent is away")
		s.paused = true
	case StartPublication:
		s.log.Debug("both ends are there")
		if s.paused { // what it missed meanwhile need not wait for a timer
			s.paused = false
			s.send.loseAll()
			s.send.try(leastTrial)
			s.kick()
		}
	default:
		s.log.Warn("message of unknown type ignored", "type", string(m.Type))
	}
}

// hearAgent takes in that the agent has said something. If it was away until
// now, what it missed need not wait for a timer, which has slowed down
// meanwhile. s.mu is held.
func (s *Stream) hearAgent(ch *channel, now time.Time) {
	if now.Sub(s.live.agent) > agentAway && s.send.rtt.backoff > 0 {
		s.send.rtt.backoff = 0
		s.send.loseAll()
		s.send.try(leastTrial)
		s.kick()
	}
	if !ch.proven {
		s.kick() // the acknowledgements that waited for this
	}
	s.live.agent, s.send.turns.heard, ch.proven = now, now, true
}

// acknowledged follows the news of an acknowledgement. s.mu is held.
func (s *Stream) acknowledged(now time.Time) {
	s.live.wait(s.send.unacked > 0 || !s.ready, now)
	if s.send.queued > 0 || s.send.turns.withheld != nil || s.send.doubtsDue() {
		s.kick()
	}
	if s.ending {
		s.changed.Broadcast()
	}
	// Waking a writer for each message would be a switch for each: it sleeps
	// on until there is room for a few, but never on an empty wire.
	if s.writers > 0 && s.send.room() >= min(s.send.window.size/4, batchSize) {
		s.writable.Signal()
	}
}

// receiveOutput takes in one message of the agent's stream. s.mu is held.
func (s *Stream) receiveOutput(m *Message, now time.Time) {
	if m.PayloadType == PayloadOutput && !s.greeted {
		s.greeted, s.send.held, s.send.taking = true, false, true
		s.send.loseAll() // it may have been sent before the port was connected
		s.kick()
	}
	duplicates := s.recv.duplicates
	if !s.recv.accept(m, s.deliver) {
		return
	}
	if s.recv.missing() > 0 && s.gap != s.recv.expected {
		s.gap = s.recv.expected
		s.owe(s.recent.before(s.gap)...)
	}
	a := acknowledgement{m.Type, m.ID, m.SequenceNumber}
	s.owe(a)
	if s.recv.duplicates == duplicates {
		s.recent.add(a, now)
	} else { // its acknowledgement was lost, perhaps with others
		s.owe(s.recent.after(m.SequenceNumber, now.Add(-s.send.rtt.srtt-ackMargin))...)
	}
	s.kick()
}

// owe has acknowledgements sent, as many as there is room for: the agent asks
// for the others again. s.mu is held.
func (s *Stream) owe(acks ...acknowledgement) {
	s.acks = append(s.acks, acks[:min(len(acks), max(0, maxAcks-len(s.acks)))]...)
}

// deliver takes the agent's messages in their order. s.mu is held.
func (s *Stream) deliver(t PayloadType, payload []byte) {
	switch t {
	case PayloadOutput:
		if !s.ready {
			s.log.Info("an agent older than the handshake")
			s.setReady()
		}
		s.recv.unread.Write(payload)
		s.readable.Signal()
	case PayloadHandshakeRequest:
		s.answerHandshake(payload)
	case PayloadHandshakeComplete:
		var complete HandshakeComplete
		if err := json.Unmarshal(payload, &complete); err != nil {
			s.log.Warn("malformed HandshakeComplete", "error", err)
		}
		s.log.Info("handshake complete", "agent took", time.Duration(complete.HandshakeTimeToComplete))
		if complete.CustomerMessage != "" {
			s.cfg.Notify(NoticeCustomerMessage, complete.CustomerMessage)
		}
		s.setReady()
	default:
		// Whatever else an agent may send is not part of the byte stream.
		s.log.Warn("stream message ignored", "payload type", uint32(t))
	}
}

// setReady lets data in, but not yet out: that waits for the first output,
// which proves that the agent's connection to the port stands. What comes
// earlier the agent refuses, in nearly every session, or, where it comes before
// the agent has noted that the handshake is complete, which it does after it
// has said so, acknowledges and drops. sshd speaks first; a server that does
// not has to wait for a moment.
func (s *Stream) setReady() {
	if !s.greeted {
		s.holdData(time.Now())
	}
	s.ready = true
	s.live.wait(s.send.unacked > 0, time.Now())
	s.changed.Broadcast()
}

func (s *Stream) holdData(now time.Time) {
	s.send.held, s.heldUntil = true, now.Add(firstDataAfter)
}

// answerHandshake pushes the HandshakeResponse. s.mu is held.
func (s *Stream) answerHandshake(payload []byte) {
	if s.answered {
		return
	}
	s.answered = true
	var request HandshakeRequest
	if err := json.Unmarshal(payload, &request); err != nil {
		s.finish(fmt.Errorf("malformed HandshakeRequest: %w", err))
		return
	}
	s.log.Info("handshake requested", "agent", request.AgentVersion)
	response := HandshakeResponse{ClientVersion: ClientVersion, Errors: []string{}}
	for _, action := range request.RequestedClientActions {
		done := ProcessedClientAction{ActionType: action.ActionType, ActionStatus: ActionSuccess}
		if unsuitable := unsupported(action); unsuitable != "" {
			s.unsuitable = unsuitable
			done.ActionStatus, done.Error = ActionUnsupported, unsuitable+" is not supported"
			response.Errors = append(response.Errors, done.Error)
		}
		response.ProcessedClientActions = append(response.ProcessedClientActions, done)
	}
	text, err := json.Marshal(response)
	if err != nil {
		s.finish(fmt.Errorf("encode HandshakeResponse: %w", err))
		return
	}
	now := time.Now()
	s.send.push(PayloadHandshakeResponse, text, now)
	s.live.wait(true, now)
	s.kick()
}

// unsupported names what of an action cannot be done, "" where it can.
func unsupported(action RequestedClientAction) string {
	if action.ActionType != ActionSessionType {
		return action.ActionType
	}
	var request SessionTypeRequest
	if err := json.Unmarshal(action.ActionParameters, &request); err != nil || request.SessionType != "Port" {
		return fmt.Sprintf("session type %.40q", request.SessionType)
	}
	return ""
}

// receiveClosed takes in the service's word that the session is over. s.mu is
// held.
func (s *Stream) receiveClosed(payload []byte) {
	var closed ChannelClosedPayload
	switch err := json.Unmarshal(payload, &closed); {
	case err != nil:
		s.finish(fmt.Errorf("malformed channel_closed: %w", err))
	case closed.Output != "":
		s.finish(&ClosedError{closed.Output})
	case s.recv.missing() > 0:
		s.finish(fmt.Errorf("the session ended with output missing: %d messages came after one that never did: %w",
			s.recv.missing(), io.ErrUnexpectedEOF))
	default:
		s.finish(io.EOF)
	}
}
