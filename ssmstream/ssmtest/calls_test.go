package ssmtest

import (
	"context"
	"crypto/tls"
	"errors"
	"net/http"
	"strings"
	"testing"
	"testing/synctest"
	"time"

	"github.com/aws/aws-sdk-go-v2/aws"
	v4 "github.com/aws/aws-sdk-go-v2/aws/signer/v4"
	"github.com/aws/aws-sdk-go-v2/credentials"
	"github.com/aws/aws-sdk-go-v2/service/ssm"
	"github.com/aws/aws-sdk-go-v2/service/ssm/types"
	"github.com/aws/smithy-go"
)

// sdk is AWS's own client, pointed at the server.
func sdk(t testing.TB, s *Server, change func(*ssm.Options)) *ssm.Client {
	t.Helper()
	c := s.Credentials()
	transport := &http.Transport{TLSClientConfig: &tls.Config{RootCAs: s.CACertPool()}}
	t.Cleanup(transport.CloseIdleConnections)
	o := ssm.Options{
		Region:           s.Region(),
		BaseEndpoint:     aws.String(s.URL()),
		Credentials:      credentials.NewStaticCredentialsProvider(c.AccessKeyID, c.SecretAccessKey, c.SessionToken),
		HTTPClient:       &http.Client{Transport: transport},
		RetryMaxAttempts: 1,
	}
	if change != nil {
		change(&o)
	}
	return ssm.New(o)
}

func sshInput(target string) *ssm.StartSessionInput {
	return &ssm.StartSessionInput{
		Target:       aws.String(target),
		DocumentName: aws.String(sshDocument),
		Parameters:   map[string][]string{"portNumber": {"22"}},
		Reason:       aws.String("a reason"),
	}
}

const target = "i-0123456789abcdef0"

// sdkSigner is AWS's own signer.
type sdkSigner struct{ s *Server }

func (g sdkSigner) SignUpgrade(ctx context.Context, r *http.Request) error {
	c := g.s.Credentials()
	const empty = "e3b0c44298fc1c149afbf4c8996fb92427ae41e4649b934ca495991b7852b855"
	signed := r.Clone(ctx) // it rewrites the query
	err := v4.NewSigner().SignHTTP(ctx, aws.Credentials{AccessKeyID: c.AccessKeyID, SecretAccessKey: c.SecretAccessKey, SessionToken: c.SessionToken},
		signed, empty, "ssmmessages", g.s.Region(), time.Now())
	r.Header = signed.Header
	return err
}

func TestSDKStartsResumesAndTerminates(t *testing.T) {
	t.Parallel()
	s := newServer(t, Config{SSHAddr: listen(t, greet)})
	api := sdk(t, s, nil)
	out, err := api.StartSession(t.Context(), sshInput(target))
	if err != nil {
		t.Fatal(err)
	}
	c, _, err := tryDial(t, s, grantOf(out.StreamUrl, out.TokenValue), sdkSigner{s})
	if err != nil {
		t.Fatal(err)
	}
	c.handshake()
	again, err := api.ResumeSession(t.Context(), &ssm.ResumeSessionInput{SessionId: out.SessionId})
	if err != nil {
		t.Fatal(err)
	}
	if *again.TokenValue == *out.TokenValue || !strings.HasPrefix(*again.StreamUrl, "wss://") {
		t.Errorf("resumed with %s", *again.StreamUrl)
	}
	if _, err := api.TerminateSession(t.Context(), &ssm.TerminateSessionInput{SessionId: out.SessionId}); err != nil {
		t.Fatal(err)
	}
	c.await("channel_closed")
	if open := s.OpenSessions(); len(open) != 0 {
		t.Errorf("open: %v", open)
	}
	over, err := api.ResumeSession(t.Context(), &ssm.ResumeSessionInput{SessionId: out.SessionId})
	if err != nil || over.TokenValue != nil {
		t.Errorf("resume after the end: %+v, %v", over, err)
	}
}

