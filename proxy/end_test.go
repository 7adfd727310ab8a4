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
func connected(t *testing.T, s *ssmtest.Server, args ...string) *process {
	t.Helper()
	p := start(t, s.Env(), append(args, instance)...)
	p.expect([]byte(banner))
	return p
}

func TestBytesPassUnchangedBothWays(t *testing.T) {
	t.Parallel()
	s, _ := newService(t, ssmtest.Config{NoPacing: true})
	p := connected(t, s)
	data := append([]byte("\n\r\n~.\x00\n"), randomBytes(1<<20)...)
	go p.stdin.Write(data)
	p.expect(data)
	p.stdin.Close()
	p.expectEnd()
	p.endsQuietly()
	idle(t, s)
}

func TestEndOfInputEndsTheSessionByItsFlag(t *testing.T) {
	t.Parallel()
	s, _ := newService(t, ssmtest.Config{})
	p := connected(t, s)
	p.stdin.Close()
	p.endsQuietly()
	idle(t, s)
	if st := s.Stats(); st.Ended[ssmtest.CauseFlag] != 1 || st.Calls["TerminateSession"] != 0 {
		t.Errorf("ended by %v, TerminateSession called %d times", st.Ended, st.Calls["TerminateSession"])
	}
}

func TestWhatWasReadIsSentBeforeTheEnd(t *testing.T) {
	t.Parallel()
	e := newSink(t)
	s, _ := newService(t, ssmtest.Config{SSHAddr: e.addr, NoPacing: true})
	p := connected(t, s)
	data := randomBytes(300 << 10)
	p.send(data)
	p.stdin.Close()
	p.endsQuietly()
	idle(t, s)
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
	p.endsQuietly()
	idle(t, s)
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
	p.endsQuietly()
	idle(t, s)
}

func TestRemoteEndEndsTheProcess(t *testing.T) {
	t.Parallel()
	s, e := newService(t, ssmtest.Config{})
	p := connected(t, s)
	p.send([]byte("last words"))
	p.expect([]byte("last words"))
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
			s, _ := newService(t, ssmtest.Config{})
			p := connected(t, s)
			p.cmd.Process.Signal(sig)
			p.expectEnd()
			p.endsQuietly()
			idle(t, s)
			if st := s.Stats(); st.Ended[ssmtest.CauseFlag] != 1 {
				t.Errorf("ended by %v", st.Ended)
			}
		})
	}
}

func TestSeveralSignalsAreOneEnd(t *testing.T) {
	t.Parallel()
	s, _ := newService(t, ssmtest.Config{})
	p := connected(t, s)
	for range 20 {
		p.cmd.Process.Signal(syscall.SIGHUP)
		p.cmd.Process.Signal(syscall.SIGTERM)
	}
	p.stdin.Close()
	p.endsQuietly()
	idle(t, s)
}

func TestSignalIgnoredAtTheStartStaysIgnored(t *testing.T) {
	t.Parallel()
	s, _ := newService(t, ssmtest.Config{})
	path, err := product()
	if err != nil {
		t.Fatal(err)
	}
	p := startCommand(t, s.Env(), "sh", "-c", `trap "" HUP; exec "$0" "$1"`, path, instance)
	p.expect([]byte(banner))
	p.cmd.Process.Signal(syscall.SIGHUP)
	p.send([]byte("still there"))
	p.expect([]byte("still there"))
	p.stdin.Close()
	p.endsQuietly()
}

func TestClosedOutputEndsInOrder(t *testing.T) {
	t.Parallel()
	s, _ := newService(t, ssmtest.Config{})
	p := connected(t, s)
	p.stdout.Close()
	p.send([]byte("for nobody"))
	p.endsQuietly()
	idle(t, s)
	if st := s.Stats(); st.Ended[ssmtest.CauseFlag] != 1 {
		t.Errorf("ended by %v", st.Ended)
	}
}

func TestClosedErrorOutputEndsNothing(t *testing.T) {
	t.Parallel()
	s, _ := newService(t, ssmtest.Config{})
	path, err := product()
	if err != nil {
		t.Fatal(err)
	}
	r, w := pipe(t)
	r.Close()
	p := startCommandOn(t, stdio{stderr: w}, s.Env(), path, "-v", instance)
	p.expect([]byte(banner))
	p.send([]byte("alive"))
	p.expect([]byte("alive"))
	p.stdin.Close()
	if status := p.wait(); status != 0 {
		t.Errorf("exit status %d", status)
	}
	idle(t, s)
}

