package proxy

import (
	"bytes"
	"context"
	"crypto/rand"
	"errors"
	"fmt"
	"io"
	"net"
	"os"
	"os/exec"
	"os/signal"
	"path/filepath"
	"strings"
	"sync"
	"syscall"
	"testing"
	"time"

	"go.uber.org/goleak"

	"ssmproxy/ssmstream/ssmtest"
)

var scratch string // removed at the end

func TestMain(m *testing.M) {
	var err error
	if scratch, err = os.MkdirTemp("", "ssmproxy"); err != nil {
		fmt.Fprintln(os.Stderr, err)
		os.Exit(1)
	}
	// Where the tests were started with nohup, the product would be, too, and
	// rightly ignore it: what is caught here has its default there.
	signal.Notify(make(chan os.Signal, 1), syscall.SIGHUP)
	goleak.VerifyTestMain(m, goleak.Cleanup(func(code int) {
		os.RemoveAll(scratch)
		os.Exit(code)
	}))
}

// build builds the product once: under -race with the race detector, whose
// reports spoil standard error.
var build = sync.OnceValues(func() (string, error) {
	for _, dir := range []string{"..", ".", "../ssmstream"} {
		os.ReadDir(dir) // so that go test's cache knows what the results depend on
	}
	path := filepath.Join(scratch, "ssmproxy")
	args := []string{"build", "-o", path}
	if raceEnabled {
		args = append(args, "-race")
	}
	out, err := exec.Command("go", append(args, "ssmproxy")...).CombinedOutput()
	if err != nil {
		return "", fmt.Errorf("go build: %w\n%s", err, out)
	}
	return path, nil
})

// product returns the path of the binary.
func product(t *testing.T) string {
	t.Helper()
	path, err := build()
	if err != nil {
		t.Fatal(err)
	}
	return path
}

const (
	instance = "i-0123456789abcdef0"
	patience = time.Minute // for what has to happen at all
)

// process is the real binary with pipes, as ssh starts it.
type process struct {
	*testing.T
	cmd    *exec.Cmd
	stdin  *os.File // our ends of the pipes
	stdout *os.File
	stderr *recorder
	exited chan struct{} // closed after the process's end, and its stderr's
	err    error         // of Wait; to be read after exited
}

// recorder is a buffer that can be waited for.
type recorder struct {
	mu    sync.Mutex
	b     bytes.Buffer
	grown chan struct{}
}

func (r *recorder) Write(p []byte) (int, error) {
	r.mu.Lock()
	defer r.mu.Unlock()
	close(r.grown)
	r.grown = make(chan struct{})
	return r.b.Write(p)
}

func (r *recorder) String() string {
	s, _ := r.snapshot()
	return s
}

func (r *recorder) snapshot() (string, chan struct{}) {
	r.mu.Lock()
	defer r.mu.Unlock()
	return r.b.String(), r.grown
}

// start runs the binary, without a terminal. env is NAME=value, in place of
// every AWS setting and HOME of the test's own environment, and of what leads to
// the person who runs the test.
func start(t *testing.T, env []string, args ...string) *process {
	t.Helper()
	return startCommand(t, env, append([]string{product(t)}, args...)...)
}

func startCommand(t *testing.T, env []string, command ...string) *process {
	t.Helper()
	return startCommandOn(t, stdio{}, env, command...)
}

// stdio is what a command gets in place of the process's own pipes, and the
// terminal that it has.
type stdio struct{ stdin, stderr, terminal *os.File }

// personal tells whether a setting is about the person who runs the test.
func personal(name string) bool {
	switch name {
	case "HOME", "DISPLAY", "WAYLAND_DISPLAY", "SSH_CONNECTION", "SSH_TTY":
		return true
	}
	return strings.HasPrefix(name, "AWS_") || strings.HasPrefix(name, "SSH_ASKPASS") || strings.HasPrefix(name, "XDG_") ||
		strings.HasSuffix(strings.ToUpper(name), "_PROXY")
}

