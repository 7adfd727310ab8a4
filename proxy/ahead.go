package proxy

import (
	"context"
	"net"
	"time"
)

const (
	// maxIdle is how long a connection stands unused before it is dropped; the
	// gateway closes those that say nothing.
	maxIdle = 5 * time.Second

	// spareWithin is how soon one loss follows another where the next connection
	// is dialled before it is needed. That takes TCP and TLS, two round trips, out
	// of the way, beside which ResumeSession takes one.
	spareWithin = time.Second
)

// preDial is a connection made before anyone asks for it.
type preDial struct {
	addr   string
	cancel context.CancelFunc
	done   chan struct{} // closed when what follows is set
	conn   net.Conn
	err    error
}

// dialAhead starts to connect to addr while other things go on. It delays,
// prints and fails nothing; discardAhead, a DialTLS, another dialAhead, or
// maxIdle ends it.
func (d *dialer) dialAhead(ctx context.Context, addr string) {
	d.discardAhead()
	ctx, cancel := context.WithCancel(ctx)
	p := &preDial{addr: addr, cancel: cancel, done: make(chan struct{})}
	d.mu.Lock()
	d.ahead = p
	d.mu.Unlock()
	go func() { // ends with the connection made, or p.cancel
		defer close(p.done)
		p.conn, p.err = d.connect(ctx, "tcp", addr)
		if p.err != nil {
			d.log.Debug("dialling ahead failed", "addr", addr, "error", p.err.Error())
			d.drop(p)
			return
		}
		time.AfterFunc(maxIdle, func() { d.drop(p) })
	}()
}

// dialAgain is dialAhead to where the last DialTLS led, where that is not under
// way. With spare it is from now on as soon as that one is taken.
func (d *dialer) dialAgain(ctx context.Context, spare bool) {
	d.mu.Lock()
	addr, there := d.last, d.ahead != nil
	d.spare = spare
	d.mu.Unlock()
	if !there {
		d.dialAhead(ctx, addr)
	}
}

// takeAhead returns the connection made ahead to addr, nil where there is none
// that is any good.
func (d *dialer) takeAhead(ctx context.Context, addr string) net.Conn {
	d.mu.Lock()
	p := d.ahead
	d.ahead = nil
	d.mu.Unlock()
	if p == nil {
		return nil
	}
	if p.addr != addr {
		p.discard()
		return nil
	}
	select {
	case <-p.done:
	case <-ctx.Done():
		p.discard()
		return nil
	}
	return p.conn // p.cancel is not called: a dialled connection outlives its context anyway
}

// discardAhead drops a connection made ahead that nobody took.
func (d *dialer) discardAhead() {
	d.mu.Lock()
	p := d.ahead
	d.mu.Unlock()
	if p != nil {
		d.drop(p)
	}
}

// drop discards p unless somebody took it.
func (d *dialer) drop(p *preDial) {
	d.mu.Lock()
	mine := d.ahead == p
	if mine {
		d.ahead = nil
	}
	d.mu.Unlock()
	if mine {
		p.discard()
	}
}

func (p *preDial) discard() {
	p.cancel()
	go func() { // ends as soon as the dial has noticed
		<-p.done
		if p.conn != nil {
			p.conn.Close()
		}
	}()
}
