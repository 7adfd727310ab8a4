//go:build unix

package proxy

import (
	"bytes"
	"io"
	"net"
	"syscall"
	"testing"
	"time"

	"github.com/creack/pty"

	"ssmproxy/ssmstream/ssmtest"
)

// connected starts the binary and returns when the far end has spoken.
func connected(t *testing.T, s *ssmtest.Server) *process {
	t.Helper()
	p := start(t, s.Env(), instance)
	p.connects()
	return p
}

// newSession starts a service and connects to it.
func newSession(t *testing.T, cfg ssmtest.Config) (*ssmtest.Server, *process) {
	t.Helper()
	s, _ := newService(t, cfg)
	return s, connected(t, s)
}

// endsInOrder checks that the process ends quietly, and leaves no session open.
func (p *process) endsInOrder(s *ssmtest.Server) {
	p.Helper()
	p.endsQuietly()
	idle(p.T, s)
}

// endedBy checks that one session has ended by the cause.
func endedBy(t *testing.T, s *ssmtest.Server, cause ssmtest.Cause) {
	t.Helper()
	if ended := s.Stats().Ended; ended[cause] != 1 {
		t.Errorf("ended by %v, want one by %s", ended, cause)
	}
}

func TestBytesPassUnchangedBothWays(t *testing.T) {
	t.Parallel()
	s, p := newSession(t, ssmtest.Config{NoPacing: true})
	data := append([]byte("\n\r\n~.\x00\n"), randomBytes(1<<20)...)
	go p.stdin.Write(data)
	p.expect(data)
	p.stdin.Close()
	p.expectEnd()
	p.endsInOrder(s)
}

func TestEndOfInputEndsTheSessionByItsFlag(t *testing.T) {
	t.Parallel()
	s, p := newSession(t, ssmtest.Config{})
	p.stdin.Close()
	p.endsInOrder(s)
	if st := s.Stats(); st.Ended[ssmtest.CauseFlag] != 1 || st.Calls["TerminateSession"] != 0 {
		t.Errorf("ended by %v, TerminateSession called %d times", st.Ended, st.Calls["TerminateSession"])
	}
}

func TestWhatWasReadIsSentBeforeTheEnd(t *testing.T) {
	t.Parallel()
	e := newSink(t)
	s, p := newSession(t, ssmtest.Config{SSHAddr: e.addr, NoPacing: true})
	data := randomBytes(300 << 10)
	p.send(data)
	p.stdin.Close()
	p.endsInOrder(s)
	<-e.closed
	if !bytes.Equal(e.got(), data) {
		t.Errorf("%d bytes arrived, want %d", len(e.got()), len(data))
	}
}

func TestInputThatEndsBeforeTheSessionStandsIsSent(t *testing.T) {
	t.Parallel()
	e := newSink(t)
	s, _ := newService(t, ssmtest.Config{SSHAddr: e.addr})
	p := start(t, s.Env(), instance)
	p.send([]byte("early"))
	p.stdin.Close()
	p.endsInOrder(s)
	<-e.closed
	if string(e.got()) != "early" {
		t.Errorf("got %q", e.got())
	}
}

func TestNoInputAtAllStartsNoConnection(t *testing.T) {
	t.Parallel()
	s, _ := newService(t, ssmtest.Config{MuteAgent: true})
	p := start(t, s.Env(), instance)
	p.stdin.Close()
	p.endsInOrder(s)
}

func TestRemoteEndEndsTheProcess(t *testing.T) {
	t.Parallel()
	s, e := newService(t, ssmtest.Config{})
	p := connected(t, s)
	p.echoes("last words")
	close(e.hangUp)
	p.expectEnd()
	p.endsQuietly()
	if st := s.Stats(); st.Calls["TerminateSession"] != 0 {
		t.Error("TerminateSession called for a session that had ended")
	}
}

func TestSignalsEndInOrder(t *testing.T) {
	t.Parallel()
	for _, sig := range []syscall.Signal{syscall.SIGHUP, syscall.SIGTERM, syscall.SIGINT} {
		t.Run(sig.String(), func(t *testing.T) {
			t.Parallel()
			s, p := newSession(t, ssmtest.Config{})
			p.cmd.Process.Signal(sig)
			p.expectEnd()
			p.endsInOrder(s)
			endedBy(t, s, ssmtest.CauseFlag)
		})
	}
}

func TestSeveralSignalsAreOneEnd(t *testing.T) {
	t.Parallel()
	s, p := newSession(t, ssmtest.Config{})
	for range 20 {
		p.cmd.Process.Signal(syscall.SIGHUP)
		p.cmd.Process.Signal(syscall.SIGTERM)
	}
	p.stdin.Close()
	p.endsInOrder(s)
}

func TestSignalIgnoredAtTheStartStaysIgnored(t *testing.T) {
	t.Parallel()
	s, _ := newService(t, ssmtest.Config{})
	p := startCommand(t, s.Env(), "sh", "-c", `trap "" HUP; exec "$0" "$1"`, product(t), instance)
	p.connects()
	p.cmd.Process.Signal(syscall.SIGHUP)
	p.echoes("still there")
	p.stdin.Close()
	p.endsQuietly()
}

