package ssmstream

import (
	"fmt"
	"math/rand/v2"
	"testing"
	"time"
)

// agentModel is the agent's way with what it receives, over a path that loses
// some of it. It runs until nothing is left to be done.
type agentModel struct {
	s        *sender
	now      time.Time
	expected int64
	held     map[int64]bool

	arrives      func(m *Message) bool // whether a message gets through; nil: all do
	acknowledged func(seq int64) bool  // whether an acknowledgement does; nil: all do
	came         map[int64]int         // how often each message came
	transmitted  int
}

func newAgentModel() *agentModel {
	a := &agentModel{s: newSender(), now: start, held: map[int64]bool{}, came: map[int64]int{}}
	a.s.taking = true
	return a
}

// receive reports whether the agent acknowledges a message.
func (a *agentModel) receive(seq int64) bool {
	a.came[seq]++
	switch {
	case seq < a.expected:
		return false // handleStreamDataMessage of the agent's datachannel.go
	case seq > a.expected:
		a.held[seq] = true
		return true
	}
	for a.expected++; a.held[a.expected]; a.expected++ {
		delete(a.held, a.expected)
	}
	return true
}

// round is one round trip; false says that nothing was under way.
func (a *agentModel) round(t *testing.T) bool {
	t.Helper()
	var acks []int64
	moved := false
	for frame := a.s.pop(a.now); frame != nil; frame = a.s.pop(a.now) {
		var m Message
		if err := m.Decode(frame); err != nil {
			t.Fatal(err)
		}
		moved = true
		a.transmitted++
		if (a.arrives == nil || a.arrives(&m)) && a.receive(m.SequenceNumber) {
			acks = append(acks, m.SequenceNumber)
		}
	}
	a.now = a.now.Add(10 * time.Millisecond)
	for _, seq := range acks {
		if a.acknowledged == nil || a.acknowledged(seq) {
			a.s.turns.heard = a.now
			a.s.acknowledge(seq, a.now)
		}
	}
	a.s.check(t)
	return moved
}

// wait lets the time pass until a timer is due.
func (a *agentModel) wait(t *testing.T) {
	t.Helper()
	timer, turn := a.s.timerAt, a.s.turns.due
	switch {
	case timer.IsZero() && turn.IsZero():
		t.Fatalf("nothing to do, and no timer: base %d of %d, %d in doubt", a.s.base, a.s.next, len(a.s.doubts.messages))
	case timer.IsZero() || !turn.IsZero() && turn.Before(timer):
		a.now = turn
	default:
		a.now = timer
		a.s.timeout(a.now)
	}
}

// settle goes on until the sender knows that everything has arrived.
func (a *agentModel) settle(t *testing.T) {
	t.Helper()
	for range 10_000 {
		if a.s.arrived(a.s.next - 1) {
			if a.expected != a.s.next {
				t.Fatalf("the sender is content, and the agent waits for message %d of %d", a.expected, a.s.next)
			}
			return
		}
		if !a.round(t) {
			a.wait(t)
		}
	}
	t.Fatalf("not settled: base %d of %d, the agent at %d, %d in doubt", a.s.base, a.s.next, a.expected, len(a.s.doubts.messages))
}

// never returns a filter that stops the first n of the messages that match.
func never(n int, match func(seq int64) bool) func(seq int64) bool {
	return func(seq int64) bool {
		if n > 0 && match(seq) {
			n--
			return false
		}
		return true
	}
}

func TestALostAcknowledgementIsNotWaitedFor(t *testing.T) {
	a := newAgentModel()
	write(a.s, 20, a.now)
	a.acknowledged = never(1, func(seq int64) bool { return seq == 3 })
	a.settle(t)
	if n := a.came[3]; n != doubtAfter {
		t.Errorf("the message went out %d times, want %d", n, doubtAfter)
	}
}

func TestALostAcknowledgementIsNotWaitedForOnAnIdleConnection(t *testing.T) {
	a := newAgentModel()
	write(a.s, 1, a.now)
	a.acknowledged = never(1, func(seq int64) bool { return seq == 0 })
	a.settle(t)
	if n := a.came[0]; n < doubtAfter || n > doubtAfter+1 {
		t.Errorf("the message went out %d times, want %d or one more", n, doubtAfter)
	}
	if took := a.now.Sub(start); took > 2*time.Second {
		t.Errorf("settled after %v", took)
	}
}

func TestAMessageInDoubtThatIsMissingGoesAgain(t *testing.T) {
	a := newAgentModel()
	write(a.s, 20, a.now)
	lost := never(6, func(seq int64) bool { return seq == 3 })
	a.arrives = func(m *Message) bool { return lost(m.SequenceNumber) }
	a.settle(t)
	if n := a.came[3]; n != 1 {
		t.Errorf("the message came %d times, want once", n)
	}
}

