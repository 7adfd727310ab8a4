package ssmtest

import (
	"crypto/ecdsa"
	"crypto/ed25519"
	"crypto/elliptic"
	"crypto/rand"
	"crypto/tls"
	"errors"
	"net/http"
	"strings"
	"testing"
	"time"

	"github.com/aws/aws-sdk-go-v2/aws"
	"github.com/aws/aws-sdk-go-v2/credentials"
	eic "github.com/aws/aws-sdk-go-v2/service/ec2instanceconnect"
	"github.com/aws/smithy-go"
	"golang.org/x/crypto/ssh"
)

// connectSDK is AWS's own client of EC2 Instance Connect.
func connectSDK(t *testing.T, s *Server, secret string) *eic.Client {
	t.Helper()
	c := s.Credentials()
	if secret == "" {
		secret = c.SecretAccessKey
	}
	transport := &http.Transport{TLSClientConfig: &tls.Config{RootCAs: s.CACertPool()}}
	t.Cleanup(transport.CloseIdleConnections)
	return eic.New(eic.Options{
		Region:           s.Region(),
		BaseEndpoint:     aws.String(s.URL()),
		Credentials:      credentials.NewStaticCredentialsProvider(c.AccessKeyID, secret, c.SessionToken),
		HTTPClient:       &http.Client{Transport: transport},
		RetryMaxAttempts: 1,
	})
}

func authorizedKey(t *testing.T, key any) string {
	t.Helper()
	public, err := ssh.NewPublicKey(key)
	if err != nil {
		t.Fatal(err)
	}
	return strings.TrimSpace(string(ssh.MarshalAuthorizedKey(public)))
}

func ed25519Key(t *testing.T) string {
	public, _, err := ed25519.GenerateKey(rand.Reader)
	if err != nil {
		t.Fatal(err)
	}
	return authorizedKey(t, public)
}

func TestPushedKeyIsGoodForAWhile(t *testing.T) {
	t.Parallel()
	events := make(chan string, 2)
	s := newServer(t, Config{
		KeyLifetime: 10 * time.Millisecond,
		KeyPushed: func(k PushedKey) func() {
			events <- "pushed for " + k.User + " to " + k.InstanceID
			return func() { events <- "expired" }
		},
	})
	key := ed25519Key(t)
	out, err := connectSDK(t, s, "").SendSSHPublicKey(t.Context(), &eic.SendSSHPublicKeyInput{
		InstanceId: aws.String(target), InstanceOSUser: aws.String("me"), SSHPublicKey: aws.String(key),
	})
	if err != nil || !out.Success {
		t.Fatalf("%+v, %v", out, err)
	}
	for _, want := range []string{"pushed for me to " + target, "expired"} {
		if got := <-events; got != want {
			t.Errorf("%s, want %s", got, want)
		}
	}
	if keys := s.PushedKeys(); len(keys) != 1 || keys[0] != (PushedKey{target, "me", key}) {
		t.Errorf("got %v", keys)
	}
}

func TestPushedKeyExpiresOnClose(t *testing.T) {
	t.Parallel()
	expired := false
	s := newServer(t, Config{KeyPushed: func(PushedKey) func() { return func() { expired = true } }})
	s.push(PushedKey{})
	s.Close()
	if !expired {
		t.Error("it did not")
	}
}

func TestSendSSHPublicKeyFailsInTheServicesWords(t *testing.T) {
	t.Parallel()
	private, err := ecdsa.GenerateKey(elliptic.P256(), rand.Reader)
	if err != nil {
		t.Fatal(err)
	}
	good := ed25519Key(t)
	for name, test := range map[string]struct {
		cfg                         Config
		instance, user, key, secret string
		code                        string
	}{
		"managed node": {Config{}, "mi-0123456789abcdef0", "me", good, "", "InvalidArgsException"},
		"user":         {Config{}, target, "me too", good, "", "InvalidArgsException"},
		"no key":       {Config{}, target, "me", strings.Repeat("x", 100), "", "InvalidArgsException"},
		"kind of key":  {Config{}, target, "me", authorizedKey(t, &private.PublicKey), "", "InvalidArgsException"},
		"denied":       {Config{Denied: []string{"ec2-instance-connect:SendSSHPublicKey"}}, target, "me", good, "", "AccessDeniedException"},
		"unknown":      {Config{Nodes: []Node{{InstanceID: "i-00000000"}}}, target, "me", good, "", "EC2InstanceNotFoundException"},
		"stopped":      {Config{Nodes: []Node{{InstanceID: target, Stopped: true}}}, target, "me", good, "", "EC2InstanceStateInvalidException"},
		"wrong secret": {Config{}, target, "me", good, "wrong", "InvalidSignatureException"},
	} {
		t.Run(name, func(t *testing.T) {
			t.Parallel()
			s := newServer(t, test.cfg)
			_, err := connectSDK(t, s, test.secret).SendSSHPublicKey(t.Context(), &eic.SendSSHPublicKeyInput{
				InstanceId: &test.instance, InstanceOSUser: &test.user, SSHPublicKey: &test.key,
			})
			var failure smithy.APIError
			if !errors.As(err, &failure) || failure.ErrorCode() != test.code {
				t.Errorf("got %v, want %s", err, test.code)
			}
			if keys := s.PushedKeys(); len(keys) > 0 {
				t.Errorf("pushed %v", keys)
			}
		})
	}
}
