package ssmstream_test

import (
	"context"
	"fmt"
	"math/rand/v2"
	"sync"
	"testing"
	"time"

	"ssmproxy/ssmstream/ssmtest"
)

// runCutOff runs a short session, whose connection is cut behind message n. It
// returns how many messages crossed.
func runCutOff(ctx context.Context, cfg ssmtest.Config, n int) (messages int, err error) {
	srv := ssmtest.NewServer(cfg)
	defer srv.Close()
	ctx, cancel := context.WithTimeout(ctx, 60*time.Second)
	defer cancel()
	srv.SetFaults(ssmtest.AtTotal(n, ssmtest.Action{Cut: true}))
	stream, err := open(ctx, srv)
	if err != nil {
		return 0, err
	}
	defer stream.Close()
	defer context.AfterFunc(ctx, func() { stream.Close() })()
	random := rand.NewChaCha8(seedBytes(1))
	for _, w := range workloads {
		if err := w.move(stream, 4<<10, random); err != nil {
			return 0, fmt.Errorf("%s: %w", w.name, err)
		}
	}
	err = end(ctx, srv, stream)
	return srv.Stats().Crossed(), err
}

// runEachCutOff runs a session for each step-th of the messages that an
// undisturbed one has, and cuts it there.
func runEachCutOff(t *testing.T, cfg ssmtest.Config, step int) {
	messages, err := runCutOff(t.Context(), cfg, -1)
	if err != nil || messages < 20 {
		t.Fatalf("undisturbed: %d messages, %v", messages, err)
	}
	var group sync.WaitGroup
	turns := make(chan struct{}, 8) // what a session waits for is mostly the agent's timer
	for n := 0; n < messages; n += step {
		turns <- struct{}{}
		group.Go(func() {
			defer func() { <-turns }()
			if _, err := runCutOff(t.Context(), cfg, n); err != nil {
				t.Errorf("cut behind message %d of %d: %v", n, messages, err)
			}
		})
	}
	group.Wait()
}

// TestACutAtEveryMessage cuts the connection of a short session behind each of
// its messages in turn, the handshake's included.
func TestACutAtEveryMessage(t *testing.T) {
	t.Parallel()
	runEachCutOff(t, ssmtest.Config{SSHAddr: randomPort(t)}, 1)
}

// TestACutWithALatePause lets the agent be told that the client is away when it
// is back.
func TestACutWithALatePause(t *testing.T) {
	t.Parallel()
	runEachCutOff(t, ssmtest.Config{SSHAddr: randomPort(t), LatePause: 20 * time.Millisecond}, 10)
}
