package proxy

import (
	"context"
	"crypto/tls"
	"errors"
	"io"
	"log/slog"
	"net"
	"testing"
	"testing/synctest"
	"time"
)

func TestDialAheadIsUsedForTheSameAddress(t *testing.T) {
	t.Parallel()
	e := newEchoTLS(t)
	d := newTestDialer(e, "")
	d.dialAhead(t.Context(), e.addr)
	<-e.accepted
	c, err := d.DialTLS(t.Context(), "tcp", e.addr)
	checkEcho(t, c, err)
	c, err = d.DialTLS(t.Context(), "tcp", e.addr)
	checkEcho(t, c, err)
	if n := len(e.accepted); n != 1 {
		t.Errorf("%d connections after the one ahead, want 1", n)
	}
}

// dialledAgain returns a dialer that has connected to e, dialled again, and
// connected once more, with the connection that it then had.
func dialledAgain(t *testing.T, spare bool) (*echoTLS, *dialer) {
	t.Helper()
	e := newEchoTLS(t)
	d := newTestDialer(e, "")
	c, err := d.DialTLS(t.Context(), "tcp", e.addr)
	checkEcho(t, c, err)
	<-e.accepted
	d.dialAgain(t.Context(), spare)
	<-e.accepted
	c, err = d.DialTLS(t.Context(), "tcp", e.addr)
	checkEcho(t, c, err)
	return e, d
}

func TestDialAgainLeadsToTheLastAddress(t *testing.T) {
	t.Parallel()
	e, _ := dialledAgain(t, false)
	if n := len(e.accepted); n != 0 {
		t.Errorf("%d more connections than those two", n)
	}
}

// dialElsewhere lets d dial ahead to a server that takes one connection, and
// returns when it stands. dropped is closed when it has ended.
func dialElsewhere(t *testing.T, d *dialer) (dropped chan struct{}) {
	t.Helper()
	l := listen(t)
	accepted, dropped := make(chan struct{}), make(chan struct{})
	serve(t, l, func(c net.Conn) {
		close(accepted)
		io.Copy(io.Discard, c)
		close(dropped)
	})
	d.dialAhead(t.Context(), l.Addr().String())
	<-accepted
	return dropped
}

func TestDialAheadDropsTheOneBefore(t *testing.T) {
	t.Parallel()
	e := newEchoTLS(t)
	d := newTestDialer(e, "")
	dropped := dialElsewhere(t, d)
	d.dialAhead(t.Context(), e.addr)
	<-dropped
	c, err := d.DialTLS(t.Context(), "tcp", e.addr)
	checkEcho(t, c, err)
}

func TestDialAheadToAnotherAddressIsDropped(t *testing.T) {
	t.Parallel()
	e := newEchoTLS(t)
	d := newTestDialer(e, "")
	dropped := dialElsewhere(t, d)
	c, err := d.DialTLS(t.Context(), "tcp", e.addr)
	checkEcho(t, c, err)
	<-dropped
}

func TestDialAheadThatFailsFailsNothing(t *testing.T) {
	t.Parallel()
	e := newEchoTLS(t)
	d := newTestDialer(e, "")
	failed := false
	direct := d.dial
	d.dial = func(ctx context.Context, network, addr string) (net.Conn, error) {
		if !failed { // calls come one after the other
			failed = true
			return nil, errors.New("unlucky")
		}
		return direct(ctx, network, addr)
	}
	d.dialAhead(t.Context(), e.addr)
	c, err := d.DialTLS(t.Context(), "tcp", e.addr)
	checkEcho(t, c, err)
}

func TestDialAheadIsDroppedWhenItHasStoodUnused(t *testing.T) {
	t.Parallel()
	config := newEchoTLS(t).TLS
	synctest.Test(t, func(t *testing.T) {
		ends := make(chan error, 2) // of connections, as the server sees them
		d := &dialer{
			tls: &tls.Config{InsecureSkipVerify: true},
			log: slog.New(slog.DiscardHandler),
			dial: func(context.Context, string, string) (net.Conn, error) {
				near, far := net.Pipe()
				go func() {
					_, err := io.Copy(io.Discard, tls.Server(far, config))
					ends <- err
				}()
				return near, nil
			},
		}
		d.dialAhead(t.Context(), "127.0.0.1:443")
		time.Sleep(maxIdle - 1)
		synctest.Wait()
		if len(ends) > 0 {
			t.Fatal("dropped too early")
		}
		time.Sleep(time.Nanosecond)
		if err := <-ends; err != nil {
			t.Fatal(err)
		}
		if conn := d.takeAhead(t.Context(), "127.0.0.1:443"); conn != nil {
			t.Error("it can still be taken")
		}
	})
}

func TestSpareIsDialledWhenTheOneBeforeIsTaken(t *testing.T) {
	t.Parallel()
	e, d := dialledAgain(t, true)
	<-e.accepted // the spare
	d.dialAgain(t.Context(), false)
	c, err := d.DialTLS(t.Context(), "tcp", e.addr)
	checkEcho(t, c, err)
	if n := len(e.accepted); n != 0 {
		t.Errorf("%d more connections than those three", n)
	}
}