func TestCallsFailInTheServicesWords(t *testing.T) {
	t.Parallel()
	wrong := func(f func(*aws.Credentials)) func(*ssm.Options) {
		return func(o *ssm.Options) {
			c, _ := o.Credentials.Retrieve(context.Background())
			f(&c)
			o.Credentials = credentials.NewStaticCredentialsProvider(c.AccessKeyID, c.SecretAccessKey, c.SessionToken)
		}
	}
	for name, test := range map[string]struct {
		cfg    Config
		client func(*ssm.Options)
		in     func(*ssm.StartSessionInput)
		before func(*Server)
		code   string
		words  string
	}{
		"not connected": {
			cfg:  Config{Nodes: []Node{{InstanceID: target, PingStatus: "ConnectionLost"}}},
			code: "TargetNotConnected", words: target + " is not connected.",
		},
		"not among the targets": {cfg: Config{Targets: []string{"i-00000000000000000"}}, code: "TargetNotConnected"},
		"no ID":                 {in: func(in *ssm.StartSessionInput) { in.Target = aws.String("web") }, code: "TargetNotConnected", words: "web is not connected."},
		"document":              {in: func(in *ssm.StartSessionInput) { in.DocumentName = aws.String("Mine") }, code: "InvalidDocument", words: "Mine"},
		"port":                  {in: func(in *ssm.StartSessionInput) { in.Parameters["portNumber"] = []string{"65536"} }, code: "InvalidParameters"},
		"denied": {
			cfg:  Config{Denied: []string{"ssm:StartSession"}},
			code: "AccessDeniedException", words: "is not authorized to perform: ssm:StartSession on resource: arn:aws:ec2:eu-central-1:123456789012:instance/" + target + " because no identity-based policy allows the ssm:StartSession action",
		},
		"throttled": {before: func(s *Server) { s.FailCalls("StartSession", 1, ErrThrottled) }, code: "ThrottlingException", words: "Rate exceeded"},
		"internal":  {before: func(s *Server) { s.FailCalls("StartSession", 1, ErrInternal) }, code: "InternalServerError"},
		"expired":   {before: func(s *Server) { s.ExpireCredentials() }, code: "ExpiredTokenException", words: "expired"},
		"wrong secret": {
			client: wrong(func(c *aws.Credentials) { c.SecretAccessKey = "wrong" }),
			code:   "InvalidSignatureException", words: "does not match",
		},
		"wrong token": {client: wrong(func(c *aws.Credentials) { c.SessionToken = "wrong" }), code: "UnrecognizedClientException"},
		"unknown key": {client: wrong(func(c *aws.Credentials) { c.AccessKeyID = "AKIAUNKNOWN" }), code: "UnrecognizedClientException"},
		"region":      {client: func(o *ssm.Options) { o.Region = "us-west-1" }, code: "InvalidSignatureException", words: "valid region"},
	} {
		t.Run(name, func(t *testing.T) {
			t.Parallel()
			s := newServer(t, test.cfg)
			api := sdk(t, s, test.client)
			if test.before != nil {
				test.before(s)
			}
			in := sshInput(target)
			if test.in != nil {
				test.in(in)
			}
			_, err := api.StartSession(t.Context(), in)
			var failure smithy.APIError
			if !errors.As(err, &failure) {
				t.Fatalf("error %v", err)
			}
			if failure.ErrorCode() != test.code || !strings.Contains(failure.ErrorMessage(), test.words) {
				t.Errorf("%s: %s", failure.ErrorCode(), failure.ErrorMessage())
			}
			if st := s.Stats(); st.CallErrors[test.code] != 1 || st.Sessions != 0 {
				t.Errorf("stats %+v", st)
			}
		})
	}
}

func TestUnknownSessionDoesNotExist(t *testing.T) {
	t.Parallel()
	s := newServer(t, Config{})
	_, err := sdk(t, s, nil).ResumeSession(t.Context(), &ssm.ResumeSessionInput{SessionId: aws.String("demo-0123")})
	var missing *types.DoesNotExistException
	if !errors.As(err, &missing) {
		t.Errorf("error %v", err)
	}
}

func TestStartSessionRateThrottles(t *testing.T) {
	t.Parallel()
	s := newServer(t, Config{StartSessionRate: 0.001})
	api := sdk(t, s, nil)
	if _, err := api.StartSession(t.Context(), sshInput(target)); err != nil {
		t.Error(err)
	}
	if _, err := api.StartSession(t.Context(), sshInput(target)); err == nil || !strings.Contains(err.Error(), "ThrottlingException: Rate exceeded") {
		t.Errorf("second call: %v", err)
	}
}

func TestBucketHoldsASecondsWorth(t *testing.T) {
	synctest.Test(t, func(t *testing.T) {
		b := newBucket(5)
		taken := func() (n int) {
			for b.take() {
				n++
			}
			return n
		}
		for _, step := range []struct {
			wait time.Duration
			want int
		}{{0, 5}, {0, 0}, {time.Second / 2, 2}, {time.Hour, 5}} {
			time.Sleep(step.wait)
			if n := taken(); n != step.want {
				t.Errorf("%d after %v, want %d", n, step.wait, step.want)
			}
		}
	})
}
