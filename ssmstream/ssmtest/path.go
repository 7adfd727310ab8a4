package ssmtest

import (
	"io"
	"net"
	"os"
	"sync"
	"time"
)

// path carries a linkConn's bytes with a Link's delay and rate: one delay line
// each way, and a goroutine each that moves bytes between line and socket.
type path struct {
	conn    *linkConn
	in, out *delayLine
}

func newPath(c *linkConn, link Link) *path {
	p := &path{conn: c, in: newDelayLine(link), out: newDelayLine(link)}
	// The client's connect returned at once; over a real path it would have
	// taken a round trip, and its first byte would leave only now.
	p.in.free = time.Now().Add(link.RTT)
	c.listener.srv.wg.Go(p.pumpIn)
	c.listener.srv.wg.Go(p.pumpOut)
	return p
}

func (p *path) pumpIn() {
	buf := make([]byte, 64<<10)
	for {
		n, err := p.conn.rawRead(buf)
		if n > 0 {
			if _, err := p.in.write(buf[:n], time.Now()); err != nil {
				return
			}
		}
		if err != nil {
			p.in.finish(err)
			return
		}
	}
}

// pumpOut owns the closing of the socket.
func (p *path) pumpOut() {
	defer p.conn.listener.forget(p.conn)
	defer p.conn.TCPConn.Close()
	buf := make([]byte, 64<<10)
	for {
		n, err := p.out.read(buf)
		if err != nil {
			return
		}
		if _, err := p.conn.rawWrite(buf[:n]); err != nil {
			p.out.abort(err)
			return
		}
	}
}

func (p *path) close() {
	p.in.abort(net.ErrClosed)
	p.out.finish(io.EOF)
}

func (p *path) abort() {
	p.in.abort(net.ErrClosed)
	p.out.abort(net.ErrClosed)
}

// delayLine is one direction of a path: bytes come out Link.RTT/2 after they
// went in, or later where Link.Rate does not let them. One goroutine reads.
type delayLine struct {
	readable, writable chan struct{} // capacity 1: something may have changed

	mu       sync.Mutex
	link     Link
	free     time.Time // when the narrow place has dealt with what went in
	chunks   []chunk
	size     int   // bytes in chunks
	err      error // no more goes in; comes out after the chunks
	aborted  bool  // nothing more comes out either
	readEnd  time.Time
	writeEnd time.Time
}

type chunk struct {
	due  time.Time
	data []byte
}

func newDelayLine(link Link) *delayLine {
	return &delayLine{link: link, readable: make(chan struct{}, 1), writable: make(chan struct{}, 1)}
}

func poke(c chan struct{}) {
	select {
	case c <- struct{}{}:
	default:
	}
}

// wait returns at a poke of c, or at t where that is set.
func wait(c chan struct{}, t time.Time) {
	if t.IsZero() {
		<-c
		return
	}
	timer := time.NewTimer(time.Until(t))
	defer timer.Stop()
	select {
	case <-c:
	case <-timer.C:
	}
}

const (
	pieceSize = 4 << 10                // what a rate lets through at a time
	mergeSpan = 200 * time.Microsecond // chunks due this close become one
)

// write puts in a copy of p that arrived at now, waiting while the line is
// full.
func (l *delayLine) write(p []byte, now time.Time) (int, error) {
	done := 0
	for done < len(p) {
		l.mu.Lock()
		switch {
		case l.err != nil:
			l.mu.Unlock()
			return done, net.ErrClosed
		case l.size >= l.link.capacity():
			end := l.writeEnd
			l.mu.Unlock()
			if !end.IsZero() && !time.Now().Before(end) {
				return done, os.ErrDeadlineExceeded
			}
			wait(l.writable, end)
			now = time.Now()
			continue
		}
		piece := p[done:]
		if l.link.Rate > 0 && len(piece) > pieceSize {
			piece = piece[:pieceSize]
		}
		l.add(piece, now)
		l.mu.Unlock()
		done += len(piece)
		poke(l.readable)
	}
	return done, nil
}

func (l *delayLine) add(piece []byte, now time.Time) {
	if l.free.Before(now) {
		l.free = now
	}
	if l.link.Rate > 0 {
		l.free = l.free.Add(time.Duration(float64(len(piece)) / float64(l.link.Rate) * float64(time.Second)))
	}
	due := l.free.Add(l.link.RTT / 2)
	l.size += len(piece)
	if n := len(l.chunks); n > 0 {
		if last := &l.chunks[n-1]; due.Sub(last.due) < mergeSpan && l.link.Rate == 0 {
			last.data = append(last.data, piece...)
			return
		}
	}
	l.chunks = append(l.chunks, chunk{due, append([]byte(nil), piece...)})
}

// read waits for the next bytes to come out.
func (l *delayLine) read(p []byte) (int, error) {
	for {
		l.mu.Lock()
		now := time.Now()
		var next time.Time
		switch {
		case l.aborted:
			l.mu.Unlock()
			return 0, l.err
		case !l.readEnd.IsZero() && !now.Before(l.readEnd):
			l.mu.Unlock()
			return 0, os.ErrDeadlineExceeded
		case len(l.chunks) > 0 && !now.Before(l.chunks[0].due):
			n := l.remove(p)
			l.mu.Unlock()
			poke(l.writable)
			return n, nil
		case len(l.chunks) > 0:
			next = l.chunks[0].due
		case l.err != nil:
			l.mu.Unlock()
			return 0, l.err
		}
		if !l.readEnd.IsZero() && (next.IsZero() || l.readEnd.Before(next)) {
			next = l.readEnd
		}
		l.mu.Unlock()
		wait(l.readable, next)
	}
}

func (l *delayLine) remove(p []byte) int {
	first := &l.chunks[0]
	n := copy(p, first.data)
	first.data = first.data[n:]
	l.size -= n
	if len(first.data) == 0 {
		l.chunks[0] = chunk{}
		l.chunks = l.chunks[1:]
	}
	return n
}

// finish ends the line behind what is in it.
func (l *delayLine) finish(err error) {
	l.mu.Lock()
	if l.err == nil {
		l.err = err
	}
	l.mu.Unlock()
	poke(l.readable)
	poke(l.writable)
}

// abort ends the line with what is in it.
func (l *delayLine) abort(err error) {
	l.mu.Lock()
	l.aborted = true
	l.chunks, l.size = nil, 0
	l.mu.Unlock()
	l.finish(err)
}

func (l *delayLine) setLink(link Link) {
	l.mu.Lock()
	l.link = link
	l.mu.Unlock()
	poke(l.readable)
	poke(l.writable)
}

func (l *delayLine) setReadDeadline(t time.Time) {
	l.mu.Lock()
	l.readEnd = t
	l.mu.Unlock()
	poke(l.readable)
}

func (l *delayLine) setWriteDeadline(t time.Time) {
	l.mu.Lock()
	l.writeEnd = t
	l.mu.Unlock()
	poke(l.writable)
}
