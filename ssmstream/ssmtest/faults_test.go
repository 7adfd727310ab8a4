package ssmtest

import (
	"bufio"
	"fmt"
	"io"
	"net"
	"net/http"
	"slices"
	"strings"
	"sync"
	"testing"
	"time"

	"ssmproxy/ssmstream"
)

// inputs picks the client's data messages for faults.
func inputs(c *Crossing) bool {
	return c.Direction == ToAgent && Payload(ssmstream.PayloadOutput)(c)
}

func outputs(c *Crossing) bool {
	return c.Direction == ToClient && Payload(ssmstream.PayloadOutput)(c)
}

func TestLoseToAgent(t *testing.T) {
	t.Parallel()
	s := newServer(t, Config{SSHAddr: listen(t, greet)})
	c := ready(t, s)
	s.SetFaults(Times(1, inputs, Action{Lose: true}))
	lost := input(1, ssmstream.PayloadOutput, []byte("1"))
	c.write(lost)
	c.write(input(2, ssmstream.PayloadOutput, []byte("2")))
	c.awaitAck(2)
	c.write(lost)
	if got := c.awaitBytes(2); got != "12" {
		t.Errorf("echo %q", got)
	}
	if st := s.Stats(); st.FromClient.Lost != 1 || st.HeldEarly != 1 {
		t.Errorf("stats %+v", st)
	}
}

func TestLoseToClientIsSentAgain(t *testing.T) {
	t.Parallel()
	s := newServer(t, Config{SSHAddr: listen(t, greet)})
	s.SetFaults(Times(1, outputs, Action{Lose: true}))
	ready(t, s)
	if st := s.Stats(); st.FromAgent.Lost != 1 || st.Resends < 1 {
		t.Errorf("stats %+v", st)
	}
}

func TestDouble(t *testing.T) {
	t.Parallel()
	s := newServer(t, Config{SSHAddr: listen(t, greet)})
	s.SetFaults(When(inputs, Action{Double: 2}), When(outputs, Action{Double: 1}))
	c := ready(t, s)
	c.send(ssmstream.PayloadOutput, []byte("x"))
	c.awaitAck(1)
	c.send(ssmstream.PayloadOutput, []byte("y"))
	c.awaitAck(2) // which the other copies of the first came before
	if st := s.Stats(); st.DuplicatesIn < 2 || st.FromClient.Doubled < 2 || st.FromAgent.Doubled < 1 {
		t.Errorf("stats %+v", st)
	}
}

func TestHoldBackReorders(t *testing.T) {
	t.Parallel()
	s := newServer(t, Config{SSHAddr: listen(t, greet)})
	c := ready(t, s)
	s.SetFaults(Times(1, inputs, Action{HoldBack: 2}))
	for i := range 4 {
		c.send(ssmstream.PayloadOutput, fmt.Append(nil, i))
	}
	var order []int64
	for range 4 {
		order = append(order, ackedBy(t, c.await(ssmstream.Acknowledge)))
	}
	if want := []int64{2, 3, 1, 4}; !slices.Equal(order, want) {
		t.Errorf("acknowledged in the order %v, want %v", order, want)
	}
	if echo := c.awaitBytes(4); echo != "0123" {
		t.Errorf("echo %q", echo)
	}
}

func TestDelayLetsOthersOvertake(t *testing.T) {
	t.Parallel()
	s := newServer(t, Config{SSHAddr: listen(t, greet)})
	c := ready(t, s)
	s.SetFaults(Times(1, inputs, Action{Delay: 50 * time.Millisecond}))
	began := time.Now()
	c.send(ssmstream.PayloadOutput, []byte("a"))
	c.send(ssmstream.PayloadOutput, []byte("b"))
	if seq := ackedBy(t, c.await(ssmstream.Acknowledge)); seq != 2 {
		t.Errorf("first acknowledged: %d", seq)
	}
	if got := c.awaitBytes(2); got != "ab" {
		t.Errorf("echo %q", got)
	}
	if took := time.Since(began); took < 50*time.Millisecond {
		t.Errorf("took only %v", took)
	}
}

