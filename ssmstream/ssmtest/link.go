package ssmtest

import (
	"maps"
	"net"
	"slices"
	"sync"
	"sync/atomic"
	"time"
)

// Link is the path between client and service. It delays the setting up of a
// connection by a round trip, and every byte by half of one, without limiting
// what is on its way, unless Rate does.
type Link struct {
	// RTT is the round-trip time.
	RTT time.Duration

	// Rate limits each direction of each connection, in bytes a second;
	// unlimited when 0.
	Rate int

	// Queue is how many bytes wait at the narrow place before it stops taking
	// more, with Rate set. 64 KiB when 0.
	Queue int
}

func (l Link) zero() bool { return l.RTT == 0 && l.Rate == 0 }

// capacity is how many bytes may be on their way in one direction.
func (l Link) capacity() int {
	if l.Rate == 0 {
		return 64 << 20
	}
	queue := l.Queue
	if queue == 0 {
		queue = 64 << 10
	}
	return queue + int(float64(l.Rate)*l.RTT.Seconds()/2)
}

// listener accepts TCP connections and makes them linkConns, which faults can
// reset, cut and swallow.
type listener struct {
	*net.TCPListener
	srv *Server

	mu      sync.Mutex
	conns   map[*linkConn]struct{}
	link    Link
	refuse  int       // how many connections still to reset
	until   time.Time // of an outage
	hole    bool      // a blackhole swallows what moves
	holeNew bool      // new connections too
	closed  bool
}

func (l *listener) Accept() (net.Conn, error) {
	for {
		raw, err := l.AcceptTCP()
		if err != nil {
			return nil, err
		}
		l.srv.count.change(func(s *Stats) { s.Connections++ })
		if c := l.admit(raw); c != nil {
			return c, nil
		}
		l.srv.count.change(func(s *Stats) { s.Refused++ })
		reset(raw)
	}
}

// admit returns nil for a connection that a fault refuses.
func (l *listener) admit(raw *net.TCPConn) *linkConn {
	l.mu.Lock()
	defer l.mu.Unlock()
	if l.closed || time.Now().Before(l.until) {
		return nil
	}
	if l.refuse > 0 {
		l.refuse--
		return nil
	}
	c := &linkConn{TCPConn: raw, listener: l}
	if !l.link.zero() {
		if l.link.Rate > 0 {
			// The kernel's own buffers are not to stand in for the path's.
			raw.SetReadBuffer(32 << 10)
			raw.SetWriteBuffer(32 << 10)
		}
		c.path = newPath(c, l.link)
	}
	c.hole.Store(l.hole && l.holeNew)
	l.conns[c] = struct{}{}
	return c
}

func (l *listener) forget(c *linkConn) {
	l.mu.Lock()
	defer l.mu.Unlock()
	delete(l.conns, c)
}

// all returns every connection.
func (l *listener) all() []*linkConn {
	l.mu.Lock()
	defer l.mu.Unlock()
	return slices.Collect(maps.Keys(l.conns))
}

// shut refuses every connection from now on and cuts those that are there.
func (l *listener) shut() {
	l.mu.Lock()
	l.closed = true
	l.mu.Unlock()
	for _, c := range l.all() {
		c.cut()
	}
}

func reset(c *net.TCPConn) {
	c.SetLinger(0)
	c.Close()
}

// linkConn is the service's end of a client's TCP connection, below TLS.
type linkConn struct {
	*net.TCPConn
	listener *listener
	path     *path // nil without delay and limit

	hole      atomic.Bool // bytes that move are swallowed
	swallowed atomic.Bool // some were: nothing passes ever again
}

// swallow reports whether bytes that are about to pass are to vanish.
func (c *linkConn) swallow() bool {
	if c.swallowed.Load() {
		return true
	}
	if !c.hole.Load() {
		return false
	}
	if !c.swallowed.Swap(true) {
		c.listener.srv.count.swallowed.Add(1)
	}
	return true
}

func (c *linkConn) Read(p []byte) (int, error) {
	if c.path != nil {
		return c.path.in.read(p)
	}
	return c.rawRead(p)
}

func (c *linkConn) rawRead(p []byte) (int, error) {
	for {
		n, err := c.TCPConn.Read(p)
		if err != nil || !c.swallow() {
			return n, err
		}
	}
}

func (c *linkConn) Write(p []byte) (int, error) {
	if c.path != nil {
		return c.path.out.write(p, time.Now())
	}
	return c.rawWrite(p)
}

func (c *linkConn) rawWrite(p []byte) (int, error) {
	if c.swallow() {
		return len(p), nil
	}
	return c.TCPConn.Write(p)
}

func (c *linkConn) SetDeadline(t time.Time) error {
	c.SetReadDeadline(t)
	return c.SetWriteDeadline(t)
}

func (c *linkConn) SetReadDeadline(t time.Time) error {
	if c.path != nil {
		c.path.in.setReadDeadline(t)
		return nil
	}
	return c.TCPConn.SetReadDeadline(t)
}

func (c *linkConn) SetWriteDeadline(t time.Time) error {
	if c.path != nil {
		c.path.out.setWriteDeadline(t)
		return nil
	}
	return c.TCPConn.SetWriteDeadline(t)
}

// Close lets what was written arrive first, as TCP does.
func (c *linkConn) Close() error {
	if c.path != nil {
		c.path.close()
		return nil
	}
	c.listener.forget(c)
	return c.TCPConn.Close()
}

// cut resets the connection: what is on its way is lost.
func (c *linkConn) cut() {
	c.listener.forget(c)
	reset(c.TCPConn)
	if c.path != nil {
		c.path.abort()
	}
}
