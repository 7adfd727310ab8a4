package ssmstream

import "time"

const (
	// targetDelay is how much waiting our own bytes may add to the path. It
	// stays under LEDBAT's 100 ms (RFC 6817 section 2.4.2), so that a keystroke
	// behind a copy does not feel it.
	targetDelay = 60 * time.Millisecond

	initialWindow = 32 * (MaxPayload + payloadOffset)
	minWindow     = 12 * (MaxPayload + payloadOffset)
	maxWindow     = 1400 * (MaxPayload + payloadOffset) // above the 2 MiB of an SSH channel's own window

	delaySamples = 8  // acknowledgements whose least delay is the current one
	lateRounds   = 16 // rounds at minWindow after which the path itself must have grown longer
)

// window limits the bytes that are written and not acknowledged, by what the
// path carries without a queue: the rule of FAST TCP (Wei, Jin, Low, Hegde:
// "FAST TCP: Motivation, Architecture, Algorithms, Performance", 2006), with
// the delay target of LEDBAT (RFC 6817) in place of a number of packets. Its
// signal is how far the delay of acknowledgements, counted from Write and so
// through every queue, has risen over the least ever seen. A lost message is
// no signal: under us is TCP, and what the gateway loses tells nothing of the
// path.
type window struct {
	size      int           // bytes
	slowStart bool          // doubling, until a queue shows
	base      time.Duration // the least delay, 0 before the first sample

	recent   [delaySamples]time.Duration
	samples  int
	round    int64         // the round ends when this number is acknowledged
	roundMin time.Duration // the least delay of the round, 0 before its first
	late     int           // rounds in a row at minWindow and above the target

	peak, lastPeak int // the most bytes unacknowledged in this round and in the one before
}

// restart forgets the path: the next connection may take another.
func (w *window) restart() {
	*w = window{size: initialWindow, slowStart: true, round: w.round}
}

// shrink is for a timeout: what we knew of the path holds no longer.
func (w *window) shrink() {
	w.size, w.slowStart = minWindow, true
}

// acknowledged takes in that n bytes of message seq were acknowledged after
// delay; delay 0 means that it could not be measured. next is the number that
// the sender gives out next.
func (w *window) acknowledged(n int, delay time.Duration, seq, next int64) {
	if delay > 0 {
		w.sample(delay)
	}
	if w.slowStart && w.size < 3*w.used() {
		// Twice the window each round trip, three times as long as there is no
		// trace of a queue: TCP below us starts slowly enough for both.
		if w.samples >= delaySamples && w.current()-w.base < targetDelay/8 {
			n *= 2
		}
		w.size = min(w.size+n, maxWindow)
	}
	if seq >= w.round && w.roundMin > 0 {
		w.endRound()
		w.round, w.roundMin = next, 0
		w.lastPeak, w.peak = w.peak, 0
	}
}

// fill is told how many bytes are unacknowledged.
func (w *window) fill(unacked int) { w.peak = max(w.peak, unacked) }

// used is how much of the window has lately been put to use. What is not used
// tells nothing of what would fit, so the window grows to a few times that at most
// (RFC 7661's reason).
func (w *window) used() int { return max(w.peak, w.lastPeak) }

func (w *window) sample(delay time.Duration) {
	if w.base == 0 || delay < w.base {
		w.base = delay
	}
	if w.roundMin == 0 || delay < w.roundMin {
		w.roundMin = delay
	}
	w.recent[w.samples%delaySamples] = delay
	w.samples++
	if w.slowStart && w.samples >= delaySamples && w.current()-w.base > targetDelay/2 {
		w.slowStart = false
	}
}

// current is the least of the last few delays: one late acknowledgement is no
// queue.
func (w *window) current() time.Duration {
	least := w.recent[0]
	for _, d := range w.recent[1:] {
		least = min(least, d)
	}
	return least
}

func (w *window) endRound() {
	if w.size == minWindow && w.roundMin-w.base > targetDelay {
		if w.late++; w.late >= lateRounds {
			w.base, w.late = w.roundMin, 0
		}
	} else {
		w.late = 0
	}
	if w.slowStart {
		return
	}
	fit := float64(w.size) * float64(w.base+targetDelay) / float64(w.roundMin)
	next := (w.size + min(int(fit), 2*w.size)) / 2
	if next > w.size && w.used() < w.size*3/4 {
		return
	}
	w.size = min(max(next, minWindow), maxWindow)
}