// What SIGKILL of ssh looks like from here.
func TestAllPipesClosedEndsInOrder(t *testing.T) {
	t.Parallel()
	s, _ := newService(t, ssmtest.Config{})
	p := connected(t, s)
	p.stdin.Close()
	p.stdout.Close()
	p.endsQuietly()
	idle(t, s)
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
	s, _ := newService(t, ssmtest.Config{SSHAddr: flood(t), NoPacing: true})
	p := connected(t, s)
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
	p.endsQuietly()
	idle(t, s)
	if took := time.Since(begin); took > endTimeout+stuckAfter {
		t.Errorf("the end took %v", took)
	}
}

func TestOutputOnItsWayIsStillWrittenAtTheEnd(t *testing.T) {
	t.Parallel()
	s, _ := newService(t, ssmtest.Config{SSHAddr: flood(t), NoPacing: true})
	p := connected(t, s)
	until(t, "output is on its way", func() bool { return s.Stats().OutputBytes > 200<<10 })
	p.stdin.Close()
	p.stdout.SetReadDeadline(time.Now().Add(patience))
	rest, err := io.ReadAll(p.stdout)
	if err != nil || len(rest) < 128<<10 {
		t.Errorf("%d bytes after the end of input, %v", len(rest), err)
	}
	p.endsQuietly()
	idle(t, s)
}

func TestAgentThatIsGoneIsEndedByTheAPI(t *testing.T) {
	t.Parallel()
	s, _ := newService(t, ssmtest.Config{})
	p := connected(t, s)
	s.VanishAgents()
	p.stdin.Close()
	p.endsQuietly()
	idle(t, s)
	if st := s.Stats(); st.Ended[ssmtest.CauseAPI] != 1 {
		t.Errorf("ended by %v", st.Ended)
	}
}

func TestSessionThatCannotBeEndedIsReported(t *testing.T) {
	t.Parallel()
	s, _ := newService(t, ssmtest.Config{Denied: []string{"ssm:TerminateSession"}})
	p := connected(t, s)
	s.VanishAgents()
	p.stdin.Close()
	if status := p.wait(); status != 1 {
		t.Errorf("exit status %d, want 1", status)
	}
	p.says("ssmproxy: the session could not be ended: access denied: ssm:TerminateSession on arn:aws:ssm:")
}

func TestSignalDuringStartSessionLeavesNoSession(t *testing.T) {
	t.Parallel()
	// The call takes half a second to be answered.
	s, _ := newService(t, ssmtest.Config{Link: ssmtest.Link{RTT: time.Second}})
	p := start(t, s.Env(), instance)
	until(t, "StartSession is called", func() bool { return s.Stats().Sessions == 1 })
	p.cmd.Process.Signal(syscall.SIGTERM)
	p.endsQuietly()
	idle(t, s)
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
	p.endsQuietly()
	idle(t, s)
}

func TestSignalWhileThrottledEndsAtOnce(t *testing.T) {
	t.Parallel()
	s, _ := newService(t, ssmtest.Config{})
	s.FailCalls("StartSession", -1, ssmtest.ErrThrottled)
	p := start(t, s.Env(), "-v", instance)
	p.says("trying again")
	p.cmd.Process.Signal(syscall.SIGTERM)
	if status := p.wait(); status != 0 {
		t.Errorf("exit status %d", status)
	}
}

func TestStartedByHandSaysWhatItIsFor(t *testing.T) {
	t.Parallel()
	path, err := product()
	if err != nil {
		t.Fatal(err)
	}
	terminal, tty, err := pty.Open()
	if err != nil {
		t.Fatal(err)
	}
	defer terminal.Close()
	defer tty.Close()
	p := startCommandOn(t, stdio{stdin: tty}, nil, path, "--region", "eu-west-1", instance)
	if status := p.wait(); status != 2 {
		t.Errorf("exit status %d, want 2", status)
	}
	p.expectEnd()
	for _, words := range []string{"ssmproxy: this is for ssh to start", "Host i-* mi-*\n", "ProxyCommand ssmproxy --region eu-west-1 %h %p\n"} {
		p.says(words)
	}
}
