//go:build unix

package main

import (
	"bytes"
	"context"
	"errors"
	"fmt"
	"os"
	"os/exec"
	"path/filepath"
	"strings"
	"sync/atomic"
	"syscall"
	"testing"
	"time"

	"ssmproxy/ssmstream"
	"ssmproxy/ssmstream/ssmtest"
)

// The tests in this file, in cut_test.go and in pressure_test.go move data with
// the real ssh while something goes wrong on the way. They assert on bytes,
// counts and memory, and log times. For figures that mean something run them
// alone:
//
//	SSMPROXY_LONG=1 go test -v -parallel 1 -run TestUnder .

// long makes the tests take the time that the real thing takes, as in CI.
var long = os.Getenv("SSMPROXY_LONG") != ""

const (
	lostLine    = "ssmproxy: connection to the service lost, resuming…\n"
	resumedLine = "ssmproxy: connection to the service resumed\n"

	maxRSS = 32 << 10 // KiB
)

// seconds formats a time for a log.
func seconds(d time.Duration) string { return fmt.Sprintf("%.2f s", d.Seconds()) }

// onlyNotices tells whether nothing but the news of lost connections was said:
// how many take longer than a moment to resume depends on the machine.
func onlyNotices(stderr string) bool {
	return strings.Trim(strings.NewReplacer(lostLine, "", resumedLine, "").Replace(stderr), "\n") == ""
}

// checkMemory takes in the peak of one ssmproxy process.
func checkMemory(t testing.TB, u usage) {
	t.Helper()
	t.Logf("ssmproxy: peak RSS %.1f MiB, %s of CPU", float64(u.RSS)/1024, seconds(u.CPU))
	u.fits(t)
}

// fits checks the peak against the limit.
func (u usage) fits(t testing.TB) {
	t.Helper()
	if u.RSS > maxRSS && !raceEnabled {
		t.Errorf("peak RSS %d KiB, want %d at most", u.RSS, maxRSS)
	}
}

// scp copies a file, whose content is data, up or down. It returns how long
// that took and what ssmproxy used.
func (w *world) scp(t testing.TB, down bool, data []byte) (time.Duration, usage) {
	t.Helper()
	from, to := filepath.Join(w.home, "data"), filepath.Join(w.remote, "data")
	option, used := w.metered(t)
	args := []string{"-q", option, from, w.dest + ":" + to}
	if down {
		from, to = to, from
		args = []string{"-q", option, w.dest + ":" + from, to}
	}
	if err := os.WriteFile(from, data, 0o600); err != nil {
		t.Fatal(err)
	}
	os.Remove(to)
	cmd := w.command("scp", args...)
	var stderr bytes.Buffer
	cmd.Stderr = &stderr
	start := time.Now()
	err := cmd.Run()
	took := time.Since(start)
	if err != nil || !onlyNotices(stderr.String()) {
		t.Fatalf("%s: %v\nstderr: %s\nseed %d, %+v", cmd, err, &stderr, w.service.Seed(), w.service.Stats())
	}
	got, err := os.ReadFile(to)
	if err != nil || !bytes.Equal(got, data) {
		t.Fatalf("%d of %d bytes arrived, or other ones; %v (seed %d)", len(got), len(data), err, w.service.Seed())
	}
	return took, used()
}

// eachMessage acts on every n-th stream message, in either direction,
// acknowledgements not counted.
func eachMessage(n int64, a ssmtest.Action) ssmtest.Fault {
	var crossed atomic.Int64
	return ssmtest.When(func(c *ssmtest.Crossing) bool {
		return c.Message.Type != ssmstream.Acknowledge && crossed.Add(1)%n == 0
	}, a)
}

// copying is a copy by scp with faults on the way.
type copying struct {
	name   string
	down   bool
	size   int
	rate   int // of the path, in bytes a second; 0: as fast as the machine
	faults func(*ssmtest.Server) []ssmtest.Fault
}

// messageCuts and frameCuts cut the connection every 300 messages: of the two
// streams, and of all that crosses, acknowledgements too.
func messageCuts(*ssmtest.Server) []ssmtest.Fault {
	return []ssmtest.Fault{eachMessage(300, ssmtest.Action{Cut: true})}
}

func frameCuts(*ssmtest.Server) []ssmtest.Fault {
	return []ssmtest.Fault{ssmtest.Every(300, ssmtest.Action{Cut: true})}
}

