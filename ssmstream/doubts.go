package ssmstream

import (
	"maps"
	"slices"
	"time"
)

const (
	// doubtAfter is how often a message is overtaken, that is, later
	// transmissions are acknowledged and it is not, before that is put down to
	// its acknowledgement.
	doubtAfter = 3

	// silentRounds duplicates have to go unanswered before a doubt is
	// dismissed: with a tenth of them lost on the way, one dismissal in 10^8 is
	// wrong.
	silentRounds = 8

	// maxDoubts is how many there are before no more data is taken in. What is
	// in the ring then may come on top of them.
	maxDoubts = 1536
)

// probePayload is what a probe says: the size of a terminal, which a session of
// type Port has none of. Its agent acknowledges it and does no more
// (HandleStreamMessage in amazon-ssm-agent's port_basic.go).
var probePayload = []byte(`{"cols":80,"rows":24}`)

// doubts are the messages that went out several times, were overtaken each
// time, and are not acknowledged. Most of them have arrived. The agent
// acknowledges a message when it takes it, and drops a duplicate of what it has
// processed without a word (handleStreamDataMessage in its datachannel.go): an
// acknowledgement that gets lost never comes again. They no longer hold up
// the window, but are kept until it is known that none is missing.
//
// Another habit of the agent tells. What it holds, because an earlier message is
// missing, it acknowledges each time it comes. So one message that it has
// acknowledged, the witness, goes out a second time, once all before it is
// acknowledged or in doubt. If it is acknowledged again, something is missing,
// and the doubts are sent again; if only later messages are, nothing is. As the
// duplicate or its acknowledgement may be lost, it takes silentRounds to tell.
type doubts struct {
	messages map[int64]*doubt
	again    []int64 // numbers of those to be sent again, the lowest first

	witness []byte // its frame; nil: there is none
	number  int64  // the witness's
	askedAt uint64 // the order of its second transmission; 0: that is to come
}

type doubt struct {
	frame  []byte
	last   uint64 // order of its latest transmission
	silent int    // rounds since then in which nothing was missing
}

// overtaken takes in that later transmissions than sl's latest one are
// acknowledged: it is sent again, or becomes a doubt.
func (s *sender) overtaken(sl *slot) {
	sl.overtaken++
	if sl.overtaken < doubtAfter || !s.taking || s.turns.keepsFromAgent(sl) {
		s.lose(sl)
		return
	}
	s.flight.remove(sl)
	if s.doubts.messages == nil {
		s.doubts.messages = make(map[int64]*doubt)
	}
	s.doubts.messages[sl.seq] = &doubt{frame: sl.frame, last: sl.last}
	s.window.acknowledged(len(sl.frame), 0, sl.seq, s.next)
	s.free(sl)
	sl.frame = nil
}

// addProbe queues a message that is sent for its acknowledgement alone, if the
// ring has room.
func (s *sender) addProbe(now time.Time) bool {
	seq := s.push(PayloadSize, probePayload, now)
	s.probe = max(s.probe, seq)
	return seq >= 0
}

// popDoubt returns what is to be sent now on account of the doubts, or nil. On
// trial that is nothing: the agent may answer a duplicate with silence, and a
// trial needs an answer.
func (s *sender) popDoubt(now time.Time) []byte {
	d := &s.doubts
	for s.trial == 0 && len(d.again) > 0 {
		m := d.messages[d.again[0]]
		d.again = d.again[1:]
		if m != nil {
			s.order++
			s.resent++
			m.last = s.order
			return m.frame
		}
	}
	if s.trial == 0 && s.witnessDue() {
		s.order++
		s.resent++
		d.askedAt = s.order
		return d.witness
	}
	if len(d.messages) > 0 && s.unacked == 0 {
		s.addProbe(now) // which ends a trial, becomes the witness, or ends its round
	}
	return nil
}

func (s *sender) witnessDue() bool {
	d := &s.doubts
	return len(d.messages) > 0 && d.witness != nil && d.askedAt == 0 && s.base > d.number
}

// doubtsDue reports whether popDoubt has anything to do.
func (s *sender) doubtsDue() bool {
	return len(s.doubts.again) > 0 || s.witnessDue() || len(s.doubts.messages) > 0 && s.unacked == 0
}

// arrived reports whether the agent has all messages up to seq.
func (s *sender) arrived(seq int64) bool { return s.base > seq && len(s.doubts.messages) == 0 }

// keepWitness takes the frame of a message that has just been acknowledged, if
// one is wanted.
func (d *doubts) keepWitness(seq int64, frame []byte) bool {
	if len(d.messages) == 0 || d.witness != nil {
		return false
	}
	d.witness, d.number = frame, seq
	return true
}

// acknowledge takes in the acknowledgement of a message that is not in the
// ring. It reports whether that was news.
func (d *doubts) acknowledge(seq int64) bool {
	if _, ok := d.messages[seq]; ok {
		delete(d.messages, seq)
		return true
	}
	if d.askedAt == 0 || seq != d.number {
		return false
	}
	for n, m := range d.messages {
		if n < seq && m.last < d.askedAt {
			m.silent = 0
			d.again = append(d.again, n)
		}
	}
	slices.Sort(d.again)
	d.again = slices.Compact(d.again)
	d.witness, d.askedAt = nil, 0
	return true
}

// heard takes in the latest transmission that is known to have arrived. Where
// it came after the witness's second one, nothing has been missing.
func (d *doubts) heard(latest uint64) {
	if d.askedAt == 0 || latest <= d.askedAt {
		return
	}
	maps.DeleteFunc(d.messages, func(seq int64, m *doubt) bool {
		if seq < d.number && m.last < d.askedAt {
			m.silent++
		}
		return m.silent >= silentRounds
	})
	d.witness, d.askedAt = nil, 0
}
