package ssmstream

import "time"

const (
	initialRTO = time.Second // RFC 6298 section 2.1

	// minVariation takes the place of RFC 6298's clock granularity G and of its
	// minimum of 1 s (2.3, 2.4), which guards against delayed acknowledgements:
	// this protocol has none. As in Linux it is added to the round trip: a
	// steady path has next to no variation, and a timeout at the round trip
	// itself would fire for nothing.
	minVariation = 200 * time.Millisecond

	// maxRTO is below RFC 6298's 60 s: the path under us is TCP, which keeps
	// the peace; what is probed for is an agent that was away and is back.
	maxRTO = 5 * time.Second
)

// rttEstimator follows RFC 6298: a smoothed round trip, its variation, and a
// timeout that doubles each time it fires until a fresh sample arrives. Its
// owner gives it no sample of a message that was sent twice (Karn's rule).
type rttEstimator struct {
	srtt, rttvar time.Duration
	backoff      uint // timeouts since the last sample
}

func (e *rttEstimator) sample(r time.Duration) {
	if e.srtt == 0 {
		e.srtt, e.rttvar = max(r, 1), r/2
	} else {
		e.rttvar += ((e.srtt - r).Abs() - e.rttvar) / 4
		e.srtt = max(e.srtt+(r-e.srtt)/8, 1)
	}
	e.backoff = 0
}

func (e *rttEstimator) rto() time.Duration {
	rto := initialRTO
	if e.srtt != 0 {
		rto = e.srtt + max(4*e.rttvar, minVariation)
	}
	return min(rto<<min(e.backoff, 16), maxRTO)
}
