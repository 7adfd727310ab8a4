package proxy

import (
	"context"
	"errors"
	"fmt"
	"time"

	"github.com/aws/aws-sdk-go-v2/aws"
	"github.com/aws/aws-sdk-go-v2/config"
	"github.com/aws/aws-sdk-go-v2/credentials/ssocreds"
	"github.com/aws/aws-sdk-go-v2/service/sso"
	ssotypes "github.com/aws/aws-sdk-go-v2/service/sso/types"
	"github.com/aws/aws-sdk-go-v2/service/ssooidc"
	"github.com/aws/smithy-go"
)

// refreshLimit is how long a refresh may take, with the wait for one of another
// process.
const refreshLimit = 10 * time.Second

// ssoRole gives the credentials of a role by SSO, from the caches of the AWS CLI
// or from the service. The SDK's own provider would do without the first of
// the caches, and would refresh the token in ten processes at once.
type ssoRole struct {
	chain   *chain
	profile *config.SharedConfig // with the SSO settings

	session, startURL, region string // session is empty in older configurations
}

// newSSORole reads the settings at the end of the chain; what is missing there
// the SDK has found.
func newSSORole(ch *chain) *ssoRole {
	p := ch.profile
	for p.Source != nil {
		p = p.Source
	}
	s := &ssoRole{chain: ch, profile: p, startURL: p.SSOStartURL, region: p.SSORegion}
	if p.SSOSession != nil {
		s.session, s.startURL, s.region = p.SSOSession.Name, p.SSOSession.SSOStartURL, p.SSOSession.SSORegion
	}
	return s
}

// Retrieve implements aws.CredentialsProvider.
func (s *ssoRole) Retrieve(ctx context.Context) (aws.Credentials, error) {
	entry := ssoEntry(s.profile.SSOAccountID, s.profile.SSORoleName, s.session, s.startURL)
	if cached, good := entry.readCredentials(refreshBefore); good {
		s.chain.log.Info("role found in the AWS CLI's cache", "role", s.profile.SSORoleName)
		return s.credentials(cached), nil
	}
	token, err := s.token(ctx)
	if cached, good := entry.readCredentials(0); err != nil && good && !s.chain.signing.Load() {
		return s.credentials(cached), nil // as long as they last
	}
	if err != nil {
		return aws.Credentials{}, err
	}
	api := sso.NewFromConfig(s.chain.cfg, func(o *sso.Options) { o.Region = s.region })
	out, err := api.GetRoleCredentials(ctx, &sso.GetRoleCredentialsInput{
		AccessToken: &token.AccessToken, AccountId: &s.profile.SSOAccountID, RoleName: &s.profile.SSORoleName,
	})
	if _, refused := errors.AsType[*ssotypes.UnauthorizedException](err); refused {
		return aws.Credentials{}, &signInNeeded{sso: s, refused: token.AccessToken, err: err}
	}
	if api, ok := errors.AsType[smithy.APIError](err); ok && api.ErrorCode() == "ForbiddenException" {
		err = errorWithHint(err, fmt.Sprintf("SSO gives you no role %s in account %s", s.profile.SSORoleName, s.profile.SSOAccountID),
			"sso_role_name and sso_account_id of profile "+s.profile.Profile+" in ~/.aws/config name them; "+s.startURL+" shows what you have")
	}
	if err != nil {
		return aws.Credentials{}, err
	}
	var c cachedCredentials
	c.ProviderType = "sso"
	c.Credentials.AccessKeyID = aws.ToString(out.RoleCredentials.AccessKeyId)
	c.Credentials.SecretAccessKey = aws.ToString(out.RoleCredentials.SecretAccessKey)
	c.Credentials.SessionToken = aws.ToString(out.RoleCredentials.SessionToken)
	c.Credentials.Expiration.Time = time.UnixMilli(out.RoleCredentials.Expiration)
	c.Credentials.AccountID = s.profile.SSOAccountID
	if err := entry.write(c); err != nil {
		s.chain.log.Info("the role's credentials cannot be cached", "error", plainError(err))
	}
	return s.credentials(c), nil
}

// ProviderSources implements aws.CredentialProviderSource.
func (s *ssoRole) ProviderSources() []aws.CredentialSource {
	return []aws.CredentialSource{aws.CredentialSourceSSO}
}

