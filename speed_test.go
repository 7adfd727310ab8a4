//go:build unix

package main

import (
	"bytes"
	"fmt"
	"io"
	"path/filepath"
	"slices"
	"syscall"
	"testing"
	"time"

	"ssmproxy/ssmstream/ssmtest"
)

// upload sends n bytes through ssh to a command that swallows them and returns
// how long that took.
func (w *world) upload(b *testing.B, config string, n int, options ...string) time.Duration {
	b.Helper()
	cmd := w.command("ssh", append(options, w.dest, "cat >/dev/null")...)
	cmd.Args[2] = config
	cmd.Stdin = bytes.NewReader(make([]byte, n))
	start := time.Now()
	run(b, cmd)
	return time.Since(start)
}

func (w *world) download(b *testing.B, config string, n int, options ...string) time.Duration {
	b.Helper()
	cmd := w.command("ssh", append(options, w.dest, fmt.Sprintf("head -c %d /dev/zero", n))...)
	cmd.Args[2] = config
	start := time.Now()
	if got := len(run(b, cmd)); got != n {
		b.Fatalf("%d of %d bytes", got, n)
	}
	return time.Since(start)
}

func mbPerSecond(n int, d time.Duration) float64 { return float64(n) / 1e6 / d.Seconds() }

// BenchmarkCopy moves data through the real ssh to the real sshd, by turns
// through ssmproxy and directly, and reports the speeds, their ratio, and what
// the ssmproxy process used for it.
func BenchmarkCopy(b *testing.B) {
	type copier func(w *world, b *testing.B, config string, n int, options ...string) time.Duration
	for _, test := range []struct {
		name string
		size int
		rtt  time.Duration
		copy copier
	}{
		{"up", 60e6, 0, (*world).upload},
		{"up/50ms", 60e6, 50 * time.Millisecond, (*world).upload},
		{"up/200ms", 60e6, 200 * time.Millisecond, (*world).upload},
		{"down", 60e6, 0, (*world).download},
	} {
		b.Run(test.name, func(b *testing.B) {
			w := build(b, ssmtest.Config{NoPacing: true, Link: ssmtest.Link{RTT: test.rtt}})
			var direct, session, cpu, rss []float64
			for b.Loop() {
				if test.rtt == 0 {
					direct = append(direct, mbPerSecond(test.size, test.copy(w, b, w.direct, test.size)))
				}
				option, used := w.metered(b)
				session = append(session, mbPerSecond(test.size, test.copy(w, b, w.config, test.size, option)))
				u := used()
				cpu = append(cpu, u.CPU.Seconds()*1000/(float64(test.size)/1e6))
				rss = append(rss, float64(u.RSS)/1024)
			}
			b.ReportMetric(0, "ns/op")
			b.ReportMetric(median(session), "MB/s")
			b.ReportMetric(median(cpu), "cpu-ms/MB")
			b.ReportMetric(median(rss), "peak-MiB")
			if test.rtt == 0 {
				b.ReportMetric(median(direct), "direct-MB/s")
				b.ReportMetric(median(session)/median(direct), "ratio")
			}
		})
	}
}

// BenchmarkCopyUnderFaults copies with scp, by turns without and with faults on
// the way, and reports both times, their ratio, its worst, and the peak of the
// ssmproxy processes with faults.
func BenchmarkCopyUnderFaults(b *testing.B) {
	for _, c := range append(slices.Clip(copyings),
		copying{name: "20 MB up, cut every 300 frames, acknowledgements too", size: 20e6, faults: frameCuts},
		copying{name: "20 MB up, 1% lost each way", size: 20e6, faults: loss(0.01)},
		// As fast as the machine a copy takes no time, and the agent's habit
		// to send lost output again only every 100 ms, ssh's window
		// adjustments among it, is most of what a loss costs.
		copying{name: "20 MB up at 5 MB/s, cut every 300 messages", size: 20e6, rate: 5e6, faults: messageCuts},
		copying{name: "20 MB up at 5 MB/s, 5% lost each way", size: 20e6, rate: 5e6, faults: loss(0.05)},
	) {
		b.Run(c.name, func(b *testing.B) {
			need(b, "scp")
			w := build(b, ssmtest.Config{Link: ssmtest.Link{Rate: c.rate}})
			var undisturbed, disturbed, ratios, rss []float64
			for b.Loop() {
				r := w.compare(b, c)
				r.used.fits(b)
				undisturbed = append(undisturbed, r.undisturbed.Seconds())
				disturbed = append(disturbed, r.disturbed.Seconds())
				ratios = append(ratios, r.ratio())
				rss = append(rss, float64(r.used.RSS)/1024)
			}
			b.ReportMetric(0, "ns/op")
			b.ReportMetric(median(undisturbed), "s-undisturbed")
			b.ReportMetric(median(disturbed), "s-disturbed")
			b.ReportMetric(median(ratios), "times-as-long")
			b.ReportMetric(slices.Max(ratios), "times-worst")
			b.ReportMetric(slices.Max(rss), "peak-MiB")
		})
	}
}

