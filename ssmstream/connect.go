package ssmstream

import (
	"context"
	"crypto/tls"
	"errors"
	"fmt"
	"io"
	"math/rand/v2"
	"time"
)

const (
	attemptTimeout = 10 * time.Second // for a new grant, the dialling and the upgrade together
	noticeAfter    = 2 * time.Second  // without connection, before the person is told

	firstRetry   = 500 * time.Millisecond // doubled from the second retry on; the first is immediate
	slowestRetry = 4 * time.Second
	openAttempts = 4 // before the channel has ever been open
	idleProof    = 5 * time.Second

	// Connections that are good and break are replaced at once, up to
	// burstReconnects of them; then one in each reconnectEvery, for the
	// service's sake.
	burstReconnects = 200
	reconnectEvery  = 100 * time.Millisecond
)

// run connects, serves the connection, and connects again, until the stream is
// over.
func (s *Stream) run(ctx context.Context, g Grant) {
	defer close(s.ended)
	defer s.cancel()
	r := reconnector{stream: s, grant: &g}
	for {
		ch, err := r.connect(ctx)
		if err == nil {
			err = s.serve(ctx, ch)
			r.broken(ch, err)
		}
		s.mu.Lock()
		switch {
		case ch == nil && s.flag >= 0 && errors.Is(err, ErrSessionOver):
			s.finish(io.EOF) // as was asked for; the agent's answer is what got lost
		case ch == nil:
			s.finish(err)
		}
		over := s.err != nil
		s.mu.Unlock()
		if over {
			return
		}
	}
}

// reconnector is run's memory of how connecting went.
type reconnector struct {
	stream *Stream
	grant  *Grant // not used yet; nil: ask for one

	opened   bool      // the service has been heard on a channel
	cause    error     // why the last connection broke, or could not be made
	lost     time.Time // when the last good connection broke
	attempts int       // since a connection that was good
	spent    time.Time // when all of burstReconnects is to be had again
}

// broken takes in that a connection is gone. What breaks at once, time after
// time, has to be retried ever more slowly: a connection was good only if the
// agent was heard on it, or if it stood for a while with nothing to say.
func (r *reconnector) broken(ch *channel, err error) {
	r.stream.mu.Lock()
	defer r.stream.mu.Unlock()
	r.cause = err
	r.opened = r.opened || ch.heard
	idled := ch.heard && time.Since(ch.opened) > idleProof && !errors.Is(err, errSilentAgent)
	if ch.proven || idled {
		r.attempts, r.lost = 0, time.Now()
	}
}

// connect returns an open channel, or the error that ends the stream.
func (r *reconnector) connect(ctx context.Context) (ch *channel, err error) {
	s := r.stream
	if r.lost.IsZero() {
		r.lost = time.Now()
	}
	if r.opened && s.cfg.Resumer != nil {
		s.log.Info("connection lost, resuming", "error", r.cause)
		if s.announced == nil { // connections that break at once are one loss
			s.announced = s.announce(r.cause)
		}
		defer func() {
			if err != nil {
				s.announced(false)
			}
		}()
	}
	for {
		switch {
		case r.grant == nil && s.cfg.Resumer == nil:
			return nil, r.failed("connection to the service lost")
		case !r.opened && r.attempts >= openAttempts:
			return nil, r.failed("the service closes the data channel as soon as it is open")
		case time.Since(r.lost) > s.cfg.ResumeTimeout:
			return nil, r.failed(fmt.Sprintf("connection to the service lost and not resumed within %s", s.cfg.ResumeTimeout))
		}
		if err := r.pause(ctx); err != nil {
			return nil, err
		}
		ch, err := r.attempt(ctx)
		if err == nil {
			return ch, nil
		}
		r.cause = err
		s.log.Info("not connected", "attempt", r.attempts, "error", err)
		switch {
		case ctx.Err() != nil, errors.Is(err, ErrSessionOver), IsPermanent(err):
			return nil, err
		case !r.opened && (r.attempts >= openAttempts || badCertificate(err)):
			return nil, err
		}
	}
}

func (r *reconnector) failed(what string) error {
	if r.cause == nil {
		return errors.New(what)
	}
	return fmt.Errorf("%s: %w", what, r.cause)
}

// badCertificate errors are final at the start. Later they may be the captive
// portal of the network that a laptop woke up in.
func badCertificate(err error) bool {
	var certificate *tls.CertificateVerificationError
	return errors.As(err, &certificate)
}

// pause waits before an attempt: not at all before the first and its first
// retry, while there are not too many of them, then exponentially longer, half
// of it at random.
func (r *reconnector) pause(ctx context.Context) error {
	r.attempts++
	r.spent = latest(r.spent, time.Now()).Add(reconnectEvery)
	wait := max(0, time.Until(r.spent)-burstReconnects*reconnectEvery)
	if r.attempts > 2 {
		backoff := min(firstRetry<<min(r.attempts-3, 8), slowestRetry)
		wait = max(wait, backoff/2+rand.N(backoff/2))
	}
	select {
	case <-time.After(wait):
		return nil
	case <-ctx.Done():
		return ctx.Err()
	}
}

func (r *reconnector) attempt(ctx context.Context) (*channel, error) {
	s := r.stream
	ctx, cancel := context.WithTimeout(ctx, attemptTimeout)
	defer cancel()
	if r.grant == nil {
		g, err := s.cfg.Resumer.ResumeSession(ctx)
		if err != nil {
			return nil, fmt.Errorf("resume the session: %w", err)
		}
		r.grant = &g
	}
	g := *r.grant
	r.grant = nil // a token opens one channel
	return s.openChannel(ctx, g)
}

// announce tells the person that the connection is lost once it has been for
// noticeAfter. The function that it returns tells, then, whether it is back.
func (s *Stream) announce(cause error) (done func(resumed bool)) {
	told := make(chan struct{})
	timer := time.AfterFunc(noticeAfter, func() {
		defer close(told)
		s.cfg.Notify(NoticeLost, cause.Error())
	})
	return func(resumed bool) {
		if timer.Stop() {
			return
		}
		<-told
		if resumed {
			s.cfg.Notify(NoticeResumed, "")
		}
	}
}
