package main

import (
	"testing"
	"time"

	"ssmproxy/ssmstream/ssmtest"
)

// BenchmarkTrue times `ssh i-… true` beside `ssh true` to the same sshd without
// ssmproxy, by turns. It prints both in milliseconds, their ratio and their
// difference.
func BenchmarkTrue(b *testing.B) {
	w := build(b, ssmtest.Config{})
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
