package proxy

import (
	"context"
	"encoding/json"
	"errors"
	"fmt"
	"log/slog"
	"net"
	"net/http"
	"net/http/httptest"
	"net/url"
	"strings"
	"syscall"
	"testing"

	"github.com/aws/aws-sdk-go-v2/aws"
	"github.com/aws/aws-sdk-go-v2/credentials"
	"github.com/aws/aws-sdk-go-v2/service/ssm"

	"ssmproxy/ssmstream"
)

// newTestClient makes its calls to handler, by the SDK and over TLS.
func newTestClient(t *testing.T, handler http.HandlerFunc) *client {
	t.Helper()
	srv := httptest.NewTLSServer(handler)
	t.Cleanup(srv.Close)
	return clientFor(srv.Client(), srv.URL)
}

func clientFor(h ssm.HTTPClient, endpoint string) *client {
	o := Options{}.withDefaults()
	cfg := aws.Config{
		Region:       "eu-west-1",
		Credentials:  credentials.NewStaticCredentialsProvider("AKIDEXAMPLE", "secret", ""),
		HTTPClient:   h,
		BaseEndpoint: &endpoint,
		Retryer:      func() aws.Retryer { return aws.NopRetryer{} },
	}
	return &client{
		options: o,
		target:  target{instance, "22"},
		log:     slog.New(slog.DiscardHandler),
		cfg:     cfg,
		api:     ssm.NewFromConfig(cfg),
	}
}

func answer(status int, code, message string) http.HandlerFunc {
	return func(w http.ResponseWriter, _ *http.Request) {
		w.Header().Set("Content-Type", "application/x-amz-json-1.1")
		w.WriteHeader(status)
		json.NewEncoder(w).Encode(map[string]string{"__type": code, "message": message})
	}
}

func TestExplainStartSession(t *testing.T) {
	t.Parallel()
	const me = "arn:aws:sts::123456789012:assumed-role/dev/me@example.com"
	const there = "arn:aws:ec2:eu-west-1:123456789012:instance/" + instance
	for _, test := range []struct {
		code, message string
		want          string
		hint          string // somewhere in the hints
	}{
		{"TargetNotConnected", instance + " is not connected.",
			instance + " is not connected to Session Manager in eu-west-1", "AmazonSSMManagedInstanceCore"},
		{"AccessDeniedException", "User: " + me + " is not authorized to perform: ssm:StartSession on resource: " + there + " because no identity-based policy allows the ssm:StartSession action",
			"access denied: ssm:StartSession on " + there, "the policy of " + me + " has to allow ssm:StartSession on " + there},
		{"AccessDeniedException", "User: " + me + " is not authorized to perform: ssm:StartSession on resource: arn:aws:ssm:eu-west-1::document/AWS-StartSSHSession",
			"access denied: ssm:StartSession on arn:aws:ssm:eu-west-1::document/AWS-StartSSHSession", "document/AWS-StartSSHSession"},
		{"AccessDeniedException", "User: " + me + " is not authorized to perform: ssm:StartSession on resource: " + there + " with an explicit deny in a service control policy",
			"access denied: ssm:StartSession on " + there, "a policy forbids it to " + me + ": with an explicit deny in a service control policy"},
		{"AccessDeniedException", "Computer says no.", "access denied: StartSession", "Computer says no"},
		{"ExpiredTokenException", "The security token included in the request is expired", "the AWS credentials have expired", "aws sso login"},
		{"UnrecognizedClientException", "The security token included in the request is invalid.",
			"AWS does not accept the credentials in eu-west-1", "AWS_SESSION_TOKEN"},
		{"InvalidSignatureException", "The request signature we calculated does not match the signature you provided.",
			"AWS does not accept the signature", "secret access key"},
		{"InvalidSignatureException", "Signature expired: 20260101T000000Z is now earlier than 20260101T010000Z (20260101T010500Z - 5 min.)",
			"the clock of this machine is wrong, AWS refuses its signatures", "NTP"},
		{"InvalidDocument", "Document with name x does not exist.", `session document "AWS-StartSSHSession" cannot be used in eu-west-1`, "--document"},
		{"InvalidParameters", "nope", `session document "AWS-StartSSHSession" does not take a port number`, "portNumber"},
		{"ThrottlingException", "Rate exceeded", "AWS is throttling StartSession in this account and region", "try again"},
		{"InternalServerError", "oops", "the service failed at StartSession: InternalServerError", "try again"},
		{"SomethingNew", "Strange\nthings.", "StartSession failed: SomethingNew: Strange things", ""},
	} {
		t.Run(test.want, func(t *testing.T) {
			t.Parallel()
			c := newTestClient(t, answer(http.StatusBadRequest, test.code, test.message))
			_, err := c.startOnce(t.Context())
			checkExplained(t, c.explain(err), test.want, test.hint)
		})
	}
}

func checkExplained(t *testing.T, err error, want, hint string) {
	t.Helper()
	var hinted *hintedError
	if !errors.As(err, &hinted) {
		t.Fatalf("not explained: %v", err)
	}
	if hinted.text != want {
		t.Errorf("got %q, want %q", hinted.text, want)
	}
	if !strings.Contains(strings.Join(hinted.hints, "\n"), hint) {
		t.Errorf("got hints %q, want one with %q", hinted.hints, hint)
	}
}

