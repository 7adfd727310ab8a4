//go:build unix

package main

import (
	"bytes"
	"fmt"
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

func median(values []float64) float64 {
	sorted := append([]float64(nil), values...)
	for i := range sorted {
		for j := i; j > 0 && sorted[j] < sorted[j-1]; j-- {
			sorted[j], sorted[j-1] = sorted[j-1], sorted[j]
		}
	}
	return sorted[len(sorted)/2]
}
