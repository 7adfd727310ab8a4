package ssmstream

import "time"

// Stats counts what a stream has done, for logs and tests.
type Stats struct {
	Sent       int           // messages given a number, acknowledgements not among them
	Resent     int           // transmissions beyond each message's first
	Received   int           // messages delivered in order
	Duplicates int           // messages that came more than once
	Connects   int           // connections that were opened
	RoundTrip  time.Duration // smoothed; 0 before the first sample on this connection
}

// Stats returns the counts so far. It may be called at any time, also after
// the stream's end.
func (s *Stream) Stats() Stats {
	s.mu.Lock()
	defer s.mu.Unlock()
	return Stats{
		Sent:       int(s.send.next),
		Resent:     s.send.resent,
		Received:   int(s.recv.expected),
		Duplicates: s.recv.duplicates,
		Connects:   s.connects,
		RoundTrip:  s.send.rtt.srtt,
	}
}
