// Package ssmstream is the data channel of AWS Session Manager as a net.Conn:
// a byte stream to a port of an instance, carried in numbered and acknowledged
// messages over a websocket that may break and be replaced.
//
// It knows no AWS SDK. What it needs of AWS it takes as the Signer and Resumer
// of its Config.
package ssmstream

import (
	"context"
	"errors"
	"fmt"
	"io"
	"log/slog"
	"net"
	"net/url"
	"os"
	"sync"
	"time"
)

const (
	defaultHandshakeTimeout = 30 * time.Second
	defaultResumeTimeout    = 15 * time.Minute

	firstDataAfter = time.Second // the handshake, where there is no output

	maxAcks = 8192 // acknowledgements kept for a connection that is away or slow
)

// Stream is a reliable byte stream to the port of an instance. It implements
// net.Conn; all methods may be called from any goroutine at any time.
//
// Two goroutines serve it and end with it: run, which connects, writes and
// reconnects, and, while there is a connection, readLoop.
type Stream struct {
	cfg      Config
	log      *slog.Logger
	clientID string // the same on every reconnect
	remote   Addr

	cancel context.CancelFunc // ends what run waits for
	ended  chan struct{}      // closed when run has returned
	wake   chan struct{}      // holds one: the write loop has something to do

	// Owned by run; announced, while a connection is served, by its read loop.
	signing   signing
	announced func(resumed bool) // ends the notice of a loss; nil where there is none

	writeLock sync.Mutex // held for the whole of a Write, so that none is split by another

	mu       sync.Mutex // guards everything below
	changed  sync.Cond  // ready, err, or what Terminate waits for
	readable sync.Cond  // output to read, err, or a read deadline
	writable sync.Cond  // room in the window, err, or a write deadline
	roomy    sync.Cond  // room for output, or a reason to read on without

	send       sender
	recv       receiver
	acks       []acknowledgement // to be sent
	acksSent   int               // on this connection
	acksTrial  int               // of them, before the agent is heard; see sender.trial
	recent     recentAcks
	unpause    unpause
	gap        int64    // the last number that was found missing
	pongs      []string // payloads of pings to be answered
	live       liveness
	connects   int  // connections opened so far
	reading    bool // the read loop waits for frames, not for room
	ready      bool // data may flow
	answered   bool // the handshake response has been pushed
	unsuitable string
	heldUntil  time.Time // when data is sent even without it
	greeted    bool      // the first output has come
	paused     bool      // pause_publication has come, and no start since
	ending     bool      // no more writes
	writers    int       // calls of Write under way
	flag       int64     // the number of the TerminateSession flag, or -1
	err        error     // why the stream is over; nil while it is not

	readDeadline, writeDeadline deadline
}

// Addr is the address of a stream's end: the gateway's host for the remote
// one, "ssmstream" for the local one.
type Addr string

// Network returns "ssm".
func (Addr) Network() string { return "ssm" }

func (a Addr) String() string { return string(a) }

// ClosedError is the end of a stream that the service closed with words. They
// are the service's, unaltered: clean them before they reach a terminal.
type ClosedError struct{ Output string }

func (e *ClosedError) Error() string { return "the service closed the session: " + e.Output }

// ErrHandshake is in the chain of Dial's error where the agent did not complete
// the handshake in time.
var ErrHandshake = errors.New("the instance's agent did not complete the handshake")

// Dial opens the data channel that g grants and returns when data may flow: the
// handshake is complete, or an agent too old for one has sent its first
// output. ctx limits the opening alone. On an error nothing is left running,
// but the session itself is the caller's to end.
//
// The errors: what ctx says; ErrUpgradeRefused, ErrHandshake and ErrSessionOver;
// a *ClosedError; io.ErrUnexpectedEOF where the service closed the channel
// without a word; errors of the Signer and Resumer; those of dialling.
func Dial(ctx context.Context, g Grant, cfg Config) (*Stream, error) {
	if cfg.DialTLS == nil {
		return nil, errors.New("ssmstream: Config.DialTLS is required")
	}
	life, cancel := context.WithCancel(context.Background())
	s := newStream(g, cfg, cancel)
	go s.run(life, g) // ends when the stream fails or is closed

	if err := s.awaitReady(ctx); err != nil {
		s.Close()
		return nil, err
	}
	return s, nil
}

