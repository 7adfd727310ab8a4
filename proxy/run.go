package proxy

import (
	"context"
	"errors"
	"fmt"
	"io"
	"log/slog"
	"os"
	"runtime/debug"
	"sync/atomic"
	"time"
	"unicode/utf8"

	"ssmproxy/ssmstream"
)

const (
	// endTimeout limits the orderly end: what was read is sent and
	// acknowledged, the agent told.
	endTimeout = 5 * time.Second
	// lastWords limits how long connecting goes on for the sake of what was
	// read from a standard input that has ended.
	lastWords = 3 * time.Second
)

// Run opens the session that o asks for and carries bytes between it and
// stdin and stdout until one side ends it, or a signal or ctx does. It leaves
// no session behind, closes stdout, and returns the exit status: 0 where the
// remote side or ssh ended the session, 1 after an error, 2 after wrong usage.
// It handles the process's signals and is to be called once.
func Run(ctx context.Context, o Options, stdin, stdout, stderr *os.File) int {
	u := &ui{w: stderr, terminal: isTerminal(stderr)}
	o = o.withDefaults()
	t, err := parseTarget(o.Host, o.Port)
	if err == nil {
		err = o.validate()
	}
	if n := utf8.RuneCountInString(o.Reason); err == nil && n > maxReason {
		err = usage(fmt.Sprintf("the reason is %d characters long, %d are allowed", n, maxReason))
	}
	if err == nil && (isTerminal(stdin) || isTerminal(stdout)) {
		err = byHand(o)
	}
	if err != nil {
		u.fail(err)
		return exitStatus(err)
	}
	log, logFile, err := newLogger(o, u)
	if err != nil {
		u.fail(err)
		return exitStatus(err)
	}
	defer logFile.Close()
	ctx, stop := untilSignal(ctx, log)
	defer stop()

	s := &session{ui: u, log: log, stdin: newInput(stdin), stdout: stdout}
	return exitStatus(s.run(ctx, o, t))
}

// session is one run from the first call to the last.
type session struct {
	ui     *ui
	log    *slog.Logger
	client *client
	dialer *dialer
	stdin  *input
	stdout *os.File
	start  time.Time
	over   bool // the service's session is known to have ended

	stands atomic.Bool // the stream has carried data or could
	lost   atomic.Bool // the person was told so, and not yet that it is back
}

// run does it all. Its error has been told to the person.
func (s *session) run(ctx context.Context, o Options, t target) error {
	s.start = time.Now()
	defer s.stdin.abandon()
	client, err := newClient(ctx, o, t, s.log)
	if err != nil {
		return s.report(situation{options: o, target: t}.explain(err))
	}
	s.client, s.dialer = client, newDialer(client.config(), s.log)
	defer s.dialer.discardAhead()
	stream, err := s.connect(ctx)
	if err == nil && stream != nil {
		err = s.carry(ctx, stream)
		n := stream.Stats()
		s.log.Info("carried", "messages sent", n.Sent, "sent again", n.Resent,
			"received", n.Received, "received again", n.Duplicates, "connections", n.Connects)
		stream.Close()
	}
	if err != nil {
		s.report(client.explain(err))
	}
	// ssh waits for this, and for nothing that is left to do.
	s.stdout.Close()
	if s.over {
		return err
	}
	if terminateErr := client.terminate(context.WithoutCancel(ctx)); terminateErr != nil {
		s.log.Info("the session could not be ended", "error", plainError(terminateErr))
		if err == nil {
			err = s.report(errorWithHint(terminateErr, "the session could not be ended: "+client.explain(terminateErr).Error(),
				"it ends by itself at the account's idle timeout"))
		}
	}
	return err
}

// report tells the person what went wrong, with -v in AWS's own words too.
func (s *session) report(err error) error {
	s.ui.fail(err)
	s.log.Debug("failed", "error", plainError(err)) // for the file: -v has shown it
	if cause := errors.Unwrap(err); cause != nil && plainError(cause) != plainError(err) {
		s.log.Info("in full", "error", plainError(cause))
	}
	return err
}

// notice passes on what the stream says, to the log file too. Connections that
// come and go before the stream stands are nothing to a person who waits for it.
func (s *session) notice(n ssmstream.Notice, text string) {
	s.log.Debug("notice", "kind", int(n), "text", text)
	switch n {
	case ssmstream.NoticeLost:
		if !s.stands.Load() {
			return
		}
		s.lost.Store(true)
	case ssmstream.NoticeResumed:
		if !s.lost.Swap(false) {
			return
		}
	}
	s.ui.notice(n, text)
}

// connect returns a stream that carries data. Both results are nil where
// nobody wants one any more.
func (s *session) connect(ctx context.Context) (*ssmstream.Stream, error) {
	ctx, cancel := context.WithCancel(ctx)
	defer cancel()
	go s.watchInput(ctx, cancel) // ends with connect

	stream, err := s.open(ctx)
	if err != nil && ctx.Err() != nil {
		return nil, nil
	}
	return stream, err
}