func TestStallKeepsTheOrder(t *testing.T) {
	t.Parallel()
	s := newServer(t, Config{SSHAddr: listen(t, greet)})
	c := ready(t, s)
	s.SetFaults(Times(1, inputs, Action{Stall: 50 * time.Millisecond}))
	began := time.Now()
	c.send(ssmstream.PayloadOutput, []byte("a"))
	c.send(ssmstream.PayloadOutput, []byte("b"))
	if seq := ackedBy(t, c.await(ssmstream.Acknowledge)); seq != 1 {
		t.Errorf("first acknowledged: %d", seq)
	}
	if took := time.Since(began); took < 50*time.Millisecond {
		t.Errorf("took only %v", took)
	}
}

func TestCutBehindAMessage(t *testing.T) {
	t.Parallel()
	for name, test := range map[string]struct {
		match   func(*Crossing) bool
		action  Action
		arrives bool // the message does
	}{
		"to the client":       {outputs, Action{Cut: true}, true},
		"to the client, lost": {outputs, Action{Cut: true, Lose: true}, false},
	} {
		t.Run(name, func(t *testing.T) {
			t.Parallel()
			s := newServer(t, Config{SSHAddr: listen(t, greet)})
			s.SetFaults(Times(1, test.match, test.action))
			c := open(t, s)
			c.send(ssmstream.PayloadHandshakeResponse, responsePayload(ssmstream.ActionSuccess))
			arrived := false
			for {
				m, err := c.receive()
				if err != nil {
					break
				}
				arrived = arrived || m.PayloadType == ssmstream.PayloadOutput && m.Type == ssmstream.OutputStreamData
			}
			if arrived != test.arrives {
				t.Errorf("arrived: %v", arrived)
			}
			if n := s.Stats().Cuts; n != 1 {
				t.Errorf("Cuts %d", n)
			}
		})
	}
	t.Run("to the agent", func(t *testing.T) {
		t.Parallel()
		s := newServer(t, Config{SSHAddr: listen(t, greet)})
		c := ready(t, s)
		before := s.Stats().InputBytes
		s.SetFaults(Times(1, inputs, Action{Cut: true}))
		c.send(ssmstream.PayloadOutput, []byte("arrives"))
		for {
			if _, err := c.receive(); err != nil {
				break
			}
		}
		eventually(t, func() bool { return s.Stats().InputBytes == before+7 })
	})
}

func TestExactMessages(t *testing.T) {
	t.Parallel()
	crossings := func(f Fault, n int) (acted []int) {
		for i := range n {
			d := Direction(i % 2)
			a := f(&Crossing{Direction: d, N: i / 2, Total: i, Message: new(ssmstream.Message)})
			if a.Lose {
				acted = append(acted, i)
			}
		}
		return acted
	}
	lose := Action{Lose: true}
	for name, test := range map[string]struct {
		f    Fault
		want []int
	}{
		"At":      {At(ToClient, 2, lose), []int{5}},
		"AtTotal": {AtTotal(3, lose), []int{3}},
		"Every":   {Every(4, lose), []int{3, 7, 11}},
		"From":    {From(ToAgent, 4, lose), []int{8, 10}},
		"Times":   {Times(2, func(c *Crossing) bool { return c.Direction == ToAgent }, lose), []int{0, 2}},
	} {
		if got := crossings(test.f, 12); !slices.Equal(got, test.want) {
			t.Errorf("%s acted on %v, want %v", name, got, test.want)
		}
	}
}

func TestEveryMessageCountsOnceInTotal(t *testing.T) {
	t.Parallel()
	s := newServer(t, Config{SSHAddr: listen(t, greet)})
	var mu sync.Mutex
	var totals []int
	s.SetFaults(func(c *Crossing) Action {
		mu.Lock()
		defer mu.Unlock()
		totals = append(totals, c.Total)
		return Action{}
	})
	c := ready(t, s)
	for range 20 {
		c.send(ssmstream.PayloadOutput, []byte("x"))
	}
	c.awaitBytes(1)
	s.CloseSessions("")
	c.closedWords()
	s.Close()
	seen := make(map[int]bool)
	for _, n := range totals {
		if seen[n] {
			t.Errorf("two messages are number %d", n)
		}
		seen[n] = true
	}
	for n := range len(seen) {
		if !seen[n] {
			t.Errorf("no message is number %d of %d", n, len(seen))
		}
	}
}

