package proxy

import (
	"context"
	"errors"
	"fmt"
	"log/slog"
	"strings"
	"sync"
	"sync/atomic"
	"time"

	"github.com/aws/aws-sdk-go-v2/aws"
	"github.com/aws/aws-sdk-go-v2/config"
	"github.com/aws/aws-sdk-go-v2/credentials/ssocreds"
	"github.com/aws/aws-sdk-go-v2/credentials/stscreds"
	"github.com/aws/aws-sdk-go-v2/service/sts"
)

// The SDK finds the credentials, in the environment, in files, by roles, SSO,
// processes and metadata services. What is ours: roles and SSO are cached with
// the AWS CLI (roles.go, sso.go), and where a person is needed, for an MFA code
// or to sign in, the source fails with an error that says so. Only signIn, before
// there is a stream, asks the person then, and tries again.

// slowAfter is how long credentials may take before the person is told what
// is being waited for.
const slowAfter = 2 * time.Second

// chain is one loaded configuration's way to its credentials.
type chain struct {
	log     *slog.Logger
	cfg     aws.Config           // set by attach
	profile *config.SharedConfig // the one in use; nil where there are no files
	sso     *ssoRole             // in place of the SDK's; nil where it has none

	// Whether a person can be asked for a code, and to sign in. Where one can't,
	// old credentials are better than none.
	asking, signing atomic.Bool

	mu   sync.Mutex
	code map[cacheEntry]string // MFA codes, by the role they are for; each is taken once
}

func newChain(log *slog.Logger) *chain {
	return &chain{log: log, code: make(map[cacheEntry]string)}
}

// assumeRole stands between the SDK and STS, for every role of the profile.
func (ch *chain) assumeRole(o *stscreds.AssumeRoleOptions) {
	o.TokenProvider = func() (string, error) { return "", nil } // roleClient puts the code in
	if api, ok := o.Client.(*sts.Client); ok {
		o.Client = &roleClient{chain: ch, api: api}
	}
}

// attach takes over the configuration that was loaded with assumeRole, before
// its first use.
func (ch *chain) attach(cfg *aws.Config) {
	for _, source := range cfg.ConfigSources {
		if s, ok := source.(config.SharedConfig); ok {
			ch.profile = &s
			break
		}
	}
	ch.cfg = *cfg
	if ch.profile != nil {
		ch.sso = newSSORole(ch)
	}
	if isSSO(cfg.Credentials) {
		cfg.Credentials = aws.NewCredentialsCache(ch.sso)
	}
}

// isSSO tells whether the SDK gets the credentials by SSO.
func isSSO(p aws.CredentialsProvider) bool {
	return p != nil && aws.IsCredentialsProvider(p, (*ssocreds.Provider)(nil))
}

func (ch *chain) putCode(e cacheEntry, code string) {
	ch.mu.Lock()
	defer ch.mu.Unlock()
	ch.code[e] = code
}

func (ch *chain) takeCode(e cacheEntry) string {
	ch.mu.Lock()
	defer ch.mu.Unlock()
	code := ch.code[e]
	delete(ch.code, e)
	return code
}

// sources names where the credentials come from, as far as that can be slow.
func (ch *chain) sources() string {
	p, ok := ch.cfg.Credentials.(aws.CredentialProviderSource)
	if !ok {
		return ""
	}
	var names []string
	for _, source := range p.ProviderSources() {
		if name := slowSources[source]; name != "" {
			names = append(names, name)
		}
	}
	return strings.Join(names, ", then ")
}

var slowSources = map[aws.CredentialSource]string{
	aws.CredentialSourceProcess:              "the credential_process",
	aws.CredentialSourceIMDS:                 "the instance metadata service",
	aws.CredentialSourceHTTP:                 "the container credentials endpoint",
	aws.CredentialSourceSSO:                  "SSO",
	aws.CredentialSourceSSOLegacy:            "SSO",
	aws.CredentialSourceLogin:                "the AWS sign-in service",
	aws.CredentialSourceSTSAssumeRole:        "STS, to assume a role",
	aws.CredentialSourceEnvVarsSTSWebIDToken: "STS, with a web identity",
	aws.CredentialSourceProfileSTSWebIDToken: "STS, with a web identity",
}

// credentials returns what the calls are signed with, resolved once. It asks
// nobody.
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

