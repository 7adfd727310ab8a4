//go:build unix

package main

import (
	"bytes"
	"errors"
	"os/exec"
	"strings"
	"sync"
	"testing"
	"time"

	"ssmproxy/ssmstream/ssmtest"
)

func TestUnderThrottlingAllClientsConnect(t *testing.T) {
	t.Parallel()
	clients := 20
	if long {
		clients = 100
	}
	const perSecond = 5
	w := build(t, ssmtest.Config{StartSessionRate: perSecond})
	var mu sync.Mutex
	var most usage
	var slowest time.Duration
	var running sync.WaitGroup
	start := time.Now()
	for range clients {
		option, used := w.metered(t)
		running.Go(func() {
			cmd := w.command("ssh", option, w.dest, "echo up")
			var stdout, stderr bytes.Buffer
			cmd.Stdout, cmd.Stderr = &stdout, &stderr
			err := cmd.Run()
			mu.Lock()
			defer mu.Unlock()
			if err != nil || stdout.String() != "up\n" || stderr.Len() > 0 {
				t.Errorf("%v, stdout %q, stderr %q", err, &stdout, &stderr)
				return
			}
			slowest = max(slowest, time.Since(start))
			u := used()
			most.RSS, most.CPU = max(most.RSS, u.RSS), most.CPU+u.CPU
		})
	}
	running.Wait()
	s := w.service.Stats()
	calls := s.Calls["StartSession"]
	t.Logf("%d clients against %d calls a second: the last is done after %s, %.2f calls a client",
		clients, perSecond, seconds(slowest), float64(calls)/float64(clients))
	if s.Sessions != clients {
		t.Errorf("%d sessions, want %d", s.Sessions, clients)
	}
	if s.CallErrors["ThrottlingException"] == 0 {
		t.Error("no client was throttled")
	}
	if calls > 4*clients {
		t.Errorf("%d calls, want %d at most", calls, 4*clients)
	}
	checkMemory(t, most)
}

func TestUnderExpiredCredentialsASessionEndsWithWords(t *testing.T) {
	t.Parallel()
	w := build(t, ssmtest.Config{})
	k := talk(t, w.command("ssh", w.dest, "echo up; cat"))
	if err := k.expect("up"); err != nil {
		t.Fatal(err)
	}
	start := time.Now()
	w.service.ExpireCredentials() // those of the environment, which nobody renews
	err := k.Wait()
	t.Logf("ssh ended after %s", seconds(time.Since(start)))
	var exit *exec.ExitError
	if !errors.As(err, &exit) || exit.ExitCode() != 255 {
		t.Errorf("ended with %v, want status 255", err)
	}
	said := k.stderr.String()
	for _, want := range []string{
		"ssmproxy: the AWS credentials have expired\n",
		"ssmproxy: hint: they come from the environment: export AWS_ACCESS_KEY_ID, ",
	} {
		if !strings.Contains(said, want) {
			t.Errorf("standard error lacks %q: %s", want, said)
		}
	}
	w.service.CloseSessions("") // with these credentials nobody else can
}
