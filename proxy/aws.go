package proxy

import (
	"context"
	"errors"
	"fmt"
	"log/slog"
	"net"
	"net/url"
	"strings"
	"sync"
	"time"

	"github.com/aws/aws-sdk-go-v2/aws"
	awsmiddleware "github.com/aws/aws-sdk-go-v2/aws/middleware"
	"github.com/aws/aws-sdk-go-v2/config"
	"github.com/aws/aws-sdk-go-v2/service/ssm"
	"github.com/aws/aws-sdk-go-v2/service/ssm/types"
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
	target  target
	log     *slog.Logger

	mu        sync.Mutex // guards what follows
	cfg       aws.Config // its region stays; its credentials are replaced by renew
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
	if e := c.api.Options().BaseEndpoint; e != nil && !strings.HasPrefix(strings.ToLower(*e), "https://") {
		return nil, errorWithHint(nil, fmt.Sprintf("AWS_ENDPOINT_URL_SSM must be an https:// address, not %q", *e),
			"it may also come from AWS_ENDPOINT_URL, or from endpoint_url in ~/.aws/config")
	}
	return c, nil
}

// load reads the configuration from its sources. The caller holds c.mu or is
// the only one to know c.
func (c *client) load(ctx context.Context) error {
	settings := []func(*config.LoadOptions) error{config.WithLogger(sdkLogger{c.log})}
	if c.options.Profile != "" {
		settings = append(settings, config.WithSharedConfigProfile(c.options.Profile))
	}
	if region := cmpOr(c.cfg.Region, c.options.Region); region != "" {
		settings = append(settings, config.WithRegion(region))
	}
	cfg, err := config.LoadDefaultConfig(ctx, settings...)
	if err != nil {
		return &credentialsError{err}
	}
	c.cfg = cfg
	c.api = ssm.NewFromConfig(cfg, func(o *ssm.Options) {
		o.Retryer = aws.NopRetryer{} // startSession and the stream retry by rules of their own
		o.RetryMaxAttempts = 0
	})
	c.loaded = time.Now()
	return nil
}

