package ssmtest

import (
	"bytes"
	"encoding/hex"
	"encoding/json"
	"net"
	"slices"
	"strconv"
	"time"

	"ssmproxy/ssmstream"
)

// receiver is the state of the agent's one reading goroutine.
type receiver struct {
	expected int64
	early    map[int64][]byte // whole frames that came ahead of their turn
	ack      []byte           // the acknowledgement being built
	ackFrame []byte
	firsts   firsts
}

// read handles what comes from the gateway until the session ends.
func (a *agent) read() {
	a.early = make(map[int64][]byte)
	var batch []byte
	for {
		var ok bool
		if batch, ok = a.in.take(batch); !ok {
			return
		}
		for frame := range frames(batch) {
			a.handle(frame)
		}
	}
}

func (a *agent) handle(frame []byte) {
	var m ssmstream.Message
	err := m.Decode(frame)
	publication := m.Type == ssmstream.StartPublication || m.Type == ssmstream.PausePublication
	if err != nil || m.CreatedDate == 0 && !publication {
		a.sess.srv.count.malformed.Add(1)
		a.sess.srv.log.Warn("agent: malformed frame ignored", "session", a.sess.id, "error", err)
		return
	}
	switch m.Type {
	case ssmstream.InputStreamData:
		a.setPaused(false)
		a.handleInput(&m, frame)
	case ssmstream.Acknowledge:
		a.setPaused(false)
		a.handleAcknowledge(&m)
	case ssmstream.ChannelClosed:
		a.cancel()
	case ssmstream.PausePublication:
		a.setPaused(true)
	case ssmstream.StartPublication:
		a.setPaused(false)
	default:
		a.sess.srv.log.Warn("agent: unknown message type", "type", string(m.Type))
	}
}

// handleInput puts stream messages in order.
func (a *agent) handleInput(m *ssmstream.Message, frame []byte) {
	count := &a.sess.srv.count
	switch {
	case m.SequenceNumber == a.expected:
		if !a.process(m) {
			return // not acknowledged: the client has to send it again
		}
		a.acknowledge(m)
		a.expected++
		a.processEarly()
	case m.SequenceNumber > a.expected:
		if _, held := a.early[m.SequenceNumber]; held {
			count.duplicatesIn.Add(1)
		} else if len(a.early) >= agentEarly {
			count.overflowed.Add(1)
			return
		} else {
			count.heldEarly.Add(1)
			a.early[m.SequenceNumber] = slices.Clone(frame)
		}
		a.acknowledge(m)
	default:
		// Without a word (handleStreamDataMessage in datachannel.go): a client
		// that an acknowledgement did not reach waits for it in vain.
		count.duplicatesIn.Add(1)
		if a.cfg.RepeatsAcks {
			a.acknowledge(m)
		}
	}
}

// processEarly goes on with what was acknowledged when it came.
func (a *agent) processEarly() {
	for len(a.early) > 0 {
		frame, ok := a.early[a.expected]
		if !ok {
			return
		}
		var m ssmstream.Message
		if m.Decode(frame) != nil || !a.process(&m) { // it could be decoded before
			return
		}
		delete(a.early, a.expected)
		a.expected++
	}
}

// process deals with one message in its turn. False says that the agent is not
// ready for it.
func (a *agent) process(m *ssmstream.Message) bool {
	switch m.PayloadType {
	case ssmstream.PayloadHandshakeResponse:
		var answer handshakeAnswer
		answer.err = json.Unmarshal(m.Payload, &answer.response)
		select {
		case a.answered <- answer:
		default: // a second one: nobody waits for it
		}
		return true
	case ssmstream.PayloadEncChallengeResponse:
		return true
	}
	a.mu.Lock()
	complete, port := a.complete, a.port
	a.mu.Unlock()
	if !complete {
		a.sess.srv.count.earlyData.Add(1)
		return true
	}
	if port == nil {
		a.sess.srv.count.firstLost.Add(1)
		a.firsts.noteLost(m.SequenceNumber)
		return false
	}
	a.firsts.noteResent(m.SequenceNumber, a.firstOutput.Load(), &a.sess.srv.count)
	return a.toPort(m, port)
}

func (a *agent) toPort(m *ssmstream.Message, port net.Conn) bool {
	switch m.PayloadType {
	case ssmstream.PayloadOutput:
		if _, err := port.Write(m.Payload); err != nil {
			a.sess.srv.log.Debug("agent: port", "error", err)
			return false
		}
		a.sess.srv.count.inputBytes.Add(int64(len(m.Payload)))
	case ssmstream.PayloadFlag:
		switch flagOf(m.Payload) {
		case ssmstream.FlagDisconnectToPort:
			a.closePort()
		case ssmstream.FlagTerminateSession:
			a.cancel()
		}
	}
	return true
}

// acknowledge sends what encoding/json makes of the agent's struct.
func (a *agent) acknowledge(m *ssmstream.Message) {
	b := append(a.ack[:0], `{"AcknowledgedMessageType":"`...)
	b = append(b, m.Type...)
	b = append(b, `","AcknowledgedMessageId":"`...)
	b = appendUUID(b, m.ID)
	b = append(b, `","AcknowledgedMessageSequenceNumber":`...)
	b = strconv.AppendInt(b, m.SequenceNumber, 10)
	a.ack = append(b, `,"IsSequentialMessage":true}`...)
	ack := ssmstream.Message{
		Type:        ssmstream.Acknowledge,
		CreatedDate: uint64(time.Now().UnixMilli()),
		Flags:       ssmstream.FlagSYN | ssmstream.FlagFIN,
		ID:          ssmstream.NewUUID(),
		Payload:     a.ack,
	}
	a.ackFrame = ack.AppendTo(a.ackFrame[:0])
	a.sess.relay(ToClient, a.ackFrame)
}

// appendUUID appends what String returns, without its allocation.
func appendUUID(b []byte, id ssmstream.UUID) []byte {
	b = append(hex.AppendEncode(b, id[:4]), '-')
	b = append(hex.AppendEncode(b, id[4:6]), '-')
	b = append(hex.AppendEncode(b, id[6:8]), '-')
	b = append(hex.AppendEncode(b, id[8:10]), '-')
	return hex.AppendEncode(b, id[10:])
}

func (a *agent) handleAcknowledge(m *ssmstream.Message) {
	seq, ok := acknowledged(m.Payload)
	if !ok || a.cfg.WindowsAgent && m.Flags != ssmstream.FlagSYN|ssmstream.FlagFIN {
		a.sess.srv.count.badAcks.Add(1)
		return
	}
	a.mu.Lock()
	defer a.mu.Unlock()
	if a.out.acknowledge(seq, time.Now()) && a.out.count == 0 {
		a.changed.Broadcast() // for drain
	}
}

// acknowledged reads the number out of an acknowledgement, without a JSON
// decoder where every known client's form allows it.
func acknowledged(payload []byte) (int64, bool) {
	const (
		name = `","AcknowledgedMessageSequenceNumber":`
		end  = `,"IsSequentialMessage":true}`
	)
	if before, ok := bytes.CutSuffix(payload, []byte(end)); ok && bytes.HasPrefix(payload, []byte(`{"AcknowledgedMessageType":"`)) {
		if i := bytes.LastIndex(before, []byte(name)); i >= 0 {
			n, err := strconv.ParseInt(string(before[i+len(name):]), 10, 64)
			return n, err == nil
		}
	}
	var ack ssmstream.Acknowledgement
	if json.Unmarshal(payload, &ack) != nil {
		return 0, false
	}
	return ack.SequenceNumber, true
}
