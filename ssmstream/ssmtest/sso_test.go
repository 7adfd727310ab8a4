package ssmtest

import (
	"crypto/tls"
	"errors"
	"net/http"
	"testing"
	"testing/synctest"
	"time"

	"github.com/aws/aws-sdk-go-v2/aws"
	"github.com/aws/aws-sdk-go-v2/service/sso"
	"github.com/aws/aws-sdk-go-v2/service/ssooidc"
	"github.com/aws/aws-sdk-go-v2/service/ssooidc/types"
)

func httpClient(t *testing.T, s *Server) *http.Client {
	t.Helper()
	transport := &http.Transport{TLSClientConfig: &tls.Config{RootCAs: s.CACertPool()}}
	t.Cleanup(transport.CloseIdleConnections)
	return &http.Client{Transport: transport}
}

func roleCredentials(t *testing.T, s *Server, token string) (*sso.GetRoleCredentialsOutput, error) {
	t.Helper()
	api := sso.New(sso.Options{Region: "us-east-2", BaseEndpoint: aws.String(s.URL()), HTTPClient: httpClient(t, s), RetryMaxAttempts: 1})
	return api.GetRoleCredentials(t.Context(), &sso.GetRoleCredentialsInput{
		AccessToken: aws.String(token), AccountId: aws.String(accountID), RoleName: aws.String(ssoRole),
	})
}

func TestSignInGivesRoleCredentialsUntilItExpires(t *testing.T) {
	t.Parallel()
	s := newServer(t, Config{})
	in := s.SignIn()
	out, err := roleCredentials(t, s, in.AccessToken)
	if err != nil {
		t.Fatal(err)
	}
	c := out.RoleCredentials
	if _, err := stsClient(t, s, Credentials{AccessKeyID: *c.AccessKeyId, SecretAccessKey: *c.SecretAccessKey, SessionToken: *c.SessionToken}).
		GetCallerIdentity(t.Context(), nil); err != nil {
		t.Error(err)
	}
	s.ExpireSignIns()
	_, err = roleCredentials(t, s, in.AccessToken)
	wantCode(t, err, "UnauthorizedException", "Session token not found or invalid")
}

// oidc is AWS's own client, registered, and a device authorization of its.
type oidc struct {
	*testing.T
	s      *Server
	api    *ssooidc.Client
	client *ssooidc.RegisterClientOutput
	device *ssooidc.StartDeviceAuthorizationOutput
}

func newOIDC(t *testing.T, s *Server, scopes ...string) *oidc {
	t.Helper()
	o := &oidc{T: t, s: s, api: ssooidc.New(ssooidc.Options{
		Region: "us-east-2", BaseEndpoint: aws.String(s.URL()), HTTPClient: httpClient(t, s), RetryMaxAttempts: 1,
	})}
	var err error
	o.client, err = o.api.RegisterClient(t.Context(), &ssooidc.RegisterClientInput{
		ClientName: aws.String("test"), ClientType: aws.String("public"), Scopes: scopes,
	})
	if err != nil {
		t.Fatal(err)
	}
	o.device, err = o.api.StartDeviceAuthorization(t.Context(), &ssooidc.StartDeviceAuthorizationInput{
		ClientId: o.client.ClientId, ClientSecret: o.client.ClientSecret, StartUrl: aws.String(s.SSOStartURL()),
	})
	if err != nil {
		t.Fatal(err)
	}
	return o
}

func (o *oidc) poll() (*ssooidc.CreateTokenOutput, error) {
	return o.api.CreateToken(o.Context(), &ssooidc.CreateTokenInput{
		ClientId: o.client.ClientId, ClientSecret: o.client.ClientSecret,
		GrantType: aws.String(deviceGrant), DeviceCode: o.device.DeviceCode,
	})
}

func (o *oidc) refresh(token *string) (*ssooidc.CreateTokenOutput, error) {
	return o.api.CreateToken(o.Context(), &ssooidc.CreateTokenInput{
		ClientId: o.client.ClientId, ClientSecret: o.client.ClientSecret,
		GrantType: aws.String("refresh_token"), RefreshToken: token,
	})
}