// open makes the calls and opens the stream.
func (s *session) open(ctx context.Context) (*ssmstream.Stream, error) {
	key, err := s.client.keyToSend(ctx)
	if err != nil {
		return nil, err
	}
	d := s.dialer
	if addr := s.client.gatewayAddr(ctx); addr != "" {
		d.dialAhead(ctx, addr)
	}
	start := time.Now()
	creds, err := s.client.signIn(ctx, s.ui)
	if err != nil {
		return nil, err
	}
	s.log.Info("credentials found", "source", creds.Source, "region", s.client.region(), took(start))

	grant, push, err := s.startSession(ctx, key)
	if err != nil {
		return nil, err
	}
	start = time.Now()
	stream, err := ssmstream.Dial(ctx, grant, ssmstream.Config{
		DialTLS: d.DialTLS,
		Signer:  s.client,
		Resumer: &resumer{client: s.client, dialer: d},
		Notify:  s.notice,
		Logger:  s.log,
	})
	if err != nil {
		s.over = sessionOver(err)
		return nil, err
	}
	// Until the key is there ssh is not let in: nothing of it goes out before.
	if err := push.wait(); err != nil {
		stream.Close()
		return nil, err
	}
	s.stands.Store(true)
	s.log.Info("stream open", took(start), "since start", time.Since(s.start))
	return stream, nil
}

// startSession finds the instance and starts the session, while the key is on
// its way there. It waits for the instance as long as --wait says.
func (s *session) startSession(ctx context.Context, key string) (grant ssmstream.Grant, push *keyPush, err error) {
	o := s.client.options
	w := &waiter{limit: o.Wait, what: o.Host + " to come online", ui: s.ui, log: s.log}
	defer w.end()
	if err := w.await(ctx, s.client.findTarget); err != nil {
		return grant, nil, err
	}
	if key != "" {
		if err := canTakeKeys(s.client.node()); err != nil { // the name led to one that can't
			return grant, nil, err
		}
	}
	start, tries := time.Now(), 0
	push = s.client.sendKey(ctx, key)
	err = w.await(ctx, func(ctx context.Context) (err error) {
		tries++
		grant, err = s.client.startSession(ctx)
		return err
	})
	// An instance that had yet to start had no use for the key, and after a
	// while it may be good no longer.
	if err == nil && push.over() && (tries > 1 || time.Since(start) > keyFresh) {
		push = s.client.sendKey(ctx, key)
	}
	return grant, push, err
}

// watchInput ends connect where standard input ends meanwhile: ssh is gone.
// What was read by then has a moment more to be sent.
func (s *session) watchInput(ctx context.Context, cancel context.CancelFunc) {
	select {
	case <-ctx.Done():
		return
	case <-s.stdin.ended:
	}
	if s.stdin.pending() {
		select {
		case <-ctx.Done():
			return
		case <-time.After(lastWords):
		}
	}
	s.log.Info("standard input ended before the session stood")
	cancel()
}

// carry moves bytes until one side ends it.
func (s *session) carry(ctx context.Context, stream *ssmstream.Stream) error {
	debug.SetGCPercent(25) // what lives from here on is small and steady, and garbage rare
	out := newOutput(stream, s.stdout, s.log, s.start)
	s.stdin.attach(stream)
	select {
	case <-out.ended:
		s.over = sessionOver(out.err)
		if errors.Is(out.err, io.EOF) {
			s.log.Info("the remote side ended the session")
			return nil
		}
		return out.err
	case <-s.stdin.ended:
		s.log.Info("standard input ended")
	case <-out.gone:
		s.log.Info("nobody reads standard output any more")
	case <-ctx.Done():
		s.log.Info("ending", "because", context.Cause(ctx).Error())
	}
	s.end(ctx, stream, out)
	return nil
}

// end is the orderly end: what was read is sent and acknowledged, the agent
// told, and what is on its way back is written while anyone reads it.
func (s *session) end(ctx context.Context, stream *ssmstream.Stream, out *output) {
	ctx, cancel := context.WithTimeout(context.WithoutCancel(ctx), endTimeout)
	defer cancel()
	start := time.Now()
	select {
	case <-s.stdin.flushed:
	case <-out.ended:
	case <-ctx.Done():
	}
	if err := stream.Terminate(ctx); err != nil {
		s.log.Info("the agent did not acknowledge the end", "error", plainError(err), took(start))
		return // run ends the session by the API
	}
	s.over = true
	s.log.Info("session ended", took(start))
	out.drain()
}

// sessionOver tells whether a stream's error says that its session has ended.
func sessionOver(err error) bool {
	_, closed := errors.AsType[*ssmstream.ClosedError](err)
	return closed || errors.Is(err, io.EOF) || errors.Is(err, ssmstream.ErrSessionOver)
}