func cmpOr(a, b string) string {
	if a != "" {
		return a
	}
	return b
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

// credentials returns what the calls are signed with, resolved once.
func (c *client) credentials(ctx context.Context) (aws.Credentials, error) {
	creds, err := c.config().Credentials.Retrieve(ctx)
	if err != nil {
		return creds, &credentialsError{err}
	}
	c.mu.Lock()
	c.source = creds.Source
	c.mu.Unlock()
	return creds, nil
}

// renew takes the credentials afresh from their source, unless that was done
// just now: files may have been rewritten, roles and SSO sessions renewed,
// since the session began.
func (c *client) renew(ctx context.Context) error {
	c.mu.Lock()
	defer c.mu.Unlock()
	// Without the monotonic reading, which stands still in a machine's sleep.
	if age := time.Now().Round(0).Sub(c.loaded.Round(0)); 0 <= age && age < freshFor {
		return nil
	}
	return c.load(ctx)
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
		Target:       aws.String(c.target.id),
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

// ResumeSession asks for a new grant, with credentials taken afresh from their
// source. It implements ssmstream.Resumer.
func (c *client) ResumeSession(ctx context.Context) (ssmstream.Grant, error) {
	if err := c.renew(ctx); err != nil {
		return ssmstream.Grant{}, c.resumeError(err)
	}
	if _, err := c.credentials(ctx); err != nil {
		return ssmstream.Grant{}, c.resumeError(err)
	}
	ctx, cancel := context.WithTimeout(ctx, attemptTimeout)
	defer cancel()
	out, err := c.ssm().ResumeSession(ctx, &ssm.ResumeSessionInput{SessionId: aws.String(c.session())})
	if err != nil {
		return ssmstream.Grant{}, c.resumeError(fmt.Errorf("resume session: %w", err))
	}
	if aws.ToString(out.TokenValue) == "" || aws.ToString(out.StreamUrl) == "" {
		return ssmstream.Grant{}, ssmstream.ErrSessionOver
	}
	return c.grant(*out.StreamUrl, *out.TokenValue)
}

// resumeError sorts an error of ResumeSession or of what comes before it into
// those of ssmstream.Resumer: over, permanent, or worth another try.
func (c *client) resumeError(err error) error {
	if _, ok := errors.AsType[*types.DoesNotExistException](err); ok {
		return ssmstream.ErrSessionOver
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

// grant puts together what opens the data channel: StreamUrl as the service
// gave it, but for the host where AWS_ENDPOINT_URL_SSMMESSAGES names another.
func (c *client) grant(streamURL, token string) (ssmstream.Grant, error) {
	u, err := url.Parse(streamURL)
	if err != nil || u.Host == "" {
		return ssmstream.Grant{}, ssmstream.Permanent(errors.New("the service sent a StreamUrl that is not a URL"))
	}
	if u.Scheme != "wss" {
		return ssmstream.Grant{}, ssmstream.Permanent(errorWithHint(nil,
			fmt.Sprintf("the service sent a StreamUrl of scheme %q, only wss is safe", u.Scheme)))
	}
	host, err := c.gatewayOverride()
	if err != nil {
		return ssmstream.Grant{}, ssmstream.Permanent(err)
	}
	if host != "" {
		// Not by way of url.URL, which might write the rest in another way.
		streamURL = strings.Replace(streamURL, "//"+authority(streamURL), "//"+host, 1)
	}
	return ssmstream.Grant{StreamURL: streamURL, Token: token}, nil
}

// authority returns what stands between // and the path in an absolute URL.
func authority(rawURL string) string {
	_, rest, _ := strings.Cut(rawURL, "//")
	if end := strings.IndexAny(rest, "/?#"); end >= 0 {
		return rest[:end]
	}
	return rest
}

// gatewayOverride returns the host, with a port where it is not 443, that the
// settings name for the data channel: AWS_ENDPOINT_URL_SSMMESSAGES, or
// endpoint_url of ssmmessages in the profile's services section.
func (c *client) gatewayOverride() (string, error) {
	endpoint := configuredEndpoint(c.config().ConfigSources, "SSMMessages")
	if endpoint == "" {
		return "", nil
	}
	u, err := url.Parse(endpoint)
	if err != nil || u.Host == "" || u.Scheme != "https" && u.Scheme != "wss" {
		return "", errorWithHint(err, fmt.Sprintf("AWS_ENDPOINT_URL_SSMMESSAGES must be an https:// address, not %q", endpoint),
			"it may also come from endpoint_url in the services section of ~/.aws/config")
	}
	return strings.TrimSuffix(u.Host, ":443"), nil
}

// configuredEndpoint finds a service's own endpoint in the settings, by the
// rules of the SDK (internal/configsources, which others cannot import).
func configuredEndpoint(sources []any, sdkID string) string {
	ctx := context.Background()
	for _, source := range sources {
		if s, ok := source.(interface {
			GetIgnoreConfiguredEndpoints(context.Context) (bool, bool, error)
		}); ok {
			if ignore, found, err := s.GetIgnoreConfiguredEndpoints(ctx); err == nil && found {
				if ignore {
					return ""
				}
				break
			}
		}
	}
	for _, source := range sources {
		if s, ok := source.(interface {
			GetServiceBaseEndpoint(context.Context, string) (string, bool, error)
		}); ok {
			if endpoint, found, err := s.GetServiceBaseEndpoint(ctx, sdkID); err == nil && found {
				return endpoint
			}
		}
	}
	return ""
}

// gatewayAddr guesses the address of the data channel before the service has
// named it: that of the SSM endpoint, with the other service's name. It is
// empty where the settings lead to places of their own.
func (c *client) gatewayAddr(ctx context.Context) string {
	host, err := c.gatewayOverride()
	if err != nil {
		return ""
	}
	if host == "" {
		o := c.ssm().Options()
		if o.BaseEndpoint != nil {
			return ""
		}
		endpoint, err := ssm.NewDefaultEndpointResolverV2().ResolveEndpoint(ctx, ssm.EndpointParameters{
			Region:       aws.String(o.Region),
			UseFIPS:      aws.Bool(o.EndpointOptions.UseFIPSEndpoint == aws.FIPSEndpointStateEnabled),
			UseDualStack: aws.Bool(o.EndpointOptions.UseDualStackEndpoint == aws.DualStackEndpointStateEnabled),
		})
		if err != nil {
			return ""
		}
		rest, ok := strings.CutPrefix(endpoint.URI.Host, "ssm")
		if !ok {
			return ""
		}
		host = "ssmmessages" + rest
	}
	if _, _, err := net.SplitHostPort(host); err != nil {
		host = net.JoinHostPort(strings.Trim(host, "[]"), "443")
	}
	return host
}

// sdkLogger leads what the SDK logs to the log file, not to standard error.
type sdkLogger struct{ log *slog.Logger }

func (l sdkLogger) Logf(_ logging.Classification, format string, v ...any) {
	l.log.Debug("AWS SDK", "text", fmt.Sprintf(format, v...))
}