func TestRandomFaultsRepeatFromTheirSeed(t *testing.T) {
	t.Parallel()
	draw := func(seed uint64) (s string) {
		srv := newServer(t, Config{Seed: seed})
		if seed != 0 && srv.Seed() != seed {
			t.Errorf("Seed() %d of %d", srv.Seed(), seed)
		}
		f := srv.Random(ToAgent, 0.3, Action{Lose: true})
		for range 200 {
			if f(&Crossing{Direction: ToAgent}).Lose {
				s += "x"
			} else {
				s += "."
			}
		}
		return s
	}
	first := draw(7)
	if n := strings.Count(first, "x"); n < 30 || n > 90 {
		t.Errorf("%d of 200 at 0.3", n)
	}
	if draw(7) != first {
		t.Error("another run from the same seed differs")
	}
	if draw(0) == first {
		t.Error("a random seed gives the same run")
	}
}

func TestCloseWithWords(t *testing.T) {
	t.Parallel()
	s := newServer(t, Config{SSHAddr: listen(t, greet)})
	words := "the account says no"
	s.SetFaults(Times(1, outputs, Action{Close: &words}))
	c := open(t, s)
	c.handshake()
	if got := c.closedWords(); got != words {
		t.Errorf("closed with %q", got)
	}
	idle(t, s)
}

func TestHandshakeNeverCompletes(t *testing.T) {
	t.Parallel()
	s := newServer(t, Config{SSHAddr: listen(t, greet)})
	s.SetFaults(When(Payload(ssmstream.PayloadHandshakeComplete), Action{Lose: true}))
	c := open(t, s)
	c.awaitPayload(ssmstream.PayloadHandshakeRequest)
	c.send(ssmstream.PayloadHandshakeResponse, responsePayload(ssmstream.ActionSuccess))
	if m := c.await(ssmstream.OutputStreamData); m.PayloadType != ssmstream.PayloadOutput {
		t.Errorf("received payload type %d", m.PayloadType)
	}
}

func TestMuteAgentSaysNothing(t *testing.T) {
	t.Parallel()
	s := newServer(t, Config{MuteAgent: true})
	c := open(t, s)
	seq := c.send(ssmstream.PayloadOutput, []byte("anyone?"))
	c.awaitAck(seq)
	if n := s.Stats().FromAgent.Messages[ssmstream.OutputStreamData]; n != 0 {
		t.Errorf("%d messages", n)
	}
}

func TestRestartingAgentGoesOn(t *testing.T) {
	t.Parallel()
	s := newServer(t, Config{SSHAddr: listen(t, greet)})
	c := ready(t, s)
	settled(t, s)
	s.AgentsAway()
	c.await(ssmstream.PausePublication)
	lost := input(1, ssmstream.PayloadOutput, []byte("again"))
	c.write(lost)
	eventually(t, func() bool { return s.Stats().FromClient.Messages[ssmstream.InputStreamData] == 2 })
	s.AgentsBack()
	c.await(ssmstream.StartPublication)
	c.write(lost)
	if got := c.awaitBytes(5); got != "again" {
		t.Errorf("echo %q", got)
	}
}

func TestVanishedAgentSaysNothingMore(t *testing.T) {
	t.Parallel()
	s := newServer(t, Config{SSHAddr: listen(t, greet)})
	c := ready(t, s)
	s.VanishAgents()
	c.send(ssmstream.PayloadOutput, []byte("anyone?"))
	eventually(t, func() bool { return s.Stats().FromClient.Lost >= 1 })
	if n := len(s.OpenSessions()); n != 1 {
		t.Errorf("%d sessions open", n)
	}
	s.CloseSessions("gone")
	if words := c.closedWords(); words != "gone" {
		t.Errorf("closed with %q", words)
	}
}