// loss loses that part of all that crosses, each way.
func loss(p float64) func(*ssmtest.Server) []ssmtest.Fault {
	return func(s *ssmtest.Server) []ssmtest.Fault {
		return []ssmtest.Fault{
			s.Random(ssmtest.ToAgent, p, ssmtest.Action{Lose: true}),
			s.Random(ssmtest.ToClient, p, ssmtest.Action{Lose: true}),
		}
	}
}

// copyings are those that the tests make; BenchmarkCopyUnderFaults makes more.
var copyings = []copying{
	{name: "20 MB up, cut every 300 messages", size: 20e6, faults: messageCuts},
	{name: "3 MB down, cut every 300 messages", down: true, size: 3e6, faults: messageCuts},
	{name: "2 MB down, 1% lost each way", down: true, size: 2e6, faults: loss(0.01)},
	{name: "20 MB up, 5% lost each way", size: 20e6, faults: loss(0.05)},
}

// comparison is what an undisturbed and a disturbed copy of the same data took.
type comparison struct {
	undisturbed, disturbed time.Duration
	cuts, lost             int
	turns                  int // of the agent's timer, which sends at most one message again in 100 ms
	used                   usage
}

func (c comparison) ratio() float64 { return c.disturbed.Seconds() / c.undisturbed.Seconds() }

// compare makes a copy twice, the second time with its faults.
func (w *world) compare(t testing.TB, c copying) (r comparison) {
	t.Helper()
	data := randomBytes(c.size)
	w.service.SetFaults()
	r.undisturbed, _ = w.scp(t, c.down, data)
	before := w.service.Stats()
	w.service.SetFaults(c.faults(w.service)...)
	r.disturbed, r.used = w.scp(t, c.down, data)
	after := w.service.Stats()
	r.cuts = after.Cuts - before.Cuts
	r.lost = int(after.FromClient.Lost + after.FromAgent.Lost - before.FromClient.Lost - before.FromAgent.Lost)
	r.turns = int(after.Resends - before.Resends)
	if r.cuts == 0 && r.lost == 0 {
		t.Error("nothing went wrong")
	}
	return r
}

func TestUnderFaultsCopiesAreExact(t *testing.T) {
	t.Parallel()
	need(t, "scp")
	for _, c := range copyings {
		t.Run(c.name, func(t *testing.T) {
			t.Parallel()
			w := build(t, ssmtest.Config{})
			r := w.compare(t, c)
			t.Logf("%s undisturbed, %s with %d cuts, %d messages lost and %d turns of the agent's timer: %.2f times as long",
				seconds(r.undisturbed), seconds(r.disturbed), r.cuts, r.lost, r.turns, r.ratio())
			if !c.down && r.cuts > 0 && r.turns > 20 {
				t.Errorf("%d turns of the agent's timer, want 20 at most", r.turns)
			}
			checkMemory(t, r.used)
		})
	}
}

// reach waits until count is at least n.
func reach(ctx context.Context, count func() int64, n int64) error {
	for count() < n {
		select {
		case <-ctx.Done():
			return fmt.Errorf("%d, want %d: %w", count(), n, ctx.Err())
		case <-time.After(time.Millisecond):
		}
	}
	return nil
}

func (w *world) input() int64   { return w.service.Stats().InputBytes }
func (w *world) output() int64  { return w.service.Stats().OutputBytes }
func (w *world) resumed() int64 { return int64(w.service.Stats().Resumed) }

func TestUnderABlackholeAnUploadHeals(t *testing.T) {
	t.Parallel()
	need(t, "scp")
	w := build(t, ssmtest.Config{})
	const hole = 5 * time.Second
	var opened, healed time.Time
	done := make(chan error, 1)
	go func() { // ends when data moves again, with the test at the latest
		err := reach(t.Context(), w.input, 10e6)
		opened = time.Now()
		w.service.BlackholeFor(hole, true)
		err = errors.Join(err, reach(t.Context(), w.resumed, 1), reach(t.Context(), w.input, w.input()+100e3))
		healed = time.Now()
		done <- err
	}()
	took, used := w.scp(t, false, randomBytes(20e6))
	if err := <-done; err != nil {
		t.Fatal(err)
	}
	t.Logf("moving again %s after the blackhole's beginning, %s after its end; the copy took %s",
		seconds(healed.Sub(opened)), seconds(healed.Sub(opened)-hole), seconds(took))
	if limit := max(hole, 15*time.Second) + 20*time.Second; healed.Sub(opened) > limit {
		t.Errorf("want %v at most", limit)
	}
	if n := w.service.Stats().Swallowed; n == 0 {
		t.Error("the blackhole swallowed nothing")
	}
	checkMemory(t, used)
}