func TestAfterAReconnectWhatHasArrivedIsSentOnceMore(t *testing.T) {
	a := newAgentModel()
	a.s.window.size = maxWindow
	a.s.write(make([]byte, 1000*MaxPayload), a.now)
	silent := true
	a.acknowledged = func(int64) bool { return !silent }
	a.round(t) // all of it has arrived, nothing is known
	silent = false
	a.s.reconnected()
	for a.s.base < a.s.next {
		if !a.round(t) {
			t.Fatal("stuck: only a timer would go on")
		}
	}
	for seq := range int64(1000) {
		if n := a.came[seq]; n != 2 {
			t.Fatalf("message %d went out %d times, want twice", seq, n)
		}
	}
	a.settle(t)
}

func TestConnectionsThatCarryFewMessagesStillGetOn(t *testing.T) {
	a := newAgentModel()
	a.s.write(make([]byte, 30*MaxPayload), a.now)
	a.acknowledged = func(int64) bool { return false }
	a.round(t)
	a.acknowledged = nil
	for connections := 0; !a.s.arrived(a.s.next - 1); connections++ {
		if connections == 100 {
			t.Fatalf("base %d of %d after %d connections", a.s.base, a.s.next, connections)
		}
		a.s.reconnected()
		crossed := 0
		a.arrives = func(*Message) bool { crossed++; return crossed <= 8 }
		for a.round(t) && crossed < 8 {
		}
	}
}

func TestNothingIsInDoubtBeforeTheAgentTakesData(t *testing.T) {
	a := newAgentModel()
	a.s.taking = false
	write(a.s, 10, a.now)
	a.arrives = func(m *Message) bool { return m.SequenceNumber > 0 } // the port is not connected yet
	for range takesByNow - 1 {
		for a.round(t) {
		}
		a.now = a.s.timerAt
		a.s.timeout(a.now)
	}
	if a.s.base != 0 || len(a.s.doubts.messages) > 0 || a.s.next != 10 {
		t.Errorf("base %d, %d in doubt, %d probes", a.s.base, len(a.s.doubts.messages), a.s.next-10)
	}
}

func TestALostAcknowledgementIsNotWaitedForWhereThePortNeverSpeaks(t *testing.T) {
	a := newAgentModel()
	a.s.taking = false
	write(a.s, 10, a.now)
	a.acknowledged = never(1, func(seq int64) bool { return seq == 0 })
	a.settle(t)
}

// Whatever gets lost at once, memory is bounded, and all of it is found out.
func TestMoreDoubtsThanAWindowAreResolved(t *testing.T) {
	a := newAgentModel()
	a.s.window.size = maxWindow
	random := rand.New(rand.NewPCG(1, 2))
	a.acknowledged = func(int64) bool { return random.Float64() >= 0.5 }
	most := 0
	for range 2000 {
		a.s.write(make([]byte, 64*MaxPayload), a.now)
		if !a.round(t) {
			a.wait(t)
		}
		most = max(most, len(a.s.doubts.messages))
	}
	a.settle(t)
	if a.s.next < 10_000 {
		t.Errorf("only %d messages got through", a.s.next)
	}
	t.Logf("%d messages in %d transmissions, at most %d in doubt", a.s.next, a.transmitted, most)
}

func TestUntilAMessageIsInDoubtTheOthersFillTheWindow(t *testing.T) {
	s, now := newSender(), start
	s.taking = true
	s.window.size = maxWindow
	for trip := range doubtAfter {
		if s.write(make([]byte, 2*maxWindow), now); s.unacked < maxWindow {
			t.Errorf("%d bytes of frames in round trip %d, want %d", s.unacked, trip+1, maxWindow)
		}
		popped(t, s, now)
		now = now.Add(time.Millisecond)
		for seq := int64(1); seq < s.next; seq++ {
			s.acknowledge(seq, now)
		}
	}
	if s.base == 0 {
		t.Error("the first message is not in doubt")
	}
	s.check(t)
}

func TestALossyPathLosesNothing(t *testing.T) {
	t.Parallel()
	for _, p := range []float64{0.01, 0.05, 0.2} {
		t.Run(fmt.Sprint(p), func(t *testing.T) {
			for seed := range uint64(10) {
				random := rand.New(rand.NewPCG(seed, 0))
				a := newAgentModel()
				a.arrives = func(*Message) bool { return random.Float64() >= p }
				a.acknowledged = func(int64) bool { return random.Float64() >= p }
				for range 300 {
					a.s.write(make([]byte, random.IntN(32*MaxPayload)), a.now)
					a.round(t)
					if random.IntN(50) == 0 {
						a.s.reconnected()
					}
				}
				a.settle(t)
				t.Logf("seed %d: %d messages in %d transmissions", seed, a.s.next, a.transmitted)
			}
		})
	}
}

// A connection that is cut before its acknowledgements come is followed by
// others like it, until one has to carry little enough.
func TestConnectionsThatCarryLittleGetFurther(t *testing.T) {
	a := newAgentModel()
	const carries = 20
	begin := 0
	a.acknowledged = func(int64) bool { return a.transmitted-begin <= carries }
	write(a.s, 60, a.now)
	for range 40 {
		begin = a.transmitted
		a.round(t)
		a.s.reconnected()
	}
	if a.s.base < 60 {
		t.Errorf("%d of 60 messages are known to have arrived, or in doubt", a.s.base)
	}
	a.acknowledged = nil
	a.settle(t)
}
