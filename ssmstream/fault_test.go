package ssmstream_test

import (
	"bufio"
	"bytes"
	"context"
	"flag"
	"fmt"
	"io"
	"math/rand/v2"
	"net"
	"sync"
	"testing"
	"time"

	"ssmproxy/ssmstream"
	"ssmproxy/ssmstream/ssmtest"

	"go.uber.org/goleak"
)

var soakFor = flag.Duration("soak", 3*time.Second, "how long TestSoak goes on")

func TestMain(m *testing.M) { goleak.VerifyTestMain(m) }

// The tests in this file move random bytes through ssmtest while something
// goes wrong, and compare every one of them.

// workload is what moves: a line tells the port what to do, then it does it.
type workload struct {
	name string
	size int // bytes in all
	move func(c io.ReadWriter, size int, random *rand.ChaCha8) error
}

var workloads = []workload{
	{"upload", 1 << 20, upload},
	{"download", 160 << 10, download},
	{"interactive", 4 << 10, interactive},
	{"both ways", 160 << 10, bothWays},
}

// randomPort is the instance's side of the workloads: it sends and expects the
// bytes that the seed in the command gives.
func randomPort(tb testing.TB) string {
	return port(tb, func(c net.Conn) {
		r := bufio.NewReader(c)
		for {
			var command byte
			var size int
			var seed uint64
			if _, err := fmt.Fscanf(r, "%c %d %d\n", &command, &size, &seed); err != nil {
				return
			}
			random := rand.NewChaCha8(seedBytes(seed))
			switch command {
			case 'u':
				if err := expect(r, size, random); err != nil {
					fmt.Fprintln(c, err)
					return
				}
				fmt.Fprintln(c, "ok")
			case 'd':
				io.CopyN(c, random, int64(size))
			case 'i':
				io.CopyN(c, r, int64(size))
			}
		}
	})
}

func seedBytes(seed uint64) (b [32]byte) {
	for i := range 8 {
		b[i] = byte(seed >> (8 * i))
	}
	return b
}

// expect reads size bytes and compares them with the random ones.
func expect(r io.Reader, size int, random *rand.ChaCha8) error {
	got, want := make([]byte, 8<<10), make([]byte, 8<<10)
	for at := 0; at < size; {
		n, err := io.ReadFull(r, got[:min(len(got), size-at)])
		if err != nil {
			return fmt.Errorf("after %d of %d bytes: %w", at+n, size, err)
		}
		random.Read(want[:n])
		if !bytes.Equal(got[:n], want[:n]) {
			return fmt.Errorf("damaged between byte %d and %d", at, at+n)
		}
		at += n
	}
	return nil
}

func command(c io.Writer, what byte, size int, random *rand.ChaCha8) (*rand.ChaCha8, error) {
	seed := random.Uint64()
	_, err := fmt.Fprintf(c, "%c %d %d\n", what, size, seed)
	return rand.NewChaCha8(seedBytes(seed)), err
}

func upload(c io.ReadWriter, size int, random *rand.ChaCha8) error {
	data, err := command(c, 'u', size, random)
	if err != nil {
		return err
	}
	if _, err := io.CopyN(c, data, int64(size)); err != nil {
		return err
	}
	answer := make([]byte, 3)
	if _, err := io.ReadFull(c, answer); err != nil || string(answer) != "ok\n" {
		return fmt.Errorf("the port answered %q, %v", answer, err)
	}
	return nil
}

func download(c io.ReadWriter, size int, random *rand.ChaCha8) error {
	data, err := command(c, 'd', size, random)
	if err != nil {
		return err
	}
	return expect(c, size, data)
}

// interactive sends keystrokes and waits for the echo of each.
func interactive(c io.ReadWriter, size int, random *rand.ChaCha8) error {
	if _, err := command(c, 'i', size, random); err != nil {
		return err
	}
	for at := 0; at < size; {
		key := make([]byte, min(1+int(random.Uint64()%64), size-at))
		random.Read(key)
		if _, err := c.Write(key); err != nil {
			return err
		}
		echo := make([]byte, len(key))
		if _, err := io.ReadFull(c, echo); err != nil || !bytes.Equal(echo, key) {
			return fmt.Errorf("echo of byte %d differs, %v", at, err)
		}
		at += len(key)
	}
	return nil
}

