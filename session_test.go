package main

import (
	"bufio"
	"bytes"
	"errors"
	"fmt"
	"io"
	"net"
	"os"
	"os/exec"
	"path/filepath"
	"regexp"
	"strings"
	"sync"
	"syscall"
	"testing"
	"time"

	"ssmproxy/ssmstream/ssmtest"

	"github.com/creack/pty"
	"golang.org/x/net/proxy"
)

// talker is a running ssh whose remote command is talked with.
type talker struct {
	*exec.Cmd
	in     io.WriteCloser
	out    *bufio.Reader
	stderr bytes.Buffer
}

func talk(t testing.TB, cmd *exec.Cmd) *talker {
	t.Helper()
	k := &talker{Cmd: cmd}
	out, err := cmd.StdoutPipe()
	if err != nil {
		t.Fatal(err)
	}
	k.out = bufio.NewReader(out)
	if k.in, err = cmd.StdinPipe(); err != nil {
		t.Fatal(err)
	}
	cmd.Stderr = &k.stderr
	if err := cmd.Start(); err != nil {
		t.Fatal(err)
	}
	return k
}

// expect reads a line, which has to be the given one.
func (k *talker) expect(want string) error {
	line, err := k.out.ReadString('\n')
	if err != nil || line != want+"\n" {
		k.Process.Kill()
		k.Wait()
		return fmt.Errorf("got %q, %v, want %q; stderr: %s", line, err, want, &k.stderr)
	}
	return nil
}

func TestSOCKSPortCarriesTrafficBesideAShell(t *testing.T) {
	t.Parallel()
	w := build(t, ssmtest.Config{})
	echo, err := net.Listen("tcp", "127.0.0.1:0")
	if err != nil {
		t.Fatal(err)
	}
	var serving sync.WaitGroup
	t.Cleanup(func() { echo.Close(); serving.Wait() })
	serving.Go(func() {
		for {
			c, err := echo.Accept()
			if err != nil {
				return
			}
			serving.Go(func() { io.Copy(c, c); c.Close() })
		}
	})

	// As VS Code does: no terminal, a SOCKS port, a shell that is fed a script.
	// ssh takes no port 0, so it gets one that was free a moment ago.
	ln, err := net.Listen("tcp", "127.0.0.1:0")
	if err != nil {
		t.Fatal(err)
	}
	socks := ln.Addr().String()
	ln.Close()
	k := talk(t, w.command("ssh", "-T", "-D", socks, "-o", "ExitOnForwardFailure=yes", w.dest, "sh"))
	fmt.Fprintln(k.in, "echo ready")
	if err := k.expect("ready"); err != nil {
		t.Fatal(err)
	}
	dialer, err := proxy.SOCKS5("tcp", socks, nil, nil)
	if err != nil {
		t.Fatal(err)
	}
	var conns sync.WaitGroup
	for range 5 {
		conns.Go(func() {
			if err := roundTrip(dialer, echo.Addr().String(), randomBytes(200_000)); err != nil {
				t.Error(err)
			}
		})
	}
	for i := range 20 { // the shell answers meanwhile
		fmt.Fprintf(k.in, "echo %d\n", i)
		if err := k.expect(fmt.Sprint(i)); err != nil {
			t.Fatal(err)
		}
	}
	conns.Wait()
	fmt.Fprintln(k.in, "exit 5")
	var exit *exec.ExitError
	if err := k.Wait(); !errors.As(err, &exit) || exit.ExitCode() != 5 || k.stderr.Len() > 0 {
		t.Errorf("ended with %v, want status 5; stderr: %s", err, &k.stderr)
	}
}

// roundTrip sends data to an echo server and checks what comes back.
func roundTrip(dialer proxy.Dialer, addr string, data []byte) error {
	conn, err := dialer.Dial("tcp", addr)
	if err != nil {
		return err
	}
	defer conn.Close()
	sent := make(chan error, 1)
	go func() {
		_, err := conn.Write(data)
		sent <- err
	}()
	got := make([]byte, len(data))
	_, err = io.ReadFull(conn, got)
	if err := errors.Join(err, <-sent); err != nil {
		return err
	}
	if !bytes.Equal(got, data) {
		return errors.New("what came back differs")
	}
	return nil
}

func TestTenSessionsShareOneConnection(t *testing.T) {
	t.Parallel()
	w := build(t, ssmtest.Config{})
	socket := filepath.Join(w.home, "m")
	master := talk(t, w.command("ssh", "-M", "-S", socket, w.dest, "echo up; cat"))
	if err := master.expect("up"); err != nil {
		t.Fatal(err)
	}
	var sessions sync.WaitGroup
	for range 10 {
		sessions.Go(func() {
			data := randomBytes(60_000)
			cmd := w.command("ssh", "-S", socket, w.dest, "cat")
			cmd.Stdin = bytes.NewReader(data)
			var stdout, stderr bytes.Buffer
			cmd.Stdout, cmd.Stderr = &stdout, &stderr
			if err := cmd.Run(); err != nil || stderr.Len() > 0 || !bytes.Equal(stdout.Bytes(), data) {
				t.Errorf("%v, %d of %d bytes; stderr: %s", err, stdout.Len(), len(data), &stderr)
			}
		})
	}
	sessions.Wait()
	if n := w.service.Stats().Sessions; n != 1 {
		t.Errorf("%d sessions were opened, want 1", n)
	}
	master.in.Close()
	if err := master.Wait(); err != nil || master.stderr.Len() > 0 {
		t.Errorf("the master ended with %v; stderr: %s", err, &master.stderr)
	}
}

