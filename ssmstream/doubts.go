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

	// silentRounds duplicates of probes have to go unanswered before a doubt is
	// dismissed: with a tenth of them lost on the way, one dismissal in 10^8 is
	// wrong.
	silentRounds = 8

	maxDoubts = 2048
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
// That is found out with probes, by another habit of the agent. What it holds,
// because an earlier message is missing, it acknowledges each time it comes. So
// a duplicate of a probe goes out when all before it is acknowledged or in
// doubt. If it is acknowledged, something is missing, and the doubts go out
// again; if only later messages are, nothing is. As the duplicate or its
// acknowledgement may be lost, it takes silentRounds of them to tell.
type doubts struct {
	messages map[int64]*doubt
	again    []int64 // numbers of those to be sent again, the lowest first

	probe   probe  // the newest one; number 0: none yet
	asked   probe  // the one whose duplicate is on its way
	askedAt uint64 // the order of that transmission; 0: none is on its way
}

type doubt struct {
	frame  []byte
	last   uint64 // order of its latest transmission
	silent int    // rounds since then in which nothing was missing
}

// probe is a message that is sent for its acknowledgement.
type probe struct {
	seq   int64
	frame []byte
}

// overtaken takes in that later transmissions than sl's latest one are
// acknowledged: it is sent again, or becomes a doubt.
func (s *sender) overtaken(sl *slot) {
	sl.overtaken++
	if sl.overtaken < doubtAfter || !s.taking || len(s.doubts.messages) >= maxDoubts {
		s.lose(sl)
		return
	}
	s.unlink(sl)
	s.flight -= len(sl.frame)
	if s.doubts.messages == nil {
		s.doubts.messages = make(map[int64]*doubt)
	}
	s.doubts.messages[sl.seq] = &doubt{frame: sl.frame, last: sl.last}
	s.window.acknowledged(len(sl.frame), 0, sl.seq, s.next)
	s.free(sl)
}

// addProbe queues a probe, if the ring has room.
func (s *sender) addProbe(now time.Time) bool {
	p := &s.doubts.probe
	if p.seq = max(s.push(PayloadSize, probePayload, now), 0); p.seq == 0 {
		return false
	}
	p.frame = append(p.frame[:0], s.slot(p.seq).frame...)
	return true
}

// popDoubt returns what is to be sent now on account of the doubts, or nil.
func (s *sender) popDoubt(now time.Time) []byte {
	d := &s.doubts
	for len(d.again) > 0 {
		m := d.messages[d.again[0]]
		d.again = d.again[1:]
		if m != nil {
			s.order++
			s.resent++
			m.last = s.order
			return m.frame
		}
	}
	switch {
	case len(d.messages) == 0 || d.askedAt != 0:
		return nil
	case d.probe.seq == 0:
		s.addProbe(now)
		return nil
	case s.base <= d.probe.seq:
		return nil
	}
	s.order++
	s.resent++
	d.asked, d.probe, d.askedAt = d.probe, d.asked, s.order
	s.addProbe(now) // whose acknowledgement ends the round, where nothing else does
	return d.asked.frame
}

// doubtsDue reports whether popDoubt would return anything.
func (s *sender) doubtsDue() bool {
	d := &s.doubts
	return len(d.again) > 0 || len(d.messages) > 0 && d.askedAt == 0 && s.base > d.probe.seq
}

// acknowledge takes in the acknowledgement of a message that is not in the
// ring. It reports whether that was news.
func (d *doubts) acknowledge(seq int64) bool {
	if _, ok := d.messages[seq]; ok {
		delete(d.messages, seq)
		return true
	}
	if d.askedAt == 0 || seq != d.asked.seq {
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
	d.askedAt = 0
	return true
}

// heard takes in the latest transmission that is known to have arrived. Where
// it came after the probe's duplicate, nothing has been missing.
func (d *doubts) heard(latest uint64) {
	if d.askedAt == 0 || latest <= d.askedAt {
		return
	}
	maps.DeleteFunc(d.messages, func(seq int64, m *doubt) bool {
		if seq < d.asked.seq && m.last < d.askedAt {
			m.silent++
		}
		return m.silent >= silentRounds
	})
	d.askedAt = 0
}

// arrived reports whether the agent has all messages up to seq.
func (s *sender) arrived(seq int64) bool { return s.base > seq && len(s.doubts.messages) == 0 }
