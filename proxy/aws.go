package proxy

import (
	"cmp"
	"context"
	"errors"
	"fmt"
	"log/slog"
	"runtime/debug"
	"strings"
	"sync"
	"time"

	"github.com/aws/aws-sdk-go-v2/aws"
	awsmiddleware "github.com/aws/aws-sdk-go-v2/aws/middleware"
	"github.com/aws/aws-sdk-go-v2/config"
	"github.com/aws/aws-sdk-go-v2/service/ssm"
	"github.com/aws/aws-sdk-go-v2/service/ssm/types"
	"github.com/aws/smithy-go"
	"github.com/aws/smithy-go/logging"
	"github.com/aws/smithy-go/middleware"

	"ssmproxy/ssmstream"
)

const (
	// attemptTimeout limits one call of the service, from connection to answer.
	attemptTimeout = 30 * time.Second
	// startGrace is how long a StartSession that is on its way may still take
	// once nobody wants it: the session it opens has to be ended.
	startGrace = 3 * time.Second
	// terminateTimeout limits the call that ends a session.
	terminateTimeout = 5 * time.Second
	// freshFor is how old credentials may be when a stream reconnects with them.
	freshFor = time.Minute
)

// client makes the AWS calls of one session.
type client struct {
	options Options
	log     *slog.Logger

	mu        sync.Mutex // guards what follows
	target    target     // its ID is empty until findTarget, where HOST is a name
	cfg       aws.Config // its region stays; its credentials are replaced by renew
	chain     *chain     // of cfg's credentials
	api       *ssm.Client
	loaded    time.Time     // when cfg was, by the monotonic clock and by the wall's
	skew      time.Duration // the service's clock minus ours
	sessionID string        // once there is one
	source    string        // of the credentials, as the SDK calls it
}

// newClient loads the configuration as every AWS tool does. It makes no call.
func newClient(ctx context.Context, o Options, t target, log *slog.Logger) (*client, error) {
	c := &client{options: o, target: t, log: log}
	if err := c.load(ctx); err != nil {
		return nil, err
	}
	if c.cfg.Region == "" {
		return nil, noRegion(o)
	}
	if err := mustBeHTTPS("AWS_ENDPOINT_URL_SSM", c.api.Options().BaseEndpoint); err != nil {
		return nil, err
	}
	return c, nil
}

// mustBeHTTPS refuses a service's own endpoint where it would do without TLS.
func mustBeHTTPS(variable string, endpoint *string) error {
	if endpoint == nil || strings.HasPrefix(strings.ToLower(*endpoint), "https://") {
		return nil
	}
	return errorWithHint(nil, fmt.Sprintf("%s must be an https:// address, not %q", variable, *endpoint),
		"it may also come from AWS_ENDPOINT_URL, or from endpoint_url in ~/.aws/config")
}

// load reads the configuration from its sources. The caller holds c.mu or is
// the only one to know c.
func (c *client) load(ctx context.Context) error {
	ch := newChain(c.log)
	settings := []func(*config.LoadOptions) error{
		config.WithLogger(sdkLogger{c.log}),
		config.WithAssumeRoleCredentialOptions(ch.assumeRole),
	}
	if c.options.Profile != "" {
		settings = append(settings, config.WithSharedConfigProfile(c.options.Profile))
	}
	if region := cmp.Or(c.cfg.Region, c.options.Region); region != "" {
		settings = append(settings, config.WithRegion(region))
	}
	cfg, err := config.LoadDefaultConfig(ctx, settings...)
	if err != nil {
		return &credentialsError{err}
	}
	ch.attach(&cfg)
	c.cfg, c.chain = cfg, ch
	c.api = ssm.NewFromConfig(cfg, func(o *ssm.Options) {
		o.Retryer = aws.NopRetryer{} // startSession and the stream retry by rules of their own
		o.RetryMaxAttempts = 0
	})
	c.loaded = time.Now()
	return nil
}

func (c *client) config() aws.Config {
	c.mu.Lock()
	defer c.mu.Unlock()
	return c.cfg
}

func (c *client) region() string { return c.config().Region }

func (c *client) ssm() *ssm.Client {
	c.mu.Lock()
	defer c.mu.Unlock()
	return c.api
}

// node is the ID of the target, empty before findTarget where HOST is a name.
func (c *client) node() string {
	c.mu.Lock()
	defer c.mu.Unlock()
	return c.target.id
}

// fresh tells whether the credentials were taken from their source just now.
func (c *client) fresh() bool {
	c.mu.Lock()
	defer c.mu.Unlock()
	// Without the monotonic reading, which stands still in a machine's sleep.
	age := time.Now().Round(0).Sub(c.loaded.Round(0))
	return 0 <= age && age < freshFor
}

// renew takes the credentials afresh from their source: files may have been
// rewritten, roles and SSO sessions renewed, since the session began.
func (c *client) renew(ctx context.Context) error {
	c.mu.Lock()
	err := c.load(ctx)
	c.mu.Unlock()
	if err == nil {
		_, err = c.credentials(ctx)
	}
	return err
}