// bothWays sends random bytes and, while it does, compares their echo.
func bothWays(c io.ReadWriter, size int, random *rand.ChaCha8) error {
	data, err := command(c, 'i', size, random)
	if err != nil {
		return err
	}
	echo, sent := *data, make(chan error, 1)
	go func() { // ends when all is sent, or the stream has
		_, err := io.CopyN(c, data, int64(size))
		sent <- err
	}()
	if err := expect(c, size, &echo); err != nil {
		return err
	}
	return <-sent
}

// fault is one thing that goes wrong: now, and, with busy, again while data
// moves.
type fault struct {
	name string
	slow bool // takes many seconds: what is waited for is timers, not work
	do   func(srv *ssmtest.Server, busy bool)
}

// each makes a fault of one that happens to messages, or to one just now.
func each(srv *ssmtest.Server, p float64, a ssmtest.Action) {
	srv.SetFaults(srv.Random(ssmtest.ToAgent, p, a), srv.Random(ssmtest.ToClient, p, a))
}

func cut(srv *ssmtest.Server, busy bool) {
	srv.CutAll()
	if busy {
		srv.SetFaults(ssmtest.Every(100, ssmtest.Action{Cut: true}))
	}
}

var faults = []fault{
	{"cut", false, cut},
	{"lose", false, func(srv *ssmtest.Server, _ bool) { each(srv, 0.02, ssmtest.Action{Lose: true}) }},
	{"double", false, func(srv *ssmtest.Server, _ bool) { each(srv, 0.2, ssmtest.Action{Double: 2}) }},
	{"reorder", false, func(srv *ssmtest.Server, _ bool) { each(srv, 0.1, ssmtest.Action{HoldBack: 5}) }},
	{"delay", false, func(srv *ssmtest.Server, _ bool) { each(srv, 0.1, ssmtest.Action{Delay: 30 * time.Millisecond}) }},
	{"blackhole", true, func(srv *ssmtest.Server, _ bool) { srv.BlackholeFor(5*time.Second, true) }},
	{"outage of 20 s", true, func(srv *ssmtest.Server, _ bool) { srv.Outage(20 * time.Second) }},
	{"throttled resume", true, func(srv *ssmtest.Server, busy bool) {
		srv.FailCalls("ResumeSession", 4, &ssmtest.CallError{Status: 400, Code: "ThrottlingException", Message: "Rate exceeded"})
		srv.CutAll()
	}},
	{"expired token", false, func(srv *ssmtest.Server, _ bool) {
		srv.RejectTokens(3)
		srv.CutAll()
	}},
	{"credentials renewed after an hour", false, func(srv *ssmtest.Server, _ bool) {
		srv.RenewCredentials()
		srv.ExpireOldCredentials()
	}},
	{"agent restart", false, func(srv *ssmtest.Server, _ bool) { srv.RestartAgents(700 * time.Millisecond) }},
}

// TestFaultMatrix lets every fault happen to every workload, once between two
// of them and once in the middle of one.
func TestFaultMatrix(t *testing.T) {
	t.Parallel()
	addr := randomPort(t)
	var slow sync.WaitGroup
	defer slow.Wait()
	for _, f := range faults {
		for _, w := range workloads {
			for _, busy := range []bool{false, true} {
				name := fmt.Sprintf("%s/%s/busy=%t", f.name, w.name, busy)
				if f.slow { // all at once, beside the rest: they sleep most of the time
					slow.Go(func() {
						if err := runCell(t.Context(), addr, f, w, busy); err != nil {
							t.Errorf("%s: %v", name, err)
						}
					})
					continue
				}
				t.Run(name, func(t *testing.T) {
					if err := runCell(t.Context(), addr, f, w, busy); err != nil {
						t.Error(err)
					}
				})
			}
		}
	}
}

// runCell runs one workload with one fault and reports everything that is not
// as it should be.
func runCell(ctx context.Context, addr string, f fault, w workload, busy bool) (err error) {
	seed := 1 + rand.Uint64N(1<<62)
	cfg := ssmtest.Config{SSHAddr: addr, Seed: seed, RepeatsAcks: seed%4 == 0, BarePublications: seed%3 == 0}
	if seed%5 == 0 {
		cfg.LatePause = 20 * time.Millisecond
	}
	srv := ssmtest.NewServer(cfg)
	defer srv.Close()
	ctx, cancel := context.WithTimeout(ctx, 90*time.Second)
	defer cancel()
	defer func() {
		if err != nil {
			err = fmt.Errorf("seed %d: %w", srv.Seed(), err)
		}
	}()
	stream, err := open(ctx, srv)
	if err != nil {
		return err
	}
	defer stream.Close()
	defer context.AfterFunc(ctx, func() { stream.Close() })()
	random := rand.NewChaCha8(seedBytes(srv.Seed()))
	if err := w.move(stream, w.size/8, random); err != nil {
		return fmt.Errorf("before the fault: %w", err)
	}
	if busy {
		go f.do(srv, true) // ends by itself, while the workload goes on
	} else {
		f.do(srv, false)
	}
	if err := w.move(stream, w.size, random); err != nil {
		return fmt.Errorf("%w (%+v)", err, stream.Stats())
	}
	srv.SetFaults()
	if err := w.move(stream, w.size/8, random); err != nil {
		return fmt.Errorf("after the fault: %w", err)
	}
	return end(ctx, srv, stream)
}