func newStream(g Grant, cfg Config, cancel context.CancelFunc) *Stream {
	if cfg.Logger == nil {
		cfg.Logger = slog.New(slog.DiscardHandler)
	}
	if cfg.Notify == nil {
		cfg.Notify = func(Notice, string) {}
	}
	if cfg.HandshakeTimeout == 0 {
		cfg.HandshakeTimeout = defaultHandshakeTimeout
	}
	if cfg.ResumeTimeout == 0 {
		cfg.ResumeTimeout = defaultResumeTimeout
	}
	s := &Stream{
		cfg:      cfg,
		log:      cfg.Logger,
		clientID: NewUUID().String(),
		ended:    make(chan struct{}),
		wake:     make(chan struct{}, 1),
		flag:     -1,
		cancel:   cancel,
	}
	if u, err := url.Parse(g.StreamURL); err == nil {
		s.remote = Addr(u.Host)
		if presigned(u) {
			s.cfg.Resumer = nil
		}
	}
	s.send.window.restart()
	for _, c := range []*sync.Cond{&s.changed, &s.readable, &s.writable, &s.roomy} {
		c.L = &s.mu
	}
	return s
}

func (s *Stream) awaitReady(ctx context.Context) error {
	timeout := fmt.Errorf("%w within %s", ErrHandshake, s.cfg.HandshakeTimeout)
	ctx, cancel := context.WithTimeoutCause(ctx, s.cfg.HandshakeTimeout, timeout)
	defer cancel()
	defer s.broadcastAfter(ctx)()
	s.mu.Lock()
	defer s.mu.Unlock()
	for !s.ready && s.err == nil && ctx.Err() == nil {
		s.changed.Wait()
	}
	switch {
	case s.ready:
		return nil // an end that has come since is for Read to tell
	case errors.Is(s.err, io.EOF):
		return io.ErrUnexpectedEOF
	case s.err != nil && s.unsuitable != "":
		return fmt.Errorf("the session asks for %s, which is not supported: %w", s.unsuitable, s.err)
	case s.err != nil:
		return s.err
	}
	return context.Cause(ctx)
}

// broadcastAfter wakes who waits for changed when ctx is done. The function
// that it returns ends that.
func (s *Stream) broadcastAfter(ctx context.Context) (stop func() bool) {
	return context.AfterFunc(ctx, func() {
		s.mu.Lock()
		defer s.mu.Unlock()
		s.changed.Broadcast()
	})
}

// Read returns what has come, as much as fits p. After the last byte it returns
// io.EOF where the session ended in order, a *ClosedError where the service
// closed it with words, and another error where the stream broke; after Close,
// net.ErrClosed.
func (s *Stream) Read(p []byte) (int, error) {
	s.mu.Lock()
	defer s.mu.Unlock()
	for {
		switch {
		case s.readDeadline.passed():
			return 0, os.ErrDeadlineExceeded
		case s.recv.unread.Len() > 0 || len(p) == 0 && s.err == nil:
			n, _ := s.recv.unread.Read(p)
			if s.recv.unread.Len() < maxUnread/2 {
				s.roomy.Signal()
			}
			return n, nil
		case s.err != nil:
			return 0, s.err
		}
		s.readable.Wait()
	}
}

// Write queues p for sending, in messages of at most MaxPayload bytes. It
// blocks while the window is full, and returns before the data is
// acknowledged: Terminate tells whether it was. Once the stream is over, or
// Terminate has been called, the error is net.ErrClosed or why it broke.
func (s *Stream) Write(p []byte) (n int, err error) {
	s.writeLock.Lock()
	defer s.writeLock.Unlock()
	s.mu.Lock()
	defer s.mu.Unlock()
	if s.ending {
		return 0, net.ErrClosed
	}
	s.writers++
	defer func() {
		s.writers--
		if s.ending {
			s.changed.Broadcast()
		}
	}()
	for {
		switch {
		case s.err != nil && (errors.Is(s.err, io.EOF)):
			return n, net.ErrClosed
		case s.err != nil:
			return n, s.err
		case s.writeDeadline.passed():
			return n, os.ErrDeadlineExceeded
		}
		now := time.Now()
		if m := s.send.write(p[n:], now); m > 0 {
			n += m
			s.live.wait(true, now)
			s.roomy.Signal()
			s.kick()
		}
		if n == len(p) {
			return n, nil
		}
		s.writable.Wait()
	}
}

