//go:build unix

package proxy

import (
	"bytes"
	"context"
	"errors"
	"fmt"
	"io"
	"log/slog"
	"slices"
	"syscall"
	"testing"
	"testing/synctest"
	"time"

	"github.com/aws/aws-sdk-go-v2/service/ssm/types"
	"github.com/creack/pty"

	"ssmproxy/ssmstream/ssmtest"
)

func newWaiter(limit time.Duration, w io.Writer) *waiter {
	return &waiter{limit: limit, what: "web", ui: &ui{w: w}, log: slog.New(slog.DiscardHandler)}
}

// absences calls until there were as many, and tells when, in seconds.
func absences(t *testing.T, w *waiter, ctx context.Context, n int) (at []float64, err error) {
	t.Helper()
	begin := time.Now()
	err = w.await(ctx, func(context.Context) error {
		at = append(at, time.Since(begin).Seconds())
		if len(at) <= n {
			return fmt.Errorf("start session: %w", &types.TargetNotConnected{})
		}
		return nil
	})
	return at, err
}

func TestWaitPollsEveryOneToFiveSeconds(t *testing.T) {
	t.Parallel()
	synctest.Test(t, func(t *testing.T) {
		w := newWaiter(time.Minute, io.Discard)
		defer w.end()
		at, err := absences(t, w, t.Context(), 7)
		if want := []float64{0, 1, 2.5, 4.75, 8.125, 13.125, 18.125, 23.125}; err != nil || !slices.Equal(at, want) {
			t.Errorf("at %v, %v, want %v", at, err, want)
		}
	})
}

func TestWaitEndsAtItsLimitWithTheLastError(t *testing.T) {
	t.Parallel()
	synctest.Test(t, func(t *testing.T) {
		w := newWaiter(3*time.Second, io.Discard)
		defer w.end()
		at, err := absences(t, w, t.Context(), 100)
		if want := []float64{0, 1, 2.5, 3}; !isAbsent(err) || !slices.Equal(at, want) {
			t.Errorf("at %v, %v, want %v", at, err, want)
		}
		// Nor does another call wait.
		if at, err := absences(t, w, t.Context(), 100); !isAbsent(err) || len(at) != 1 {
			t.Errorf("then at %v, %v", at, err)
		}
	})
}

func TestWaitEndsWithItsContext(t *testing.T) {
	t.Parallel()
	synctest.Test(t, func(t *testing.T) {
		ctx, cancel := context.WithTimeout(t.Context(), 1500*time.Millisecond)
		defer cancel()
		w := newWaiter(time.Minute, io.Discard)
		defer w.end()
		begin := time.Now()
		if at, err := absences(t, w, ctx, 100); !isAbsent(err) || len(at) != 2 {
			t.Errorf("at %v, %v", at, err)
		}
		if d := time.Since(begin); d != 1500*time.Millisecond {
			t.Errorf("ended after %v", d)
		}
	})
}

func TestOnlyAbsenceIsWaitedFor(t *testing.T) {
	t.Parallel()
	var said bytes.Buffer
	w := newWaiter(time.Minute, &said)
	calls := 0
	err := w.await(t.Context(), func(context.Context) error {
		calls++
		return io.ErrUnexpectedEOF
	})
	if calls != 1 || !errors.Is(err, io.ErrUnexpectedEOF) || said.Len() > 0 {
		t.Errorf("%d calls, %v, %q", calls, err, &said)
	}
}

func TestWaitingSaysSoOnceWhereThereIsNoTerminal(t *testing.T) {
	t.Parallel()
	synctest.Test(t, func(t *testing.T) {
		var said bytes.Buffer
		w := newWaiter(2*time.Minute, &said)
		absences(t, w, t.Context(), 5)
		absences(t, w, t.Context(), 5)
		w.end()
		if want := "ssmproxy: waiting up to 2m for web\n"; said.String() != want {
			t.Errorf("got %q, want %q", &said, want)
		}
	})
}

func TestWaitingCountsOnATerminal(t *testing.T) {
	t.Parallel()
	synctest.Test(t, func(t *testing.T) {
		var said bytes.Buffer
		u := &ui{w: &said, terminal: true}
		stop := u.countUp("a name that is much too long for one line", 2*time.Minute)
		time.Sleep(1500 * time.Millisecond)
		u.line("something else")
		stop()
		const zero = "ssmproxy: waiting for a name that is much too long for one li…: 0s of 2m"
		const one = "ssmproxy: waiting for a name that is much too long for one li…: 1s of 2m"
		wipe := blank(zero)
		if want := zero + wipe + one + wipe + "ssmproxy: something else\n" + one + wipe; said.String() != want {
			t.Errorf("got\n%q, want\n%q", &said, want)
		}
	})
}

func TestDurationsAsPeopleWriteThem(t *testing.T) {
	t.Parallel()
	for d, want := range map[time.Duration]string{
		0: "0s", 90 * time.Second: "1m30s", 2 * time.Minute: "2m", time.Hour: "1h", time.Hour + time.Second: "1h0m1s",
		10 * time.Minute: "10m", 10 * time.Second: "10s", 100 * time.Millisecond: "100ms",
	} {
		if got := duration(d); got != want {
			t.Errorf("got %s, want %s", got, want)
		}
	}
}

// asleep is a service whose only node is not online.
func asleep(t *testing.T) *ssmtest.Server {
	s, _ := newService(t, ssmtest.Config{Nodes: []ssmtest.Node{{InstanceID: instance, PingStatus: "Inactive"}}})
	return s
}

func TestWaitingLineGoesAwayOnATerminal(t *testing.T) {
	t.Parallel()
	s := asleep(t)
	terminal, tty, err := pty.Open()
	if err != nil {
		t.Fatal(err)
	}
	defer terminal.Close()
	p := startCommandOn(t, stdio{stderr: tty}, s.Env(), product(t), "--wait", "1m", instance)
	tty.Close()
	shown := &recorder{grown: make(chan struct{})}
	read := make(chan struct{})
	go func() { // ends with the process
		defer close(read)
		io.Copy(shown, terminal)
	}()
	p.stderr = shown
	line := "\rssmproxy: waiting for " + instance + " to come online: 1s of 1m"
	p.says(line)
	s.SetNodes(ssmtest.Node{InstanceID: instance})
	p.connects()
	p.stdin.Close()
	if status := p.wait(); status != 0 {
		t.Errorf("exit status %d", status)
	}
	<-read
	if text := shown.String(); !bytes.HasSuffix([]byte(text), []byte(blank(line[1:]))) || bytes.ContainsRune([]byte(text), '\n') {
		t.Errorf("on the terminal: %q", text)
	}
	idle(t, s)
}

func TestWaitingEndsLikeEverythingElse(t *testing.T) {
	t.Parallel()
	for name, end := range map[string]func(*process){
		"end of input": func(p *process) { p.stdin.Close() },
		"signal":       func(p *process) { p.cmd.Process.Signal(syscall.SIGTERM) },
	} {
		for _, host := range []string{instance, "web"} {
			t.Run(name+", "+host, func(t *testing.T) {
				t.Parallel()
				s := asleep(t)
				p := start(t, s.Env(), "--wait", "1h", host)
				p.says("waiting up to 1h for " + host)
				end(p)
				p.expectEnd()
				if status := p.wait(); status != 0 {
					t.Errorf("exit status %d", status)
				}
				if got, want := p.stderr.String(), "ssmproxy: waiting up to 1h for "+host+" to come online\n"; got != want {
					t.Errorf("got %q", got)
				}
				idle(t, s)
			})
		}
	}
}