// signIn is credentials for the time before there is a stream: it says what it
// waits for, and asks the person for what it takes.
func (c *client) signIn(ctx context.Context, u *ui) (aws.Credentials, error) {
	c.mu.Lock()
	ch := c.chain
	c.mu.Unlock()
	code, signIn := canAsk()
	ch.asking.Store(code)
	ch.signing.Store(signIn)
	defer ch.asking.Store(false)
	defer ch.signing.Store(false)
	a := &asking{chain: ch, ui: u, held: make(map[string]func())}
	defer a.release()
	waiting := "waiting for credentials" + situation{options: c.options}.forProfile()
	if sources := ch.sources(); sources != "" {
		waiting += ": " + sources
	}
	for {
		stop := u.slow(waiting)
		creds, err := c.credentials(ctx)
		stop()
		if err == nil || ctx.Err() != nil {
			return creds, err
		}
		if err = a.settle(ctx, err); err != nil {
			return creds, err
		}
	}
}

// asking is what one signIn has asked for.
type asking struct {
	chain *chain
	ui    *ui
	held  map[string]func() // locks, by name, and what gives them back

	tries    int  // at the MFA code
	refused  bool // the last one was
	signedIn bool // to SSO
}

// settle does what err asks for; nil says that trying again is worth it.
func (a *asking) settle(ctx context.Context, err error) error {
	if need, ok := errors.AsType[*codeNeeded](err); ok {
		return a.code(ctx, need)
	}
	if isWrongCode(err) && a.tries < maxTries {
		a.refused = true
		return nil // and codeNeeded comes next
	}
	if need, ok := errors.AsType[*signInNeeded](err); ok && !a.signedIn {
		return a.login(ctx, need, err)
	}
	return err
}

// code gets an MFA code, once no other process is about to.
func (a *asking) code(ctx context.Context, need *codeNeeded) error {
	if !a.chain.asking.Load() {
		return &credentialsError{need}
	}
	if first, err := a.lock(ctx, need.entry, "waiting for another ssmproxy, which asks for the MFA code of "+need.serial); first || err != nil {
		return err
	}
	code, err := askCode(ctx, need, &a.tries, a.refused)
	if err != nil {
		return err
	}
	a.chain.putCode(need.entry, code)
	return nil
}

// login signs in to SSO, once no other process is about to. It may turn out
// that another one has.
func (a *asking) login(ctx context.Context, need *signInNeeded, err error) error {
	t, ttyErr := openTerminal()
	if ttyErr != nil {
		return err
	}
	defer t.close()
	if _, err := a.lock(ctx, need.sso.entry(), "waiting for another ssmproxy, which signs in to SSO"); err != nil {
		return err
	}
	defer a.unlock(need.sso.entry())
	if token, err := need.sso.readToken(); err == nil && token.lives(0) && token.AccessToken != need.refused {
		return nil
	}
	a.signedIn = true
	return need.sso.login(ctx, t)
}

// lock takes the lock of an entry, unless it is held. first tells that it
// was not. Where there can be no lock everyone is the only one.
func (a *asking) lock(ctx context.Context, e cacheEntry, waiting string) (first bool, err error) {
	if a.held[e.lockName()] != nil {
		return false, nil
	}
	stop := a.ui.slow(waiting)
	defer stop()
	release, err := acquire(ctx, e.lockName())
	if ctx.Err() != nil {
		return false, ctx.Err()
	}
	if err != nil {
		a.chain.log.Info("no lock", "error", plainError(err))
		release = func() {}
	}
	a.held[e.lockName()] = release
	return true, nil
}

func (a *asking) unlock(e cacheEntry) {
	a.held[e.lockName()]()
	delete(a.held, e.lockName())
}

func (a *asking) release() {
	for _, release := range a.held {
		release()
	}
}

// slow says text where what goes on takes long; stop is to be called at its end.
func (u *ui) slow(text string) (stop func() bool) {
	return time.AfterFunc(slowAfter, func() { u.line(text) }).Stop
}

// codeNeeded says that a role takes an MFA code, which nobody has given.
type codeNeeded struct {
	profile, serial string
	entry           cacheEntry
}

func (e *codeNeeded) Error() string {
	return fmt.Sprintf("the role of profile %s takes an MFA code of %s", e.profile, e.serial)
}

// signInNeeded says that SSO has no good token, and none to be had without a
// person.
type signInNeeded struct {
	sso     *ssoRole
	refused string // the access token that the service did not accept; empty where there was none
	err     error
}

func (e *signInNeeded) Error() string {
	return fmt.Sprintf("the SSO session of profile %s: %v", e.sso.profile.Profile, e.err)
}

func (e *signInNeeded) Unwrap() error { return e.err }