// BenchmarkResume types a line into a session right behind a lone cut. It reports how
// long the echo takes, and how long it does without a cut.
func BenchmarkResume(b *testing.B) {
	for _, rtt := range []time.Duration{0, 50 * time.Millisecond} {
		b.Run(rtt.String(), func(b *testing.B) {
			w := build(b, ssmtest.Config{Link: ssmtest.Link{RTT: rtt}})
			k := talk(b, w.command("ssh", w.dest, "cat"))
			defer func() { k.in.Close(); k.Wait() }()
			echo := func() float64 {
				began := time.Now()
				io.WriteString(k.in, "line\n")
				if err := k.expect("line"); err != nil {
					b.Fatal(err)
				}
				return time.Since(began).Seconds() * 1000
			}
			var undisturbed, cut []float64
			for b.Loop() {
				undisturbed = append(undisturbed, echo())
				time.Sleep(1100 * time.Millisecond) // a sooner one finds the next connection dialled
				w.service.CutAll()
				cut = append(cut, echo())
			}
			b.ReportMetric(0, "ns/op")
			b.ReportMetric(median(undisturbed), "ms-undisturbed")
			b.ReportMetric(median(cut), "ms-cut")
		})
	}
}

// BenchmarkEcho types into one session while another uploads over the same
// connection, on a path of limited rate: the keystroke waits for what is queued
// ahead of it. It reports the echo's median and worst, and how much of the path
// the upload used.
func BenchmarkEcho(b *testing.B) {
	for _, rate := range []int{500e3, 2e6} {
		b.Run(fmt.Sprintf("%dkBps", rate/1000), func(b *testing.B) {
			w := build(b, ssmtest.Config{Link: ssmtest.Link{RTT: 40 * time.Millisecond, Rate: rate}})
			socket := filepath.Join(w.home, "master")
			master := w.command("ssh", "-M", "-N", "-S", socket, "-oControlPersist=no", w.dest)
			if err := master.Start(); err != nil {
				b.Fatal(err)
			}
			defer func() { master.Process.Signal(syscall.SIGTERM); master.Wait() }()
			for w.command("ssh", "-S", socket, "-O", "check", w.dest).Run() != nil {
				time.Sleep(10 * time.Millisecond)
			}
			upload := w.command("ssh", "-S", socket, w.dest, "cat >/dev/null")
			feed, err := upload.StdinPipe()
			if err != nil {
				b.Fatal(err)
			}
			if err := upload.Start(); err != nil {
				b.Fatal(err)
			}
			go io.Copy(feed, zeros{}) // ends with the upload
			defer func() { upload.Process.Kill(); upload.Wait() }()

			shell := w.command("ssh", "-S", socket, w.dest, "cat")
			keys, err := shell.StdinPipe()
			if err != nil {
				b.Fatal(err)
			}
			echo, err := shell.StdoutPipe()
			if err != nil {
				b.Fatal(err)
			}
			if err := shell.Start(); err != nil {
				b.Fatal(err)
			}
			defer func() { keys.Close(); shell.Wait() }()
			var times []float64
			key := []byte{'k'}
			type mark struct {
				at    time.Time
				bytes int64
			}
			var from mark
			for b.Loop() {
				for i := range 25 {
					if i == 5 && from.bytes == 0 { // settled
						from = mark{time.Now(), w.service.Stats().FromClient.Bytes}
					}
					began := time.Now()
					if _, err := keys.Write(key); err != nil {
						b.Fatal(err)
					}
					if _, err := io.ReadFull(echo, key); err != nil {
						b.Fatal(err)
					}
					times = append(times, float64(time.Since(began).Milliseconds()))
					time.Sleep(50 * time.Millisecond)
				}
			}
			used := float64(w.service.Stats().FromClient.Bytes-from.bytes) / time.Since(from.at).Seconds() / float64(rate)
			b.ReportMetric(0, "ns/op")
			b.ReportMetric(median(times), "ms-echo")
			b.ReportMetric(slices.Max(times), "ms-worst")
			b.ReportMetric(100*used, "%path")
		})
	}
}

type zeros struct{}

func (zeros) Read(p []byte) (int, error) { return len(p), nil }

func median(values []float64) float64 {
	sorted := slices.Sorted(slices.Values(values))
	return sorted[len(sorted)/2]
}
