//go:build unix

package main

import (
	"bytes"
	"fmt"
	"testing"

	"ssmproxy/ssmstream/ssmtest"
)

// TestUnderACutAtEveryMessageASessionGoesOn cuts the connection of a short ssh
// session behind each of its messages in turn, the handshakes' included;
// behind every eighth where it is not to take long.
func TestUnderACutAtEveryMessageASessionGoesOn(t *testing.T) {
	t.Parallel()
	step := 8
	if long {
		step = 1
	}
	w := build(t, ssmtest.Config{})
	messages, most, err := w.cutBehind(t, -1)
	if err != nil || messages < 50 {
		t.Fatalf("undisturbed: %d messages, %v", messages, err)
	}
	runs := 0
	for n := 0; n < messages; n += step {
		_, used, err := w.cutBehind(t, n)
		if err != nil {
			t.Errorf("cut behind message %d of %d: %v", n, messages, err)
		}
		most.RSS, most.CPU = max(most.RSS, used.RSS), most.CPU+used.CPU
		runs++
	}
	cuts := w.service.Stats().Cuts
	t.Logf("%d messages, %d sessions, %d cuts", messages, runs, cuts)
	if cuts < runs*3/4 { // the last messages may not come: sessions differ
		t.Errorf("%d cuts in %d sessions", cuts, runs)
	}
	checkMemory(t, most)
}

// cutBehind runs a short ssh session, whose connection is cut behind message n,
// acknowledgements counted. It returns how many messages crossed.
func (w *world) cutBehind(t *testing.T, n int) (messages int, used usage, err error) {
	before := w.service.Stats().Crossed()
	w.service.SetFaults(ssmtest.AtTotal(n, ssmtest.Action{Cut: true}))
	option, use := w.metered(t)
	data := randomBytes(20_000)
	cmd := w.command("ssh", option, w.dest, "cat")
	cmd.Stdin = bytes.NewReader(data)
	var stdout, stderr bytes.Buffer
	cmd.Stdout, cmd.Stderr = &stdout, &stderr
	if err := cmd.Run(); err != nil || !onlyNotices(stderr.String()) || !bytes.Equal(stdout.Bytes(), data) {
		return 0, used, fmt.Errorf("%v; %d of %d bytes came back, or other ones; stderr: %s (seed %d)",
			err, stdout.Len(), len(data), &stderr, w.service.Seed())
	}
	used = use()
	if err := w.idle(); err != nil {
		return 0, used, err
	}
	return w.service.Stats().Crossed() - before, used, nil
}