func TestExplainStreamAndNetwork(t *testing.T) {
	t.Parallel()
	s := situation{options: Options{}.withDefaults(), target: target{instance, "22"}, region: "eu-west-1"}
	call := func(err error) error {
		return fmt.Errorf("start session: %w", &url.Error{Op: "Post", URL: "https://ssm.eu-west-1.amazonaws.com/", Err: err})
	}
	for _, test := range []struct {
		err  error
		want string
		hint string
	}{
		{&ssmstream.ClosedError{Output: "Unable to connect to specified port: dial tcp 127.0.0.1:22: connect: connection refused"},
			"nothing on " + instance + " accepts connections on port 22", "sshd"},
		{&ssmstream.ClosedError{Output: " Session timed out\nafter a while "}, "the service closed the session: Session timed out after a while", ""},
		{fmt.Errorf("%w within 30s", ssmstream.ErrHandshake), instance + " does not answer, although Session Manager counts it as connected", "restart"},
		{fmt.Errorf("x: %w", ssmstream.ErrUpgradeRefused), "the service refused to open the session's data channel", "ssmmessages:OpenDataChannel"},
		{ssmstream.ErrSessionOver, "the connection was lost, and the session has ended meanwhile", "ServerAliveInterval"},
		{call(&net.OpError{Op: "dial", Err: &net.DNSError{Name: "ssm.eu-west-1.amazonaws.com", IsNotFound: true}}),
			"host ssm.eu-west-1.amazonaws.com not found", "eu-west-1 a region"},
		{call(&net.OpError{Op: "dial", Err: &net.DNSError{Name: "ssm.eu-west-1.amazonaws.com", IsTemporary: true}}),
			"the name ssm.eu-west-1.amazonaws.com cannot be looked up", "network"},
		{call(&net.OpError{Op: "dial", Err: syscall.ECONNREFUSED}), "ssm.eu-west-1.amazonaws.com refuses connections", "HTTPS_PROXY"},
		{call(&net.OpError{Op: "dial", Err: syscall.ENETUNREACH}),
			"no connection to ssm.eu-west-1.amazonaws.com: " + syscall.ENETUNREACH.Error(), "network"},
		{call(context.DeadlineExceeded), "no answer from ssm.eu-west-1.amazonaws.com", "HTTPS_PROXY"},
		{&hostError{"ssmmessages.eu-west-1.amazonaws.com:443", "connect to", &net.OpError{Op: "dial", Err: syscall.ETIMEDOUT}},
			"no answer from ssmmessages.eu-west-1.amazonaws.com:443", "network"},
		{&proxyError{addr: "proxy:3128", status: 403, err: errors.New("403 Forbidden")},
			"the proxy proxy:3128 refuses the connection: 403 Forbidden", "NO_PROXY"},
		{errors.New("anything\nelse"), "anything else", ""},
	} {
		t.Run(test.want, func(t *testing.T) {
			t.Parallel()
			checkExplained(t, s.explain(test.err), test.want, test.hint)
		})
	}
}

func TestResumeErrorsAreSorted(t *testing.T) {
	t.Parallel()
	for _, test := range []struct {
		name             string
		handler          http.HandlerFunc
		over, permanent  bool
		explanationStart string
	}{
		{"gone", answer(400, "DoesNotExistException", "no"), true, false, ""},
		{"no token", func(w http.ResponseWriter, _ *http.Request) { fmt.Fprint(w, `{"SessionId":"x"}`) }, true, false, ""},
		{"throttled", answer(400, "ThrottlingException", "Rate exceeded"), false, false, ""},
		{"fault", answer(500, "InternalServerError", ""), false, false, ""},
		{"bad gateway", func(w http.ResponseWriter, _ *http.Request) { w.WriteHeader(502) }, false, false, ""},
		{"denied", answer(400, "AccessDeniedException", "not authorized to perform: ssm:ResumeSession"), false, true, "access denied: ssm:ResumeSession"},
	} {
		t.Run(test.name, func(t *testing.T) {
			t.Parallel()
			c := newTestClient(t, test.handler)
			_, err := c.resumeOnce(t.Context())
			err = c.resumeError(err)
			if over := errors.Is(err, ssmstream.ErrSessionOver); over != test.over {
				t.Errorf("over: %v, want %v (%v)", over, test.over, err)
			}
			if permanent := ssmstream.IsPermanent(err); permanent != test.permanent {
				t.Errorf("permanent: %v, want %v (%v)", permanent, test.permanent, err)
			}
			if !strings.HasPrefix(err.Error(), test.explanationStart) {
				t.Errorf("got %q", err)
			}
		})
	}
}

func TestNetworkErrorsOfResumeAreRetried(t *testing.T) {
	t.Parallel()
	for _, cause := range []error{
		&net.DNSError{Name: "ssm.eu-west-1.amazonaws.com", IsNotFound: true}, // a laptop without a network
		syscall.ECONNREFUSED, syscall.ENETUNREACH, context.DeadlineExceeded,
	} {
		c := clientFor(failingTransport{cause}, "https://ssm.eu-west-1.amazonaws.com")
		_, err := c.resumeOnce(t.Context())
		if err = c.resumeError(err); err == nil || ssmstream.IsPermanent(err) || errors.Is(err, ssmstream.ErrSessionOver) {
			t.Errorf("%v: not to be retried: %v", cause, err)
		}
	}
}

type failingTransport struct{ err error }

func (f failingTransport) Do(r *http.Request) (*http.Response, error) {
	return nil, &url.Error{Op: "Post", URL: r.URL.String(), Err: &net.OpError{Op: "dial", Net: "tcp", Err: f.err}}
}
