//go:build unix

package main

import (
	"bytes"
	"fmt"
	"sync"
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
	messages, most, err := build(t, ssmtest.Config{}).cutBehind(t, -1)
	if err != nil || messages < 50 {
		t.Fatalf("undisturbed: %d messages, %v", messages, err)
	}
	var mu sync.Mutex // guards most and cuts
	cuts := 0
	next := make(chan int)
	var workers sync.WaitGroup
	for range 4 { // what a session waits for is mostly the agent's timer
		w := build(t, ssmtest.Config{})
		workers.Go(func() {
			for n := range next {
				_, used, err := w.cutBehind(t, n)
				if err != nil {
					t.Errorf("cut behind message %d of %d: %v", n, messages, err)
				}
				mu.Lock()
				most.RSS, most.CPU = max(most.RSS, used.RSS), most.CPU+used.CPU
				mu.Unlock()
			}
			mu.Lock()
			cuts += w.service.Stats().Cuts
			mu.Unlock()
		})
	}
	for n := 0; n < messages; n += step {
		next <- n
	}
	close(next)
	workers.Wait()
	t.Logf("%d messages, %d cuts", messages, cuts)
	if cuts < messages/step*3/4 { // the last ones may not come: sessions differ
		t.Errorf("%d cuts behind %d messages", cuts, messages/step)
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
