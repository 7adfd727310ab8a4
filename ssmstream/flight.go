package ssmstream

import "time"

type slotState uint8

const (
	slotQueued   slotState = iota
	slotWithheld           // its turn has not come
	slotInFlight
)

// slot is one message that is not yet acknowledged.
type slot struct {
	seq     int64
	frame   []byte // encoded
	state   slotState
	written time.Time // when it was admitted, on a brief connection first sent: the delay that the window looks at
	sent    time.Time // when it was last sent
	first   uint64    // order of its first transmission, 0 before it
	last    uint64    // order of its latest one

	overtaken uint8 // how often later transmissions were acknowledged, and it was not

	prev, following *slot // in its flight
}

// flight is the messages that are sent and not thought lost, in the order of
// their latest transmission.
type flight struct {
	oldest, newest *slot
	bytes          int // of their frames
	fresh          int // how many of them were sent only once
}

// add takes in a message that has just been sent.
func (f *flight) add(sl *slot) {
	f.bytes += len(sl.frame)
	if sl.first == sl.last {
		f.fresh++
	}
	sl.prev, sl.following = f.newest, nil
	if f.newest == nil {
		f.oldest = sl
	} else {
		f.newest.following = sl
	}
	f.newest = sl
}

func (f *flight) remove(sl *slot) {
	f.bytes -= len(sl.frame)
	if sl.first == sl.last {
		f.fresh--
	}
	if sl.prev == nil {
		f.oldest = sl.following
	} else {
		sl.prev.following = sl.following
	}
	if sl.following == nil {
		f.newest = sl.prev
	} else {
		sl.following.prev = sl.prev
	}
	sl.prev, sl.following = nil, nil
}