func open(ctx context.Context, srv *ssmtest.Server) (*ssmstream.Stream, error) {
	id, grant := srv.StartSession("i-0123456789abcdef0")
	stream, err := ssmstream.Dial(ctx, grant, ssmstream.Config{
		DialTLS: srv.DialTLS, Signer: srv.Signer(), Resumer: srv.Resumer(id),
	})
	if err != nil {
		return nil, err
	}
	got := make([]byte, len(greeting))
	if _, err := io.ReadFull(stream, got); err != nil || string(got) != greeting {
		stream.Close()
		return nil, fmt.Errorf("greeting %q, %v", got, err)
	}
	return stream, nil
}

// end ends a session in order and looks at what is left of it.
func end(ctx context.Context, srv *ssmtest.Server, stream *ssmstream.Stream) error {
	if err := stream.Terminate(ctx); err != nil {
		return fmt.Errorf("terminate: %w", err)
	}
	if rest, err := io.ReadAll(stream); len(rest) > 0 || err != nil {
		return fmt.Errorf("%d bytes too many, %v", len(rest), err)
	}
	if err := srv.WaitIdle(ctx); err != nil {
		return fmt.Errorf("open sessions: %v", srv.OpenSessions())
	}
	switch stats := srv.Stats(); {
	case stats.EarlyData != 0:
		return fmt.Errorf("%d messages were sent before the handshake was complete", stats.EarlyData)
	case stats.OutdatedURLs != 0:
		return fmt.Errorf("%d times an older StreamUrl than the latest was dialled", stats.OutdatedURLs)
	}
	return nil
}

// TestSoak mixes all faults at random, for the time of -soak.
func TestSoak(t *testing.T) {
	t.Parallel()
	srv := ssmtest.NewServer(ssmtest.Config{SSHAddr: randomPort(t)})
	defer srv.Close()
	t.Logf("seed %d", srv.Seed())
	ctx, cancel := context.WithTimeout(t.Context(), *soakFor+2*time.Minute)
	defer cancel()
	stream, err := open(ctx, srv)
	if err != nil {
		t.Fatal(err)
	}
	defer stream.Close()
	defer context.AfterFunc(ctx, func() { stream.Close() })()
	random := rand.NewChaCha8(seedBytes(srv.Seed()))

	stop, stopped := make(chan struct{}), make(chan struct{})
	began, moved := time.Now(), 0
	go func() { // ends with the soak
		defer close(stopped)
		dice := rand.New(rand.NewPCG(srv.Seed(), 1))
		for time.Since(began) < *soakFor {
			f := faults[dice.IntN(len(faults))]
			// The slow ones are rare, so that more than waiting is done.
			if !f.slow || *soakFor > time.Minute && dice.IntN(30) == 0 {
				f.do(srv, dice.IntN(2) == 0)
			}
			select {
			case <-stop:
				return
			case <-time.After(time.Duration(dice.IntN(1000)) * time.Millisecond):
			}
		}
	}()
	for time.Since(began) < *soakFor {
		w := workloads[random.Uint64()%uint64(len(workloads))]
		size := 1 + int(random.Uint64()%uint64(w.size))
		if err := w.move(stream, size, random); err != nil {
			t.Errorf("%s of %d bytes, after %v and %d bytes: %v (seed %d, %+v)",
				w.name, size, time.Since(began), moved, err, srv.Seed(), stream.Stats())
			break
		}
		moved += size
	}
	close(stop)
	<-stopped
	srv.SetFaults()
	if err := end(ctx, srv, stream); err != nil && !t.Failed() {
		t.Errorf("%v (seed %d)", err, srv.Seed())
	}
	t.Logf("%d bytes, %+v", moved, stream.Stats())
}