func TestTerminalIsResized(t *testing.T) {
	t.Parallel()
	w := build(t, ssmtest.Config{})
	cmd := w.command("ssh", w.dest)
	cmd.Env = append(cmd.Env, "TERM=vt100")
	tty, err := pty.StartWithSize(cmd, &pty.Winsize{Rows: 24, Cols: 80})
	if err != nil {
		t.Fatal(err)
	}
	defer tty.Close()
	defer cmd.Process.Kill() // where the test fails

	// size asks the far end, by a command whose echo does not look like its
	// output.
	sizes := regexp.MustCompile(`size=(\d+ \d+)\r?\n`)
	out := bufio.NewReader(tty)
	size := func() string {
		t.Helper()
		io.WriteString(tty, "echo size=$(stty size)\n")
		for {
			line, err := out.ReadString('\n')
			if m := sizes.FindStringSubmatch(line); m != nil {
				return m[1]
			}
			if err != nil {
				t.Fatalf("%v after %q", err, line)
			}
		}
	}
	if got := size(); got != "24 80" {
		t.Errorf("started with %s, want 24 80", got)
	}
	if err := pty.Setsize(tty, &pty.Winsize{Rows: 50, Cols: 132}); err != nil {
		t.Fatal(err)
	}
	// ssh hears of the change by a signal, which may come after the next key.
	for deadline := time.Now().Add(20 * time.Second); ; {
		got := size()
		if got == "50 132" {
			break
		}
		if time.Now().After(deadline) {
			t.Fatalf("still %s, want 50 132", got)
		}
	}
	io.WriteString(tty, "exit\n")
	io.Copy(io.Discard, out) // ends with ssh
	if err := cmd.Wait(); err != nil {
		t.Error(err)
	}
}

func TestNothingIsLeftOpen(t *testing.T) {
	t.Parallel()
	for name, end := range map[string]func(*talker){
		"after 20 normal ends": func(k *talker) { k.in.Close() },
		"after 20 SIGTERM":     func(k *talker) { k.Process.Signal(syscall.SIGTERM) },
		"after 20 SIGKILL":     func(k *talker) { k.Process.Kill() },
	} {
		t.Run(name, func(t *testing.T) {
			t.Parallel()
			w := build(t, ssmtest.Config{})
			var clients []*talker
			for range 20 {
				clients = append(clients, talk(t, w.command("ssh", w.dest, "echo up; cat")))
			}
			var failed error
			for _, k := range clients {
				failed = errors.Join(failed, k.expect("up"))
			}
			if failed != nil {
				t.Fatal(failed)
			}
			if n := len(w.service.OpenSessions()); n != 20 {
				t.Errorf("%d sessions are open, want 20", n)
			}
			if running, err := w.processes(); err != nil || len(running) != 20 {
				t.Errorf("%d ssmproxy run, want 20; %v", len(running), err)
			}
			for _, k := range clients {
				end(k)
			}
			for _, k := range clients {
				k.Wait() // its status is ssh's affair
			}
			if err := w.idle(); err != nil {
				t.Error(err)
			}
			for _, k := range clients {
				if strings.Contains(k.stderr.String(), "ssmproxy") {
					t.Errorf("stderr: %s", &k.stderr)
				}
			}
		})
	}
}

func TestFirstBytesWaitForThePort(t *testing.T) {
	t.Parallel()
	w := build(t, ssmtest.Config{PortDelay: 50 * time.Millisecond})
	for range 3 {
		run(t, w.command("ssh", w.dest, "true"))
	}
	stats := w.service.Stats()
	if stats.EarlyData != 0 {
		t.Errorf("%d messages were sent before HandshakeComplete", stats.EarlyData)
	}
	if stats.FirstLost != 0 {
		t.Errorf("%d first messages were sent before the port was connected", stats.FirstLost)
	}
}

// What TestUnderFaultsCopiesAreExact does not show: cuts come at any moment, not
// between messages only, each is healed without a word, and by resuming the one
// session.
func TestCopyGoesOnAcrossCuts(t *testing.T) {
	t.Parallel()
	need(t, "scp")
	w := build(t, ssmtest.Config{})
	data := randomBytes(10_000_000)
	local := filepath.Join(w.home, "up")
	if err := os.WriteFile(local, data, 0o600); err != nil {
		t.Fatal(err)
	}
	done := make(chan struct{})
	var cutter sync.WaitGroup
	cutter.Go(func() { // cuts after each megabyte, until the copy is done
		for next := int64(1_000_000); ; next += 1_000_000 {
			for w.service.Stats().InputBytes < next {
				select {
				case <-done:
					return
				case <-time.After(time.Millisecond):
				}
			}
			w.service.CutAll()
		}
	})
	run(t, w.command("scp", local, w.dest+":"+filepath.Join(w.remote, "up")))
	close(done)
	cutter.Wait()
	got, err := os.ReadFile(filepath.Join(w.remote, "up"))
	if err != nil || !bytes.Equal(got, data) {
		t.Errorf("%d of %d bytes arrived, or other ones; %v", len(got), len(data), err)
	}
	if s := w.service.Stats(); s.Cuts < 5 || s.Resumed < 5 || s.Sessions != 1 {
		t.Errorf("%d cuts, %d resumptions, %d sessions; want at least 5, 5, and 1", s.Cuts, s.Resumed, s.Sessions)
	}
}