func TestRefusedConnections(t *testing.T) {
	t.Parallel()
	s := newServer(t, Config{})
	s.RefuseConnections(2)
	for i := range 3 {
		conn, err := s.DialTLS(t.Context(), "tcp", s.addr())
		if (err == nil) != (i == 2) {
			t.Errorf("dial %d: %v", i, err)
		}
		if conn != nil {
			conn.Close()
		}
	}
	if n := s.Stats().Refused; n != 2 {
		t.Errorf("Refused %d", n)
	}
}

func TestOutageCutsAndRefuses(t *testing.T) {
	t.Parallel()
	s := newServer(t, Config{SSHAddr: listen(t, greet)})
	id, g := s.StartSession(target)
	c := dial(t, s, g)
	c.handshake()
	s.Outage(time.Hour)
	for {
		if _, err := c.receive(); err != nil {
			break
		}
	}
	if _, err := s.Resumer(id).ResumeSession(t.Context()); err == nil || ssmstream.IsPermanent(err) {
		t.Errorf("resume during the outage: %v", err)
	}
	s.Outage(0)
	if _, err := s.Resumer(id).ResumeSession(t.Context()); err != nil {
		t.Errorf("resume after the outage: %v", err)
	}
}

func TestBlackholeSwallowsForGood(t *testing.T) {
	t.Parallel()
	s := newServer(t, Config{SSHAddr: listen(t, greet)})
	id, g := s.StartSession(target)
	c := dial(t, s, g)
	c.handshake()
	c.awaitBytes(len(greeting))
	other, err := s.DialTLS(t.Context(), "tcp", s.addr()) // stands, and moves nothing
	if err != nil {
		t.Fatal(err)
	}
	defer other.Close()
	exchange := func() {
		t.Helper()
		io.WriteString(other, "GET / HTTP/1.1\r\nHost: x\r\n\r\n")
		answer, err := http.ReadResponse(bufio.NewReader(other), nil)
		if err != nil {
			t.Fatal(err)
		}
		io.Copy(io.Discard, answer.Body)
	}
	exchange()
	settled(t, s)
	s.Blackhole(true)
	lost := input(1, ssmstream.PayloadOutput, []byte("swallowed"))
	c.write(lost) // TCP is up
	eventually(t, func() bool { return s.Stats().Swallowed == 1 })
	short, err := (&net.Dialer{Timeout: time.Second}).Dial("tcp", s.addr())
	if err != nil {
		t.Fatalf("no TCP connection in a blackhole: %v", err)
	}
	short.Write([]byte("swallowed as well"))
	eventually(t, func() bool { return s.Stats().Swallowed == 2 })
	short.Close()
	s.Heal()

	g, err = s.Resumer(id).ResumeSession(t.Context())
	if err != nil {
		t.Fatal(err)
	}
	again := dial(t, s, g)
	again.await(ssmstream.StartPublication)
	again.write(lost)
	if got := again.awaitBytes(9); got != "swallowed" {
		t.Errorf("echo %q", got)
	}
	exchange() // it lost nothing
}

func TestBlackholeFromAMessage(t *testing.T) {
	t.Parallel()
	s := newServer(t, Config{SSHAddr: listen(t, greet)})
	c := ready(t, s)
	s.SetFaults(Times(1, inputs, Action{Blackhole: true}))
	c.send(ssmstream.PayloadOutput, []byte("last words"))
	eventually(t, func() bool { return s.Stats().Swallowed == 1 })
	if n := s.Stats().OpenChannels; n != 1 {
		t.Errorf("OpenChannels %d: the connection is not up", n)
	}
}

func TestFailingCallsRecover(t *testing.T) {
	t.Parallel()
	s := newServer(t, Config{})
	id, _ := s.StartSession(target)
	s.FailCalls("ResumeSession", 2, ErrThrottled)
	for i := range 3 {
		_, err := s.Resumer(id).ResumeSession(t.Context())
		if (err == nil) != (i == 2) {
			t.Errorf("call %d: %v", i, err)
		}
	}
	if st := s.Stats(); st.Calls["ResumeSession"] != 3 || st.CallErrors["ThrottlingException"] != 2 {
		t.Errorf("stats %+v", st)
	}
}
