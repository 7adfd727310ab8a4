package main

import (
	"testing"
	"time"

	"ssmproxy/ssmstream/ssmtest"
)

// BenchmarkTrue times `ssh i-… true` beside `ssh true` to the same sshd without
// ssmproxy, by turns, on loopback and with a round trip to the service, which
// direct ssh does not have. It prints both in milliseconds, their ratio and
// their difference.
func BenchmarkTrue(b *testing.B) {
	b.Run("loopback", func(b *testing.B) { benchmarkTrue(b, 0) })
	b.Run("50ms", func(b *testing.B) { benchmarkTrue(b, 50*time.Millisecond) })
}

func benchmarkTrue(b *testing.B, rtt time.Duration) {
	w := build(b, ssmtest.Config{Link: ssmtest.Link{RTT: rtt}})
	var session, direct time.Duration
	timed := func(sum *time.Duration, config string) {
		cmd := w.command("ssh", w.dest, "true")
		cmd.Args[2] = config
		start := time.Now()
		run(b, cmd)
		*sum += time.Since(start)
	}
	for b.Loop() {
		timed(&direct, w.direct)
		timed(&session, w.config)
	}
	ms := func(d time.Duration) float64 { return float64(d.Microseconds()) / 1000 / float64(b.N) }
	b.ReportMetric(0, "ns/op")
	b.ReportMetric(ms(direct), "ms-direct")
	b.ReportMetric(ms(session), "ms-session")
	b.ReportMetric(ms(session-direct), "ms-more")
	b.ReportMetric(ms(session)/ms(direct), "ratio")
}
