package ssmstream

import (
	"slices"
	"testing"
	"time"
)

// newCutSender returns a sender whose connection has just been replaced, after
// it carried so many messages with a round trip of rtt.
func newCutSender(t *testing.T, carried int, rtt time.Duration) (*sender, time.Time) {
	t.Helper()
	s, now := newSender(), start
	s.taking = true
	s.window.size = maxWindow
	write(s, carried, now)
	popped(t, s, now)
	now = now.Add(rtt)
	acknowledgeUpTo(s, s.next, now)
	s.reconnected()
	return s, now.Add(time.Second)
}

// acknowledgeUpTo acknowledges what is not yet, up to message end.
func acknowledgeUpTo(s *sender, end int64, now time.Time) {
	for seq := s.base; seq < end; seq++ {
		s.acknowledge(seq, now)
	}
	s.turns.heard = now
}

// numbers returns those from first to end, end not among them.
func numbers(first, end int64) []int64 {
	var all []int64
	for n := first; n < end; n++ {
		all = append(all, n)
	}
	return all
}

func TestAfterABriefConnectionTheFirstMessageGoesLast(t *testing.T) {
	s, now := newCutSender(t, 300, time.Millisecond)
	first := s.next
	write(s, 20, now)
	if got, want := popped(t, s, now), numbers(first+1, s.next); !slices.Equal(got, want) {
		t.Fatalf("sent %v, want %v", got, want)
	}
	acknowledgeUpTo(s, s.next-1, now)
	if got := popped(t, s, now); got != nil {
		t.Fatalf("sent %v while a message was unacknowledged", got)
	}
	acknowledgeUpTo(s, s.next, now)
	if got, want := popped(t, s, now), []int64{first}; !slices.Equal(got, want) {
		t.Errorf("sent %v, want %v", got, want)
	}
	s.check(t)
}

func TestOverAnotherCutTheFirstMessageStillGoesLast(t *testing.T) {
	s, now := newCutSender(t, 300, time.Millisecond)
	first := s.next
	write(s, 60, now)
	popped(t, s, now)
	acknowledgeUpTo(s, s.next-10, now.Add(time.Millisecond))
	s.reconnected()
	want := numbers(s.next-10, s.next+1) // a probe behind them
	if got := popped(t, s, now); !slices.Equal(got, want) {
		t.Fatalf("sent %v, want %v", got, want)
	}
	acknowledgeUpTo(s, s.next, now)
	if got, want := popped(t, s, now), []int64{first}; !slices.Equal(got, want) {
		t.Errorf("sent %v, want %v", got, want)
	}
}

func TestTheNextRoundWaitsUntilTheServerHasAnswered(t *testing.T) {
	s, now := newCutSender(t, 300, time.Millisecond)
	write(s, 40, now)
	for range 2 { // the others, the first one
		popped(t, s, now)
		acknowledgeUpTo(s, s.next, now)
	}
	first := s.next
	write(s, 20, now)
	now = now.Add(answered / 2)
	s.turns.heard = now // an answer
	if got := popped(t, s, now); got != nil || !s.turns.due.Equal(now.Add(answered)) {
		t.Fatalf("sent %v, to look again after %v, want %v", got, s.turns.due.Sub(now), answered)
	}
	now = now.Add(answered)
	if got, want := popped(t, s, now), numbers(first+1, s.next); !slices.Equal(got, want) {
		t.Errorf("sent %v, want %v", got, want)
	}
}

// checkQuiet has a round of 40 end and so many messages wait: they go once the
// server has said nothing for quiet.
func checkQuiet(t *testing.T, waiting int, quiet time.Duration) {
	t.Helper()
	s, now := newCutSender(t, 300, time.Millisecond)
	write(s, 40, now)
	for range 2 {
		popped(t, s, now)
		acknowledgeUpTo(s, s.next, now)
	}
	first := s.next
	write(s, waiting, now)
	now = now.Add(quiet)
	if got := popped(t, s, now.Add(-1)); got != nil {
		t.Fatalf("sent %v", got)
	}
	if got, want := popped(t, s, now), numbers(first+1, s.next); !slices.Equal(got, want) {
		t.Errorf("sent %v, want %v", got, want)
	}
}

func TestWhereAsMuchWaitsAsEverTheServerHasSoonAnswered(t *testing.T) {
	checkQuiet(t, 40, fullyAnswered)
}

func TestWhereLittleWaitsTheServerMayHaveStoppedInItsTurn(t *testing.T) {
	checkQuiet(t, 10, hardlyAnswered)
}

// cutInARound returns a sender that has had a round of 40, and whose connection
// is cut in the next one of 50, when so many are sent and the newest two of them
// not acknowledged. The first message of the round is withheld.
func cutInARound(t *testing.T, sent int) (s *sender, withheld int64, now time.Time) {
	t.Helper()
	s, now = newCutSender(t, 300, time.Millisecond)
	write(s, 40, now)
	for range 2 {
		popped(t, s, now)
		acknowledgeUpTo(s, s.next, now)
	}
	withheld = s.next
	write(s, 50, now)
	now = now.Add(answered)
	for seq := withheld + 1; seq < withheld+int64(sent); seq++ {
		s.pop(now)
	}
	acknowledgeUpTo(s, withheld+int64(sent)-2, now.Add(time.Millisecond))
	s.reconnected()
	return s, withheld, now
}

