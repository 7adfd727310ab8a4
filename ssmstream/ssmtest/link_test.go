package ssmtest

import (
	"bytes"
	"errors"
	"io"
	"os"
	"testing"
	"testing/synctest"
	"time"

	"github.com/gorilla/websocket"

	"ssmproxy/ssmstream"
)

func TestRoundTripsOverALink(t *testing.T) {
	t.Parallel()
	const rtt = 60 * time.Millisecond
	s := newServer(t, Config{Link: Link{RTT: rtt}, MuteAgent: true})
	_, g := s.StartSession(target)

	// TCP 1, TLS 1.3 1, upgrade 1, first frame to start_publication 1.
	began := time.Now()
	c := dial(t, s, g)
	c.await(ssmstream.StartPublication)
	if took := time.Since(began); took < 4*rtt {
		t.Errorf("opening took %v, which is %.1f round trips", took, float64(took)/float64(rtt))
	}
	began = time.Now()
	c.ws.SetPongHandler(func(string) error { return errors.New("pong") })
	if err := c.ws.WriteControl(websocket.PingMessage, nil, time.Now().Add(patience)); err != nil {
		t.Fatal(err)
	}
	if _, err := c.receive(); err == nil || err.Error() != "pong" {
		t.Fatal(err)
	}
	if took := time.Since(began); took < rtt {
		t.Errorf("ping took %v", took)
	}
}

// The delay lines have exact times in a synctest bubble.

func TestDelayKeepsBandwidth(t *testing.T) {
	synctest.Test(t, func(t *testing.T) {
		l := newDelayLine(Link{RTT: 100 * time.Millisecond})
		data := make([]byte, 8<<20)
		for i := range data {
			data[i] = byte(i * 7)
		}
		go func() {
			for rest := data; len(rest) > 0; rest = rest[16<<10:] {
				l.write(rest[:16<<10], time.Now())
			}
			l.finish(io.EOF)
		}()
		began := time.Now()
		got, err := io.ReadAll(reader{l})
		if err != nil || !bytes.Equal(got, data) {
			t.Errorf("%d bytes of %d, %v", len(got), len(data), err)
		}
		if took := time.Since(began); took != 50*time.Millisecond {
			t.Errorf("took %v", took)
		}
	})
}

type reader struct{ l *delayLine }

func (r reader) Read(p []byte) (int, error) { return r.l.read(p) }

func TestRateLimits(t *testing.T) {
	synctest.Test(t, func(t *testing.T) {
		const rate = 1 << 20
		l := newDelayLine(Link{RTT: 20 * time.Millisecond, Rate: rate})
		go func() {
			l.write(make([]byte, rate/4), time.Now())
			l.finish(io.EOF)
		}()
		began := time.Now()
		got, err := io.ReadAll(reader{l})
		if err != nil || len(got) != rate/4 {
			t.Errorf("%d bytes, %v", len(got), err)
		}
		if took := time.Since(began).Round(time.Millisecond); took != 260*time.Millisecond {
			t.Errorf("took %v", took)
		}
	})
}

func TestFullLinkTakesNoMore(t *testing.T) {
	synctest.Test(t, func(t *testing.T) {
		l := newDelayLine(Link{Rate: 1000, Queue: 4096})
		l.setWriteDeadline(time.Now().Add(20 * time.Millisecond))
		n, err := l.write(make([]byte, 1<<20), time.Now())
		if !errors.Is(err, os.ErrDeadlineExceeded) || n > 2*4096 {
			t.Errorf("took %d bytes, %v", n, err)
		}
	})
}

func TestReadDeadlineOfALink(t *testing.T) {
	synctest.Test(t, func(t *testing.T) {
		l := newDelayLine(Link{RTT: time.Hour})
		l.write([]byte("x"), time.Now())
		l.setReadDeadline(time.Now().Add(10 * time.Millisecond))
		if _, err := l.read(make([]byte, 1)); !errors.Is(err, os.ErrDeadlineExceeded) {
			t.Errorf("read: %v", err)
		}
	})
}

func TestRateReachesTheClientsTCP(t *testing.T) {
	t.Parallel()
	s := newServer(t, Config{Link: Link{Rate: 64 << 10}, MuteAgent: true})
	c := open(t, s)
	c.await(ssmstream.StartPublication)
	// What fits nowhere on the way keeps the writer waiting: the queue, and
	// the kernel's buffers at either end.
	c.ws.SetWriteDeadline(time.Now().Add(300 * time.Millisecond))
	frame := input(0, ssmstream.PayloadOutput, make([]byte, 1024)).AppendTo(nil)
	sent := 0
	for sent < 64<<20 && c.ws.WriteMessage(websocket.BinaryMessage, frame) == nil {
		sent += len(frame)
	}
	if sent >= 64<<20 {
		t.Error("never had to wait")
	}
}

func TestLinkedSessionIsByteExact(t *testing.T) {
	t.Parallel()
	s := newServer(t, Config{SSHAddr: listen(t, greet), Link: Link{RTT: 10 * time.Millisecond, Rate: 4 << 20}})
	c := ready(t, s)
	var want []byte
	for i := range 100 {
		chunk := bytes.Repeat([]byte{byte(i)}, 1000)
		want = append(want, chunk...)
		c.send(ssmstream.PayloadOutput, chunk)
	}
	if got := c.awaitBytes(len(want)); got != string(want) {
		t.Error("the echo differs")
	}
}