// Terminate ends the session in order: writes under way are let finish, what
// was written is sent, then the TerminateSession flag; no other Write is
// accepted. It returns nil when the agent has acknowledged all of that, or the
// session is over anyway; the stream then ends with io.EOF, behind what came
// meanwhile. When ctx is done first, its error is returned, the stream goes on,
// and the session is the caller's to end.
func (s *Stream) Terminate(ctx context.Context) error {
	defer s.broadcastAfter(ctx)()
	s.mu.Lock()
	defer s.mu.Unlock()
	s.ending = true
	for s.writers > 0 && s.err == nil && ctx.Err() == nil {
		s.changed.Wait()
	}
	for s.flag < 0 && s.err == nil && ctx.Err() == nil {
		now := time.Now()
		if s.flag = s.send.push(PayloadFlag, flagPayload(FlagTerminateSession), now); s.flag < 0 {
			s.changed.Wait() // no place in the ring: an acknowledgement makes one
			continue
		}
		s.live.wait(true, now)
		s.roomy.Signal()
		s.kick()
	}
	// The agent takes messages in order, but acknowledges what it only holds:
	// all of them have to be acknowledged, not the flag alone.
	for !s.send.arrived(s.flag) && s.err == nil && ctx.Err() == nil {
		s.changed.Wait()
	}
	var closed *ClosedError
	switch {
	case s.flag >= 0 && s.send.arrived(s.flag):
		s.finish(io.EOF)
		return nil
	case s.err == nil:
		return ctx.Err()
	case errors.Is(s.err, io.EOF), errors.Is(s.err, ErrSessionOver), errors.As(s.err, &closed):
		return nil
	}
	return s.err
}

// Close ends the stream at once, without a word to the agent: the session
// stays open until somebody ends it (see Terminate). It returns when every
// goroutine of the stream has ended.
func (s *Stream) Close() error {
	s.mu.Lock()
	s.finish(net.ErrClosed)
	s.recv.unread.Reset()
	s.err = net.ErrClosed
	s.mu.Unlock()
	<-s.ended
	return nil
}

// finish ends the stream, for the first reason given. s.mu is held.
func (s *Stream) finish(err error) {
	if s.err != nil {
		return
	}
	s.err = err
	s.cancel()
	for _, c := range []*sync.Cond{&s.changed, &s.readable, &s.writable, &s.roomy} {
		c.Broadcast()
	}
}

// kick tells the write loop that there is something to do.
func (s *Stream) kick() {
	select {
	case s.wake <- struct{}{}:
	default:
	}
}

// LocalAddr returns the Addr "ssmstream".
func (s *Stream) LocalAddr() net.Addr { return Addr("ssmstream") }

// RemoteAddr returns the gateway's host, as an Addr.
func (s *Stream) RemoteAddr() net.Addr { return s.remote }

// SetDeadline sets both deadlines; the zero time means none.
func (s *Stream) SetDeadline(t time.Time) error {
	return errors.Join(s.SetReadDeadline(t), s.SetWriteDeadline(t))
}

// SetReadDeadline sets when Read, also one that waits already, returns
// os.ErrDeadlineExceeded.
func (s *Stream) SetReadDeadline(t time.Time) error {
	return s.setDeadline(&s.readDeadline, &s.readable, t)
}

// SetWriteDeadline sets when Write, also one that waits already, returns
// os.ErrDeadlineExceeded. The bytes that it reports as written are sent.
func (s *Stream) SetWriteDeadline(t time.Time) error {
	return s.setDeadline(&s.writeDeadline, &s.writable, t)
}

func (s *Stream) setDeadline(d *deadline, waiters *sync.Cond, t time.Time) error {
	s.mu.Lock()
	defer s.mu.Unlock()
	if s.err != nil {
		return net.ErrClosed
	}
	d.set(t, func() {
		s.mu.Lock()
		defer s.mu.Unlock()
		waiters.Broadcast()
	})
	waiters.Broadcast()
	return nil
}

// deadline is a time after which something is no longer waited for. Its owner
// serialises the calls.
type deadline struct {
	at    time.Time
	timer *time.Timer
}

func (d *deadline) set(t time.Time, expired func()) {
	if d.timer != nil {
		d.timer.Stop()
		d.timer = nil
	}
	d.at = t
	if !t.IsZero() {
		d.timer = time.AfterFunc(time.Until(t), expired)
	}
}

func (d *deadline) passed() bool {
	return !d.at.IsZero() && !time.Now().Before(d.at)
}