// startOnce makes one StartSession call. Where ctx ends while it is on its way
// the answer is still awaited for startGrace.
func (c *client) startOnce(ctx context.Context) (ssmstream.Grant, error) {
	callCtx, cancel := context.WithTimeout(context.WithoutCancel(ctx), attemptTimeout)
	defer cancel()
	defer context.AfterFunc(ctx, func() {
		grace := time.AfterFunc(startGrace, cancel)
		context.AfterFunc(callCtx, func() { grace.Stop() })
	})()

	in := &ssm.StartSessionInput{
		Target:       aws.String(c.node()),
		DocumentName: aws.String(c.options.Document),
		Parameters:   map[string][]string{"portNumber": {c.target.port}},
	}
	if c.options.Reason != "" {
		in.Reason = aws.String(c.options.Reason)
	}
	out, err := c.ssm().StartSession(callCtx, in)
	if err != nil {
		return ssmstream.Grant{}, fmt.Errorf("start session: %w", err)
	}
	if out.SessionId == nil || out.TokenValue == nil || out.StreamUrl == nil {
		return ssmstream.Grant{}, errors.New("start session: the service's answer lacks SessionId, TokenValue or StreamUrl")
	}
	c.mu.Lock()
	c.sessionID = *out.SessionId
	c.skew = clockSkew(out.ResultMetadata)
	c.mu.Unlock()
	return c.grant(*out.StreamUrl, *out.TokenValue)
}

// clockSkew is how far the service's clock is ahead of ours, where that is
// enough to break signatures; the SDK corrects its own calls alike.
func clockSkew(m middleware.Metadata) time.Duration {
	if skew, ok := awsmiddleware.GetAttemptSkew(m); ok && skew.Abs() > time.Minute {
		return skew
	}
	return 0
}

// session returns the session's ID, empty where none was started.
func (c *client) session() string {
	c.mu.Lock()
	defer c.mu.Unlock()
	return c.sessionID
}

// resumer implements ssmstream.Resumer: while it asks the service, the gateway is
// dialled again. It belongs to one goroutine at a time.
type resumer struct {
	client *client
	dialer *dialer
	last   time.Time // when it last asked
	failed bool      // the last time: then one thing after the other, for the service's sake
}

// ResumeSession asks for a new grant.
func (r *resumer) ResumeSession(ctx context.Context) (ssmstream.Grant, error) {
	debug.SetGCPercent(60) // where connections break, garbage is not rare
	if !r.failed {
		r.dialer.dialAgain(ctx, time.Since(r.last) < spareWithin)
	}
	r.last = time.Now()
	grant, err := r.client.resume(ctx)
	if r.failed = err != nil; r.failed {
		r.dialer.discardAhead()
	}
	return grant, err
}

// resume asks for a new grant, with credentials taken afresh from their source.
func (c *client) resume(ctx context.Context) (ssmstream.Grant, error) {
	fresh := c.fresh() // then they are as good as any, unless the service says otherwise
	if !fresh {
		if err := c.renew(ctx); err != nil {
			return ssmstream.Grant{}, c.resumeError(err)
		}
	}
	grant, err := c.resumeOnce(ctx)
	if err != nil && fresh && badCredentials(err) {
		if err := c.renew(ctx); err != nil {
			return ssmstream.Grant{}, c.resumeError(err)
		}
		grant, err = c.resumeOnce(ctx)
	}
	if err != nil {
		return ssmstream.Grant{}, c.resumeError(err)
	}
	return grant, nil
}

func (c *client) resumeOnce(ctx context.Context) (ssmstream.Grant, error) {
	ctx, cancel := context.WithTimeout(ctx, attemptTimeout)
	defer cancel()
	out, err := c.ssm().ResumeSession(ctx, &ssm.ResumeSessionInput{SessionId: aws.String(c.session())})
	if err != nil {
		return ssmstream.Grant{}, fmt.Errorf("resume session: %w", err)
	}
	if aws.ToString(out.TokenValue) == "" || aws.ToString(out.StreamUrl) == "" {
		return ssmstream.Grant{}, ssmstream.ErrSessionOver
	}
	return c.grant(*out.StreamUrl, *out.TokenValue)
}

// badCredentials tells whether the service refused the credentials themselves.
func badCredentials(err error) bool {
	api, ok := errors.AsType[smithy.APIError](err)
	if !ok {
		return false
	}
	switch api.ErrorCode() {
	case "ExpiredToken", "ExpiredTokenException", "RequestExpired", "UnrecognizedClientException", "InvalidClientTokenId":
		return true
	}
	return false
}

// resumeError sorts an error of ResumeSession or of what comes before it into
// those of ssmstream.Resumer: over, permanent, or worth another try.
func (c *client) resumeError(err error) error {
	if _, ok := errors.AsType[*types.DoesNotExistException](err); ok {
		return ssmstream.ErrSessionOver
	}
	if errors.Is(err, ssmstream.ErrSessionOver) || ssmstream.IsPermanent(err) {
		return err
	}
	// Whatever the network does may pass: a laptop that wakes up finds no name
	// server, then a captive portal.
	if worthRetry(err) || isNetwork(err) {
		return err
	}
	return ssmstream.Permanent(c.explain(err))
}

// terminate ends the session by the API. Where there is none, or none any
// more, there is nothing to do.
func (c *client) terminate(ctx context.Context) error {
	id := c.session()
	if id == "" {
		return nil
	}
	ctx, cancel := context.WithTimeout(ctx, terminateTimeout)
	defer cancel()
	start := time.Now()
	_, err := c.ssm().TerminateSession(ctx, &ssm.TerminateSessionInput{SessionId: aws.String(id)})
	if _, gone := errors.AsType[*types.DoesNotExistException](err); err != nil && !gone {
		return fmt.Errorf("terminate session: %w", err)
	}
	c.log.Info("session terminated", "session", id, took(start))
	return nil
}

// sdkLogger leads what the SDK logs to the log file, not to standard error.
type sdkLogger struct{ log *slog.Logger }

func (l sdkLogger) Logf(_ logging.Classification, format string, v ...any) {
	l.log.Debug("AWS SDK", "text", fmt.Sprintf(format, v...))
}