func (s *ssoRole) credentials(c cachedCredentials) aws.Credentials {
	return aws.Credentials{
		AccessKeyID:     c.Credentials.AccessKeyID,
		SecretAccessKey: c.Credentials.SecretAccessKey,
		SessionToken:    c.Credentials.SessionToken,
		CanExpire:       true,
		Expires:         c.Credentials.Expiration.Time,
		Source:          ssocreds.ProviderName,
		AccountID:       s.profile.SSOAccountID,
	}
}

// ssoToken is the format of ~/.aws/sso/cache.
type ssoToken struct {
	StartURL    string    `json:"startUrl"`
	Region      string    `json:"region"`
	AccessToken string    `json:"accessToken"`
	ExpiresAt   cacheTime `json:"expiresAt"`

	// What a refresh takes; older configurations have none.
	ClientID              string     `json:"clientId,omitempty"`
	ClientSecret          string     `json:"clientSecret,omitempty"`
	RegistrationExpiresAt *cacheTime `json:"registrationExpiresAt,omitempty"`
	RefreshToken          string     `json:"refreshToken,omitempty"`
}

func (t ssoToken) lives(longer time.Duration) bool {
	return t.AccessToken != "" && time.Until(t.ExpiresAt.Time) > longer
}

// registered tells whether the client that the token was given to is still known.
func (t ssoToken) registered() bool {
	return t.ClientID != "" && t.ClientSecret != "" &&
		t.RegistrationExpiresAt != nil && time.Until(t.RegistrationExpiresAt.Time) > time.Minute
}

// entry is where the token is.
func (s *ssoRole) entry() cacheEntry {
	if s.session != "" {
		return tokenEntry(s.session)
	}
	return tokenEntry(s.startURL)
}

func (s *ssoRole) readToken() (t ssoToken, err error) {
	if err = s.entry().read(&t); err == nil && t.AccessToken == "" {
		err = errors.New("the token file has no accessToken")
	}
	return t, err
}

// token returns a good access token, refreshed where the session allows that.
func (s *ssoRole) token(ctx context.Context) (ssoToken, error) {
	t, err := s.readToken()
	if err != nil {
		return t, &signInNeeded{sso: s, err: err}
	}
	if t.lives(refreshBefore) {
		return t, nil
	}
	refreshed, err := s.refresh(ctx)
	if err == nil {
		return refreshed, nil
	}
	s.chain.log.Info("the SSO token cannot be refreshed", "error", plainError(err))
	if t.lives(0) {
		return t, nil
	}
	if _, answered := errors.AsType[smithy.APIError](err); answered && !worthRetry(err) || errors.Is(err, errNoRefresh) {
		return t, &signInNeeded{sso: s, err: err}
	}
	return t, err
}

var errNoRefresh = errors.New("the token has expired and cannot be refreshed")

// refresh gets the next token and keeps it, one process at a time: a refresh
// token is good once.
func (s *ssoRole) refresh(ctx context.Context) (t ssoToken, err error) {
	ctx, cancel := context.WithTimeout(ctx, refreshLimit)
	defer cancel()
	if release, err := acquire(ctx, s.entry().lockName()); err == nil {
		defer release()
	} else if ctx.Err() != nil {
		return t, errNoRefresh // someone signs in
	}
	if t, err = s.readToken(); err != nil || t.lives(refreshBefore) {
		return t, err
	}
	if t.RefreshToken == "" || !t.registered() {
		return t, errNoRefresh
	}
	out, err := s.oidc().CreateToken(ctx, &ssooidc.CreateTokenInput{
		ClientId: &t.ClientID, ClientSecret: &t.ClientSecret,
		GrantType: aws.String("refresh_token"), RefreshToken: &t.RefreshToken,
	})
	if err != nil {
		return t, fmt.Errorf("refresh the SSO token: %w", err)
	}
	s.chain.log.Info("SSO token refreshed")
	return s.keep(t, out), nil
}

// keep stores the token that was given to a client.
func (s *ssoRole) keep(client ssoToken, out *ssooidc.CreateTokenOutput) ssoToken {
	t := client
	t.StartURL, t.Region = s.startURL, s.region
	t.AccessToken = aws.ToString(out.AccessToken)
	t.ExpiresAt.Time = time.Now().Add(time.Duration(out.ExpiresIn) * time.Second)
	if out.RefreshToken != nil {
		t.RefreshToken = *out.RefreshToken
	}
	if err := s.entry().write(t); err != nil {
		s.chain.log.Info("the SSO token cannot be kept", "error", plainError(err))
	}
	return t
}

func (s *ssoRole) oidc() *ssooidc.Client {
	return ssooidc.NewFromConfig(s.chain.cfg, func(o *ssooidc.Options) { o.Region = s.region })
}
