package ssmtest

import "time"

// outgoing is the agent's buffer of output that is not acknowledged yet, and
// its idea of the round trip. It is the agent's mu's to guard.
type outgoing struct {
	next  int64 // number of the next message
	first int64 // number of kept[0]
	kept  []keptMessage
	spare [][]byte // memory of acknowledged ones
	count int      // of kept ones that are not acknowledged

	rtt, variation, timeout time.Duration

	abandoned bool // the end does not wait for acknowledgements any longer
}

type keptMessage struct {
	frame []byte // nil when acknowledged
	sent  time.Time
}

// add keeps a copy of the next message; not, as the agent does, where 100,000
// are kept already.
func (o *outgoing) add(frame []byte, now time.Time) {
	o.next++
	if o.count >= agentOutgoing {
		o.kept = append(o.kept, keptMessage{})
		return
	}
	var memory []byte
	if n := len(o.spare); n > 0 {
		memory, o.spare = o.spare[n-1], o.spare[:n-1]
	}
	o.kept = append(o.kept, keptMessage{append(memory[:0], frame...), now})
	o.count++
}

// acknowledge forgets a message and learns from the time that it took.
func (o *outgoing) acknowledge(seq int64, now time.Time) bool {
	i := seq - o.first
	if i < 0 || i >= int64(len(o.kept)) || o.kept[i].frame == nil {
		return false
	}
	m := &o.kept[i]
	o.learn(now.Sub(m.sent))
	if len(o.spare) < 1000 {
		o.spare = append(o.spare, m.frame)
	}
	m.frame = nil
	o.count--
	gone := 0
	for gone < len(o.kept) && o.kept[gone].frame == nil {
		gone++
	}
	o.first += int64(gone)
	o.kept = o.kept[gone:]
	return true
}

// learn is calculateRetransmissionTimeout of the agent's datachannel.go.
func (o *outgoing) learn(rtt time.Duration) {
	o.variation += ((o.rtt - rtt).Abs() - o.variation) / 4
	o.rtt += (rtt - o.rtt) / 8
	o.timeout = min(o.rtt+max(10*time.Millisecond, 4*o.variation), time.Second)
}

// oldest appends the oldest message to dst where it is due to be sent again.
func (o *outgoing) oldest(dst []byte, now time.Time) ([]byte, bool) {
	if o.count == 0 || len(o.kept) == 0 || o.kept[0].frame == nil || now.Sub(o.kept[0].sent) <= o.timeout {
		return dst, false
	}
	o.kept[0].sent = now
	return append(dst, o.kept[0].frame...), true
}

// firsts measures how soon the client sends again what came before the port
// connection stood. It belongs to read, but for output.
type firsts struct {
	lost   int64 // number of the first message lost that way
	any    bool  // there was one
	resent bool  // it has come again
}

func (f *firsts) noteLost(seq int64) {
	if !f.any {
		f.any, f.lost = true, seq
	}
}

// noteResent is called for every message that reaches the port. firstOutput is
// when the first output left, in ns since 1970, or 0.
func (f *firsts) noteResent(seq, firstOutput int64, count *counters) {
	if !f.any || f.resent || seq != f.lost {
		return
	}
	f.resent = true
	after := time.Duration(-1) // before any output
	if firstOutput != 0 {
		after = time.Duration(time.Now().UnixNano() - firstOutput)
	}
	count.change(func(st *Stats) {
		st.FirstResend = after
		st.FirstResends++
	})
}
