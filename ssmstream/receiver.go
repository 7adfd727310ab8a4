package ssmstream

import "bytes"

const (
	// maxUnread is how many bytes are kept for a reader that does not read.
	// While it is reached and nothing of ours waits for an acknowledgement,
	// the gateway is not read either: TCP holds it back, and the agent with it.
	maxUnread = 256 << 10

	// maxUnreadBusy is the limit while something of ours does wait, so that
	// its acknowledgement, which comes behind the data, is not held up. What
	// comes on top of it is left to the agent to send again.
	maxUnreadBusy = 2 << 20

	maxEarly      = 4 << 20 // bytes held that came before their turn
	earlyOverhead = 128     // what a held message costs beside its payload
)

// receiver puts the messages of the agent in order. It does no I/O; its owner
// serialises the calls.
type receiver struct {
	expected   int64 // the number that is delivered next
	early      map[int64]earlyMessage
	earlyBytes int
	spare      [][]byte // payload memory of delivered early messages

	unread     bytes.Buffer // output in order that nobody has read
	duplicates int          // for statistics
}

type earlyMessage struct {
	payloadType PayloadType
	payload     []byte
}

// accept takes in one stream message and calls deliver for it and what it lets
// out, in order. It reports whether the message is to be acknowledged: one
// that is here already is, one that there is no room for is not. m.Payload is
// not kept.
func (r *receiver) accept(m *Message, deliver func(PayloadType, []byte)) (acknowledge bool) {
	switch seq := m.SequenceNumber; {
	case seq < r.expected:
		r.duplicates++
		return seq >= 0
	case seq > r.expected:
		return r.hold(m)
	case r.unread.Len()+len(m.Payload) > maxUnreadBusy:
		return false
	}
	r.expected++
	deliver(m.PayloadType, m.Payload)
	for len(r.early) > 0 {
		e, ok := r.early[r.expected]
		if !ok {
			break
		}
		delete(r.early, r.expected)
		r.earlyBytes -= len(e.payload) + earlyOverhead
		r.expected++
		deliver(e.payloadType, e.payload)
		if len(r.spare) < 64 && cap(e.payload) <= 2*MaxPayload {
			r.spare = append(r.spare, e.payload[:0])
		}
	}
	return true
}

func (r *receiver) hold(m *Message) bool {
	if _, ok := r.early[m.SequenceNumber]; ok {
		r.duplicates++
		return true
	}
	size := len(m.Payload) + earlyOverhead
	if r.earlyBytes+size > maxEarly {
		return false
	}
	if r.early == nil {
		r.early = make(map[int64]earlyMessage)
	}
	var memory []byte
	if n := len(r.spare); n > 0 {
		memory, r.spare = r.spare[n-1], r.spare[:n-1]
	}
	r.early[m.SequenceNumber] = earlyMessage{m.PayloadType, append(memory, m.Payload...)}
	r.earlyBytes += size
	return true
}

// missing is how many held messages wait for one that has not come.
func (r *receiver) missing() int { return len(r.early) }