// age lets the time pass that a device has to wait between its polls.
func (o *oidc) age(d time.Duration) {
	si := &o.s.signIns
	si.mu.Lock()
	defer si.mu.Unlock()
	dev := si.devices[*o.device.DeviceCode]
	dev.polled = dev.polled.Add(-d)
	dev.expires = dev.expires.Add(-d)
}

func TestDeviceAuthorizationTakesAPersonsConsent(t *testing.T) {
	t.Parallel()
	s := newServer(t, Config{})
	o := newOIDC(t, s, accessScope)
	_, err := o.poll()
	if _, ok := errors.AsType[*types.AuthorizationPendingException](err); !ok {
		t.Fatalf("error %v", err)
	}
	code, err := s.AwaitSignIn(t.Context())
	if err != nil || code != *o.device.UserCode {
		t.Fatalf("%q, %v", code, err)
	}
	s.AnswerSignIn(code, true)
	o.age(time.Second)
	out, err := o.poll()
	if err != nil {
		t.Fatal(err)
	}
	if _, err := roleCredentials(t, s, *out.AccessToken); err != nil {
		t.Error(err)
	}
	if _, err := o.poll(); err == nil {
		t.Error("a device code is good twice")
	}
}

func TestDeviceThatPollsTooFastIsSlowedDown(t *testing.T) {
	t.Parallel()
	s := newServer(t, Config{})
	o := newOIDC(t, s)
	o.poll()
	_, err := o.poll()
	if _, ok := errors.AsType[*types.SlowDownException](err); !ok {
		t.Fatalf("error %v", err)
	}
	s.AnswerSignIn(*o.device.UserCode, true)
	o.age(5 * time.Second)
	if _, err := o.poll(); err == nil {
		t.Error("the interval has not grown")
	}
	o.age(11 * time.Second)
	if _, err := o.poll(); err != nil {
		t.Error(err)
	}
}

func TestDeviceRefusedOrForgotten(t *testing.T) {
	t.Parallel()
	s := newServer(t, Config{})
	o := newOIDC(t, s)
	s.AnswerSignIn(*o.device.UserCode, false)
	_, err := o.poll()
	wantCode(t, err, "AccessDeniedException", "")
	o = newOIDC(t, s)
	o.age(time.Hour)
	_, err = o.poll()
	wantCode(t, err, "ExpiredTokenException", "")
}

func TestRefreshTokenIsGoodOnceAndOnlyWithTheScope(t *testing.T) {
	t.Parallel()
	s := newServer(t, Config{})
	o := newOIDC(t, s, accessScope)
	s.AnswerSignIn(*o.device.UserCode, true)
	first, err := o.poll()
	if err != nil {
		t.Fatal(err)
	}
	second, err := o.refresh(first.RefreshToken)
	if err != nil || *second.RefreshToken == *first.RefreshToken {
		t.Fatal(second, err)
	}
	_, err = o.refresh(first.RefreshToken)
	wantCode(t, err, "InvalidGrantException", "")

	o = newOIDC(t, s)
	s.AnswerSignIn(*o.device.UserCode, true)
	if out, err := o.poll(); err != nil || out.RefreshToken != nil {
		t.Errorf("%v, %v", out, err)
	}
}

func TestCredentialsOfARoleExpireByThemselves(t *testing.T) {
	t.Parallel()
	synctest.Test(t, func(t *testing.T) {
		var k keyring
		c := k.issue(callerARN, time.Minute)
		time.Sleep(time.Minute + time.Second)
		r, err := http.NewRequest("GET", "https://example.com/", nil)
		if err != nil {
			t.Fatal(err)
		}
		signRequest(r, nil, "sts", "eu-central-1", c)
		sig, _ := parseSignature(r)
		if _, failure := sig.verify(r, nil, "sts", []string{"eu-central-1"}, &k); failure != ErrExpired {
			t.Errorf("got %v", failure)
		}
	})
}
