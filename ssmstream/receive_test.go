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
