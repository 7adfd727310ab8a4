package ssmstream

import (
	"slices"
	"testing"
	"time"
)

func TestNoAcknowledgementOwedIsForgottenOverAReconnect(t *testing.T) {
	var recent recentAcks
	ack := func(seq int64) acknowledgement { return acknowledgement{messageType: OutputStreamData, seq: seq} }
	for seq := range int64(4) {
		recent.add(ack(seq), start.Add(time.Duration(seq)*time.Second))
	}
	// 3 is not sent yet; 0 was asked for again, which is no recent matter.
	owed := []acknowledgement{ack(0), ack(3)}
	var got []int64
	for _, a := range recent.with(owed, start.Add(2*time.Second)) {
		got = append(got, a.seq)
	}
	if want := []int64{2, 3, 0}; !slices.Equal(got, want) {
		t.Errorf("owed on the next connection: %v, want %v", got, want)
	}
}

func TestAcknowledgementsBeforeAGapAreRepeatedOnce(t *testing.T) {
	inBubble(t, scripts(handshakeThen(func(p *peer) {
		acknowledged := func(until int64) (all []int64) {
			for {
				m, err := p.next()
				if err != nil {
					return all
				}
				if seq, err := acknowledgedSequence(m.Payload); m.Type == Acknowledge && err == nil {
					all = append(all, seq)
					if seq == until {
						return all
					}
				}
			}
		}
		p.output(2, "a")
		acknowledged(2)
		p.output(4, "c")
		p.told <- acknowledged(4)
		p.output(5, "d")
		p.told <- acknowledged(5)
		p.drain()
	})), func(t *testing.T, s *service) {
		s.dial(t)
		for _, want := range [][]int64{{0, 1, 2, 4}, {5}} {
			if got := (<-s.told).([]int64); !slices.Equal(got, want) {
				t.Errorf("acknowledged %v, want %v", got, want)
			}
		}
	})
}

func TestAcknowledgementsOwedAreBounded(t *testing.T) {
	s := newStream(grant, Config{}, func() {})
	s.live = newLiveness(time.Now())
	for seq := range int64(maxAcks + 2) {
		if seq != maxAcks { // a gap, which has others repeated
			s.receive(new(channel), &Message{Type: OutputStreamData, SequenceNumber: seq, PayloadType: PayloadOutput})
		}
	}
	if len(s.acks) != maxAcks {
		t.Errorf("%d acknowledgements owed, want %d", len(s.acks), maxAcks)
	}
}