func startCommandOn(t *testing.T, files stdio, env []string, command ...string) *process {
	t.Helper()
	p := &process{T: t, stderr: &recorder{grown: make(chan struct{})}, exited: make(chan struct{})}
	p.cmd = exec.Command(command[0], command[1:]...)
	for _, setting := range os.Environ() {
		name, _, _ := strings.Cut(setting, "=")
		if !personal(name) {
			p.cmd.Env = append(p.cmd.Env, setting)
		}
	}
	// Under the race detector a process sleeps a second before it exits.
	p.cmd.Env = append(p.cmd.Env, "HOME="+t.TempDir(), "AWS_EC2_METADATA_DISABLED=true", "GORACE=atexit_sleep_ms=20")
	p.cmd.Env = append(p.cmd.Env, env...)
	in, stdin := pipe(t)
	stdout, out := pipe(t)
	p.stdin, p.stdout = stdin, stdout
	p.cmd.Stdin, p.cmd.Stdout, p.cmd.Stderr = in, out, p.stderr
	if files.stdin != nil {
		p.cmd.Stdin = files.stdin
	}
	if files.stderr != nil {
		p.cmd.Stderr = files.stderr
	}
	setTerminal(p.cmd, files.terminal)
	if err := p.cmd.Start(); err != nil {
		t.Fatal(err)
	}
	in.Close()
	out.Close()
	go func() {
		p.err = p.cmd.Wait()
		close(p.exited)
	}()
	t.Cleanup(func() {
		p.cmd.Process.Kill()
		<-p.exited
		if t.Failed() {
			t.Logf("standard error of %v:\n%s", command, p.stderr)
		}
	})
	return p
}

func pipe(t *testing.T) (r, w *os.File) {
	t.Helper()
	r, w, err := os.Pipe()
	if err != nil {
		t.Fatal(err)
	}
	t.Cleanup(func() {
		r.Close()
		w.Close()
	})
	return r, w
}

// wait returns the exit status.
func (p *process) wait() int {
	p.Helper()
	select {
	case <-p.exited:
	case <-time.After(patience):
		p.Fatal("ssmproxy does not end")
	}
	var exit *exec.ExitError
	if p.err != nil && !errors.As(p.err, &exit) {
		p.Fatal(p.err)
	}
	return p.cmd.ProcessState.ExitCode()
}

// ends waits for the end, and checks the exit status and that the words are said.
func (p *process) ends(status int, words ...string) {
	p.Helper()
	if got := p.wait(); got != status {
		p.Errorf("exit status %d, want %d", got, status)
	}
	for _, w := range words {
		p.says(w)
	}
}

// endsQuietly waits for the end, checks the exit status, and that nothing is said.
func (p *process) endsQuietly() {
	p.Helper()
	p.ends(0)
	if text := p.stderr.String(); text != "" {
		p.Errorf("on standard error: %q", text)
	}
}

// says waits until standard error has the words.
func (p *process) says(words string) {
	p.Helper()
	deadline := time.After(patience)
	for {
		text, grown := p.stderr.snapshot()
		if strings.Contains(text, words) {
			return
		}
		select {
		case <-grown:
		case <-p.exited:
			if !strings.Contains(p.stderr.String(), words) {
				p.Fatalf("ended without saying %q", words)
			}
			return
		case <-deadline:
			p.Fatalf("does not say %q", words)
		}
	}
}

// expect reads exactly want from standard output.
func (p *process) expect(want []byte) {
	p.Helper()
	p.stdout.SetReadDeadline(time.Now().Add(patience))
	got := make([]byte, len(want))
	n, err := io.ReadFull(p.stdout, got)
	if err != nil {
		p.Fatalf("after %d bytes of standard output: %v", n, err)
	}
	if !bytes.Equal(got, want) {
		p.Fatalf("standard output differs: %.80q, want %.80q", got, want)
	}
}