func TestARoundThatIsNearlySentEndsWhereAConnectionBegins(t *testing.T) {
	s, withheld, now := cutInARound(t, 36)
	again := numbers(withheld+34, withheld+36)
	if got, want := popped(t, s, now), append(again, s.next-1); !slices.Equal(got, want) { // a probe behind them
		t.Fatalf("sent %v, want %v", got, want)
	}
	acknowledgeUpTo(s, withheld+36, now)
	s.acknowledge(s.next-1, now)
	if got, want := popped(t, s, now), []int64{withheld}; !slices.Equal(got, want) {
		t.Errorf("sent %v, want %v", got, want)
	}
	s.check(t)
}

func TestARoundThatIsHalfSentGoesOnWhereAConnectionBegins(t *testing.T) {
	s, withheld, now := cutInARound(t, 20)
	if got, want := popped(t, s, now)[:3], numbers(withheld+18, withheld+21); !slices.Equal(got, want) {
		t.Errorf("sent %v at first, want %v", got, want)
	}
}

func TestOnABriefConnectionMoreIsTakenInThanMayBeSent(t *testing.T) {
	s, now := newCutSender(t, 300, time.Millisecond)
	s.write(make([]byte, 2*maxWindow), now)
	if s.unacked < maxWindow {
		t.Errorf("%d bytes of frames taken, want %d", s.unacked, maxWindow)
	}
	popped(t, s, now)
	if s.flight.bytes > 2*initialWindow {
		t.Errorf("%d bytes in flight, want %d at most", s.flight.bytes, 2*initialWindow)
	}
	s.check(t)
}

func TestWhatWaitsOnABriefConnectionTellsNothingOfThePath(t *testing.T) {
	s, now := newCutSender(t, 300, time.Millisecond)
	s.write(make([]byte, 900*MaxPayload), now)
	for s.queued > 0 {
		now = now.Add(10 * targetDelay)
		popped(t, s, now)
		acknowledgeUpTo(s, s.cursor, now.Add(time.Millisecond))
	}
	if !s.window.slowStart || s.window.base != time.Millisecond {
		t.Errorf("the window saw a queue: slow start %v, least delay %v", s.window.slowStart, s.window.base)
	}
}

func TestAServerThatNeverPausesIsNotWaitedForLong(t *testing.T) {
	s, now := newCutSender(t, 300, time.Millisecond)
	write(s, 20, now)
	for range 2 {
		popped(t, s, now)
		acknowledgeUpTo(s, s.next, now)
	}
	write(s, 20, now)
	end := now.Add(longestTurn)
	for now.Before(end) {
		if got := popped(t, s, now); got != nil {
			t.Fatalf("sent %v", got)
		}
		now = now.Add(time.Millisecond)
		s.turns.heard = now
	}
	if popped(t, s, now) == nil {
		t.Error("sent nothing after the longest turn")
	}
}

func TestAnAgentThatDoesNotAcknowledgeGetsTheFirstMessageInTheEnd(t *testing.T) {
	s, now := newCutSender(t, 300, time.Millisecond)
	first := s.next
	write(s, 20, now)
	popped(t, s, now)
	if got := popped(t, s, now.Add(longestTurn-1)); got != nil {
		t.Fatalf("sent %v", got)
	}
	if got, want := popped(t, s, now.Add(longestTurn)), []int64{first}; !slices.Equal(got, want) {
		t.Errorf("sent %v, want %v", got, want)
	}
}

func TestAKeystrokeTakesNoTurn(t *testing.T) {
	s, now := newCutSender(t, 300, time.Millisecond)
	for range 3 {
		first := s.next
		write(s, fewMessages-1, now)
		if got, want := popped(t, s, now), numbers(first, s.next); !slices.Equal(got, want) {
			t.Fatalf("sent %v, want %v", got, want)
		}
		acknowledgeUpTo(s, s.next, now)
	}
}

func TestTurnsAreTakenWhereTheyPayOnly(t *testing.T) {
	tests := []struct {
		name    string
		carried int
		rtt     time.Duration
		turns   bool
	}{
		{"brief and short", 300, time.Millisecond, true},
		{"a connection that carried much", briefConnection, time.Millisecond, false},
		{"a long path", 300, shortTrip, false},
	}
	for _, test := range tests {
		t.Run(test.name, func(t *testing.T) {
			s, now := newCutSender(t, test.carried, test.rtt)
			first := s.next
			write(s, 20, now)
			if got := popped(t, s, now)[0] != first; got != test.turns {
				t.Errorf("turns %v, want %v", got, test.turns)
			}
		})
	}
}

func TestTurnsEndWithAConnectionThatLasts(t *testing.T) {
	s, now := newCutSender(t, 300, time.Millisecond)
	begin := s.next
	for s.next < begin+briefConnection+100 {
		write(s, 20, now)
		for range 2 {
			popped(t, s, now)
			acknowledgeUpTo(s, s.next, now)
		}
		now = now.Add(answered)
	}
	first := s.next
	write(s, 20, now)
	if got, want := popped(t, s, now), numbers(first, s.next); !slices.Equal(got, want) {
		t.Errorf("sent %v, want %v", got, want)
	}
}

func TestAnAcknowledgementLostInOurTurnIsAskedForAgain(t *testing.T) {
	a := newAgentModel()
	a.s, a.now = newCutSender(t, 300, time.Millisecond)
	a.expected = a.s.next
	write(a.s, 20, a.now)
	lost := a.s.next - 10
	a.acknowledged = never(3*doubtAfter, func(seq int64) bool { return seq == lost })
	for a.s.base < a.s.next {
		if !a.round(t) {
			a.wait(t)
		}
		if len(a.s.doubts.messages) > 0 {
			t.Fatal("in doubt, though the agent would acknowledge it again")
		}
	}
	if a.expected != a.s.next {
		t.Errorf("the agent waits for message %d of %d", a.expected, a.s.next)
	}
}