func TestUnderAnOutageASessionGoesOn(t *testing.T) {
	t.Parallel()
	w := build(t, ssmtest.Config{})
	outage := 5 * time.Second
	if long {
		outage = 20 * time.Second
	}
	data := randomBytes(1e6)
	option, used := w.metered(t)
	cmd := w.command("ssh", option, w.dest, "cat")
	cmd.Stdin = bytes.NewReader(data)
	var stdout, stderr bytes.Buffer
	cmd.Stdout, cmd.Stderr = &stdout, &stderr
	start := time.Now()
	if err := cmd.Start(); err != nil {
		t.Fatal(err)
	}
	defer cmd.Process.Kill() // where the test fails
	if err := reach(t.Context(), w.output, 300e3); err != nil {
		t.Fatal(err)
	}
	w.service.Outage(outage)
	if err := cmd.Wait(); err != nil || !bytes.Equal(stdout.Bytes(), data) {
		t.Errorf("%v; %d of %d bytes came back, or other ones", err, stdout.Len(), len(data))
	}
	if got := stderr.String(); got != lostLine+resumedLine {
		t.Errorf("standard error was %q, want one line for the loss and one for the resumption", got)
	}
	t.Logf("%s with an outage of %v", seconds(time.Since(start)), outage)
	checkMemory(t, used())
}

// resident returns the KiB that the world's ssmproxy processes have in memory.
func (w *world) resident(t *testing.T) int {
	t.Helper()
	out, err := exec.Command("ps", "-A", "-o", "rss=", "-o", "args=").Output()
	if err != nil {
		t.Fatal(err)
	}
	total := 0
	for line := range strings.Lines(string(out)) {
		words := strings.Fields(line)
		if len(words) > 1 && filepath.Base(words[1]) == "ssmproxy" && strings.Contains(line, w.instance) {
			var rss int
			fmt.Sscan(words[0], &rss)
			total += rss
		}
	}
	return total
}

func TestUnderAStalledReaderNothingIsLost(t *testing.T) {
	t.Parallel()
	// As fast as it goes: every buffer on the way is full before long.
	w := build(t, ssmtest.Config{NoPacing: true})
	stall := 3 * time.Second
	if long {
		stall = time.Minute
	}
	remote, data := filepath.Join(w.remote, "data"), randomBytes(40e6)
	if err := os.WriteFile(remote, data, 0o600); err != nil {
		t.Fatal(err)
	}
	option, used := w.metered(t)
	cmd := w.command("ssh", option, w.dest, "cat "+remote)
	var stdout, stderr bytes.Buffer
	cmd.Stdout, cmd.Stderr = &stdout, &stderr
	if err := cmd.Start(); err != nil {
		t.Fatal(err)
	}
	defer cmd.Process.Kill() // where the test fails
	if err := reach(t.Context(), w.output, 2e6); err != nil {
		t.Fatal(err)
	}
	cmd.Process.Signal(syscall.SIGSTOP)
	held := w.output()
	for still := 0; still < 4; still++ { // until the instance is held back, not merely slow
		time.Sleep(300 * time.Millisecond)
		if now := w.output(); now != held {
			held, still = now, -1
		}
	}
	least, most := 1<<30, 0
	for end := time.Now().Add(stall); time.Now().Before(end); time.Sleep(stall / 10) {
		rss := w.resident(t)
		least, most = min(least, rss), max(most, rss)
	}
	t.Logf("stopped after %d of %d bytes for %v: RSS between %.1f and %.1f MiB",
		held, len(data), stall, float64(least)/1024, float64(most)/1024)
	if now := w.output(); now != held || now >= int64(len(data)) {
		t.Errorf("%d bytes, then %d of %d have left the instance: it was not held back", held, now, len(data))
	}
	cmd.Process.Signal(syscall.SIGCONT)
	if err := cmd.Wait(); err != nil || stderr.Len() > 0 || !bytes.Equal(stdout.Bytes(), data) {
		t.Errorf("%v; %d of %d bytes came, or other ones; stderr: %s", err, stdout.Len(), len(data), &stderr)
	}
	checkMemory(t, used())
}