// expectEnd checks that standard output has nothing more.
func (p *process) expectEnd() {
	p.Helper()
	p.stdout.SetReadDeadline(time.Now().Add(patience))
	if rest, err := io.ReadAll(p.stdout); err != nil || len(rest) > 0 {
		p.Fatalf("standard output goes on: %.80q, %v", rest, err)
	}
}

func (p *process) send(data []byte) {
	p.Helper()
	p.stdin.SetWriteDeadline(time.Now().Add(patience))
	if _, err := p.stdin.Write(data); err != nil {
		p.Fatal(err)
	}
}

// connects waits until the far end has spoken.
func (p *process) connects() {
	p.Helper()
	p.expect([]byte(banner))
}

// echoes sends the words, which have to come back.
func (p *process) echoes(words string) {
	p.Helper()
	p.send([]byte(words))
	p.expect([]byte(words))
}

// works lets the process connect, carry something, and end.
func (p *process) works() {
	p.Helper()
	p.connects()
	p.echoes("all is well")
	p.stdin.Close()
	p.expectEnd()
	p.endsQuietly()
}

const banner = "SSH-2.0-echo\r\n"

// echo stands for sshd: it speaks first, then sends everything back.
type echo struct {
	addr     string
	mu       sync.Mutex
	received bytes.Buffer // of all connections together
	closed   chan struct{}
	hangUp   chan struct{} // closed by a test: end the connections
	mute     bool          // speaks first, then only listens
}

func newEcho(t *testing.T) *echo { return newPeer(t, false) }

// newSink is an echo that only listens. What it is sent arrives even where the
// agent closes the connection at once: no answer of its own makes that a reset.
func newSink(t *testing.T) *echo { return newPeer(t, true) }

func newPeer(t *testing.T, mute bool) *echo {
	t.Helper()
	l := listen(t)
	e := &echo{addr: l.Addr().String(), closed: make(chan struct{}, 100), hangUp: make(chan struct{}), mute: mute}
	serve(t, l, func(c net.Conn) {
		defer func() { e.closed <- struct{}{} }()
		over := make(chan struct{})
		defer close(over)
		go func() {
			select {
			case <-e.hangUp:
				c.Close()
			case <-over:
			}
		}()
		io.WriteString(c, banner)
		buf := make([]byte, 32<<10)
		for {
			n, err := c.Read(buf)
			e.mu.Lock()
			e.received.Write(buf[:n])
			e.mu.Unlock()
			if !e.mute {
				c.Write(buf[:n])
			}
			if err != nil {
				return
			}
		}
	})
	return e
}

func (e *echo) got() []byte {
	e.mu.Lock()
	defer e.mu.Unlock()
	return bytes.Clone(e.received.Bytes())
}

// newService starts ssmtest in front of an echo, unless cfg leads elsewhere.
func newService(t *testing.T, cfg ssmtest.Config) (*ssmtest.Server, *echo) {
	t.Helper()
	e := newEcho(t)
	if cfg.SSHAddr == "" {
		cfg.SSHAddr = e.addr
	}
	s := ssmtest.NewServer(cfg)
	t.Cleanup(s.Close)
	return s, e
}

// idle waits until no session is open, and says how long that may take.
func idle(t *testing.T, s *ssmtest.Server) {
	t.Helper()
	ctx, cancel := context.WithTimeout(t.Context(), patience)
	defer cancel()
	if err := s.WaitIdle(ctx); err != nil {
		t.Error(err)
	}
}

// until waits for what has no event of its own.
func until(t *testing.T, what string, happened func() bool) {
	t.Helper()
	for deadline := time.Now().Add(patience); !happened(); time.Sleep(2 * time.Millisecond) {
		if time.Now().After(deadline) {
			t.Fatalf("never happened: %s", what)
		}
	}
}

func randomBytes(n int) []byte {
	b := make([]byte, n)
	rand.Read(b)
	return b
}
