package ssmstream

import (
	"bytes"
	"math/rand/v2"
	"testing"
)

func output(seq int64, payload string) *Message {
	return &Message{Type: OutputStreamData, SequenceNumber: seq, PayloadType: PayloadOutput, Payload: []byte(payload)}
}

func (r *receiver) acceptInto(m *Message, got *[]byte) bool {
	return r.accept(m, func(_ PayloadType, p []byte) { *got = append(*got, p...) })
}

func TestReceiverDeliversInOrderWhateverTheOrder(t *testing.T) {
	seed := rand.Uint64()
	random := rand.New(rand.NewPCG(seed, 0))
	var r receiver
	var want, got []byte
	var messages []*Message
	for seq := range int64(500) {
		p := string(rune('a' + seq%26))
		want = append(want, p...)
		messages = append(messages, output(seq, p), output(seq, p))
	}
	random.Shuffle(len(messages), func(i, j int) { messages[i], messages[j] = messages[j], messages[i] })
	for _, m := range messages {
		if !r.acceptInto(m, &got) {
			t.Fatalf("message %d not acknowledged (seed %d)", m.SequenceNumber, seed)
		}
	}
	if !bytes.Equal(got, want) {
		t.Errorf("delivered %q (seed %d)", got, seed)
	}
	if r.duplicates != 500 || r.earlyBytes != 0 || r.missing() != 0 {
		t.Errorf("%d duplicates, %d bytes and %d messages held", r.duplicates, r.earlyBytes, r.missing())
	}
}

func TestReceiverLeavesUnacknowledgedWhatItCannotKeep(t *testing.T) {
	var r receiver
	var got []byte
	kept := 0
	for seq := int64(1); r.acceptInto(output(seq, "x"), &got); seq++ {
		kept++
	}
	if want := maxEarly / (1 + earlyOverhead); kept != want {
		t.Errorf("held %d messages of one byte, want %d", kept, want)
	}
	if !r.acceptInto(output(0, "x"), &got) || len(got) != kept+1 {
		t.Errorf("the missing message let out %d of %d", len(got), kept+1)
	}
	if !r.acceptInto(output(int64(kept)+1, "x"), &got) {
		t.Error("what was dropped is not taken when it is sent again")
	}
}

func TestReceiverKeepsAtMostWhatIsAllowedUnread(t *testing.T) {
	var r receiver
	deliver := func(_ PayloadType, p []byte) { r.unread.Write(p) }
	big := string(make([]byte, 64<<10))
	seq := int64(0)
	for r.accept(output(seq, big), deliver) && seq < 1000 {
		seq++
	}
	if n := r.unread.Len(); n > maxUnreadBusy+maxEarly {
		t.Errorf("%d bytes unread", n)
	}
}

func TestReceiverIgnoresNegativeNumbers(t *testing.T) {
	var r receiver
	var got []byte
	if r.acceptInto(output(-1, "x"), &got) || got != nil {
		t.Error("a negative number was taken")
	}
}