func TestClosedOutputEndsInOrder(t *testing.T) {
	t.Parallel()
	s, p := newSession(t, ssmtest.Config{})
	p.stdout.Close()
	p.send([]byte("for nobody"))
	p.endsInOrder(s)
	endedBy(t, s, ssmtest.CauseFlag)
}

func TestClosedErrorOutputEndsNothing(t *testing.T) {
	t.Parallel()
	s, _ := newService(t, ssmtest.Config{})
	r, w := pipe(t)
	r.Close()
	p := startCommandOn(t, stdio{stderr: w}, s.Env(), product(t), "-v", instance)
	p.connects()
	p.echoes("alive")
	p.stdin.Close()
	p.ends(0)
	idle(t, s)
}

// What SIGKILL of ssh looks like from here.
func TestAllPipesClosedEndsInOrder(t *testing.T) {
	t.Parallel()
	s, p := newSession(t, ssmtest.Config{})
	p.stdin.Close()
	p.stdout.Close()
	p.endsInOrder(s)
}

// flood sends for ever.
func flood(t *testing.T) (addr string) {
	l := listen(t)
	serve(t, l, func(c net.Conn) {
		io.WriteString(c, banner)
		for data := make([]byte, 32<<10); ; {
			if _, err := c.Write(data); err != nil {
				return
			}
		}
	})
	return l.Addr().String()
}

func TestReaderThatIsStuckHoldsNothingUp(t *testing.T) {
	t.Parallel()
	s, p := newSession(t, ssmtest.Config{SSHAddr: flood(t), NoPacing: true})
	var before int64
	until(t, "the output stands still", func() bool {
		now := s.Stats().OutputBytes
		still := now == before && now > 1<<20
		before = now
		if !still {
			time.Sleep(100 * time.Millisecond)
		}
		return still
	})
	begin := time.Now()
	p.cmd.Process.Signal(syscall.SIGTERM)
	p.endsInOrder(s)
	if took := time.Since(begin); took > endTimeout+stuckAfter {
		t.Errorf("the end took %v", took)
	}
}

func TestOutputOnItsWayIsStillWrittenAtTheEnd(t *testing.T) {
	t.Parallel()
	s, p := newSession(t, ssmtest.Config{SSHAddr: flood(t), NoPacing: true})
	until(t, "output is on its way", func() bool { return s.Stats().OutputBytes > 200<<10 })
	p.stdin.Close()
	p.stdout.SetReadDeadline(time.Now().Add(patience))
	rest, err := io.ReadAll(p.stdout)
	if err != nil || len(rest) < 128<<10 {
		t.Errorf("%d bytes after the end of input, %v", len(rest), err)
	}
	p.endsInOrder(s)
}

func TestAgentThatIsGoneIsEndedByTheAPI(t *testing.T) {
	t.Parallel()
	s, p := newSession(t, ssmtest.Config{})
	s.VanishAgents()
	p.stdin.Close()
	p.endsInOrder(s)
	endedBy(t, s, ssmtest.CauseAPI)
}

func TestSessionThatCannotBeEndedIsReported(t *testing.T) {
	t.Parallel()
	s, p := newSession(t, ssmtest.Config{Denied: []string{"ssm:TerminateSession"}})
	s.VanishAgents()
	p.stdin.Close()
	p.ends(1, "ssmproxy: the session could not be ended: access denied: ssm:TerminateSession on arn:aws:ssm:")
}

func TestSignalDuringStartSessionLeavesNoSession(t *testing.T) {
	t.Parallel()
	// The call takes half a second to be answered.
	s, _ := newService(t, ssmtest.Config{Link: ssmtest.Link{RTT: time.Second}})
	p := start(t, s.Env(), instance)
	until(t, "StartSession is called", func() bool { return s.Stats().Sessions == 1 })
	p.cmd.Process.Signal(syscall.SIGTERM)
	p.endsInOrder(s)
	if st := s.Stats(); st.Ended[ssmtest.CauseAPI] != 1 || st.Opened != 0 {
		t.Errorf("ended by %v, %d data channels opened", st.Ended, st.Opened)
	}
}

func TestSignalDuringTheHandshakeLeavesNoSession(t *testing.T) {
	t.Parallel()
	s, _ := newService(t, ssmtest.Config{MuteAgent: true})
	p := start(t, s.Env(), instance)
	until(t, "the data channel is open", func() bool { return s.Stats().Opened == 1 })
	p.cmd.Process.Signal(syscall.SIGTERM)
	p.endsInOrder(s)
}

func TestSignalWhileThrottledEndsAtOnce(t *testing.T) {
	t.Parallel()
	s, _ := newService(t, ssmtest.Config{})
	s.FailCalls("StartSession", -1, ssmtest.ErrThrottled)
	p := start(t, s.Env(), "-v", instance)
	p.says("trying again")
	p.cmd.Process.Signal(syscall.SIGTERM)
	p.ends(0)
}

func TestStartedByHandSaysWhatItIsFor(t *testing.T) {
	t.Parallel()
	terminal, tty, err := pty.Open()
	if err != nil {
		t.Fatal(err)
	}
	defer terminal.Close()
	defer tty.Close()
	p := startCommandOn(t, stdio{stdin: tty}, nil, product(t), "--region", "eu-west-1", instance)
	p.ends(2, "ssmproxy: this is for ssh to start", "Host i-* mi-*\n", "ProxyCommand ssmproxy --region eu-west-1 %h %p\n")
	p.expectEnd()
}
