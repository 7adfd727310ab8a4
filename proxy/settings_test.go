package proxy

import (
	"crypto/tls"
	"encoding/pem"
	"fmt"
	"net"
	"net/http"
	"net/http/httptest"
	"net/http/httputil"
	"net/url"
	"os"
	"path/filepath"
	"strings"
	"testing"

	"ssmproxy/ssmstream/ssmtest"
)

// fails runs the binary, which is to end with the status and say, in this
// order, these words on standard error, and nothing on standard output.
func fails(t *testing.T, status int, env, args []string, words ...string) {
	t.Helper()
	p := start(t, env, args...)
	if got := p.wait(); got != status {
		t.Errorf("exit status %d, want %d", got, status)
	}
	p.expectEnd()
	text := p.stderr.String()
	for line := range strings.Lines(text) {
		if !strings.HasPrefix(line, "ssmproxy: ") || strings.HasSuffix(line, ".\n") {
			t.Errorf("line %q is not in the style of the house", line)
		}
	}
	if strings.Contains(text, "hunter2") {
		t.Errorf("a password is in %q", text)
	}
	for rest := text; len(words) > 0; words = words[1:] {
		_, after, found := strings.Cut(rest, words[0])
		if !found {
			t.Fatalf("does not say %q in %q", words[0], text)
		}
		rest = after
	}
}

func TestWrongUsage(t *testing.T) {
	t.Parallel()
	for _, test := range []struct {
		args []string
		want string
	}{
		{nil, "ssmproxy: HOST is missing\nssmproxy: hint: "},
		{[]string{"--send-key", "x", instance}, "ssmproxy: --send-key needs --user, the login name on the instance\nssmproxy: hint: "},
		{[]string{"--wait", "5", instance}, "ssmproxy: --wait takes a time such as 90s or 2m: invalid value \"5\"\n"},
		{[]string{"--wait", "-5s", instance}, "ssmproxy: --wait -5s is negative\n"},
		{[]string{"-check", instance}, "ssmproxy: unknown flag --check\n"},
		{[]string{"--profile"}, "ssmproxy: flag --profile needs a value\n"},
		{[]string{"-v=perhaps", instance}, "ssmproxy: invalid boolean value"},
		{[]string{instance, "22", "x"}, "ssmproxy: too many arguments: x\n"},
		{[]string{instance, "--region", "x"}, "ssmproxy: flag --region stands after HOST\n"},
		{[]string{instance, "0"}, "ssmproxy: port \"0\" is not a number from 1 to 65535\n"},
		{[]string{"--", "-oProxyCommand=x", "22"}, "ssmproxy: host \"-oProxyCommand=x\" looks like a flag\nssmproxy: hint: "},
		{[]string{"-oProxyCommand=x", "22"}, "ssmproxy: unknown flag --oProxyCommand\n"},
		{[]string{"--reason", strings.Repeat("é", 257), instance}, "ssmproxy: the reason is 257 characters long, 256 are allowed\n"},
		{[]string{"i-0123"}, "ssmproxy: \"i-0123\" is not an instance ID\nssmproxy: hint: "},
	} {
		t.Run(strings.Join(test.args, " "), func(t *testing.T) {
			t.Parallel()
			fails(t, 2, nil, test.args, test.want)
		})
	}
}

func TestWhatIsAskedForInsteadOfASession(t *testing.T) {
	t.Parallel()
	for flag, want := range map[string]string{
		"--version":    "ssmproxy ",
		"--ssh-config": "Host i-* mi-*\n    ProxyCommand ssmproxy %h %p\n",
		"--help":       "usage: ssmproxy [flags] HOST [PORT]\n",
		"-h":           "usage: ",
	} {
		t.Run(flag, func(t *testing.T) {
			t.Parallel()
			p := start(t, nil, flag)
			p.expect([]byte(want))
			p.stdout.Close()
			p.endsQuietly()
		})
	}
}

// settings writes the two files of an AWS user and returns the environment
// that names them.
func settings(t *testing.T, config, credentials string) []string {
	t.Helper()
	dir := t.TempDir()
	var env []string
	for name, file := range map[string][2]string{
		"AWS_CONFIG_FILE":             {"config", config},
		"AWS_SHARED_CREDENTIALS_FILE": {"credentials", credentials},
	} {
		path := filepath.Join(dir, file[0])
		if err := os.WriteFile(path, []byte(file[1]), 0o600); err != nil {
			t.Fatal(err)
		}
		env = append(env, name+"="+path)
	}
	return env
}

func TestWrongSettings(t *testing.T) {
	t.Parallel()
	const sso = "[profile work]\nregion=eu-west-1\nsso_session=corp\nsso_account_id=123456789012\nsso_role_name=dev\n" +
		"[sso-session corp]\nsso_region=eu-west-1\nsso_start_url=https://example.com/start\n"
	const legacySSO = "[profile work]\nregion=eu-west-1\nsso_account_id=123456789012\nsso_role_name=dev\n" +
		"sso_region=eu-west-1\nsso_start_url=https://example.com/start\n"
	const process = "[profile work]\nregion=eu-west-1\ncredential_process=false\n"
	const mfa = "[profile work]\nregion=eu-west-1\nrole_arn=arn:aws:iam::123456789012:role/x\nsource_profile=base\nmfa_serial=arn:aws:iam::123456789012:mfa/me\n" +
		"[profile base]\naws_access_key_id=AKIDEXAMPLE\naws_secret_access_key=x\n"
	const login = "[profile work]\nregion=eu-west-1\nlogin_session=arn:aws:iam::123456789012:user/me\n"
	const keys = "[default]\nregion=eu-west-1\naws_access_key_id=AKIDEXAMPLE\naws_secret_access_key=x\n"
	for _, test := range []struct {
		name   string
		config string
		env    []string
		args   []string
		words  []string
	}{
		{"no region", "", nil, nil, []string{"ssmproxy: no AWS region is set\n", "hint: give --region REGION, set AWS_REGION"}},
		{"no region in profile", "[profile work]\n", []string{"AWS_PROFILE=work"}, nil, []string{"no AWS region", "aws configure set region REGION --profile work\n"}},
		{"no credentials", "", []string{"AWS_REGION=eu-west-1"}, nil, []string{"ssmproxy: no AWS credentials found\n", "hint: ", "aws configure", "AWS_PROFILE"}},
		{"unknown profile", "", nil, []string{"--profile", "nope"}, []string{"ssmproxy: profile \"nope\" does not exist\n", "hint: aws configure list-profiles"}},
		{"unknown AWS_PROFILE", "", []string{"AWS_PROFILE=nope"}, nil, []string{"profile \"nope\" does not exist\n", "AWS_PROFILE names this one"}},
		{"SSO, never signed in", sso, nil, []string{"--profile", "work"}, []string{"ssmproxy: the SSO session of profile work has expired\n", "hint: aws sso login --profile work renews it\n"}},
		{"SSO without session", legacySSO, []string{"AWS_PROFILE=work"}, nil, []string{"the SSO session of profile work has expired\n", "aws sso login --profile work"}},
		{"aws login", login, []string{"AWS_PROFILE=work"}, nil, []string{"the AWS sign-in of profile work has expired\n", "hint: aws login --profile work"}},
		{"credential_process", process, []string{"AWS_PROFILE=work"}, nil, []string{"the credential_process of profile work failed\n", "hint: "}},
		{"MFA", mfa, []string{"AWS_PROFILE=work"}, nil, []string{"the role of profile work asks for an MFA code"}},
		{"CA bundle missing", keys, []string{"AWS_CA_BUNDLE=/nonexistent/ca.pem"}, nil, []string{"AWS_CA_BUNDLE names /nonexistent/ca.pem, which cannot be read"}},
		{"CA bundle of nothing", keys, []string{"AWS_CA_BUNDLE=/dev/null"}, nil, []string{"AWS_CA_BUNDLE names a file without certificates"}},
		{"no TLS", keys, []string{"AWS_ENDPOINT_URL_SSM=http://127.0.0.1:1"}, nil, []string{"AWS_ENDPOINT_URL_SSM must be an https:// address, not \"http://127.0.0.1:1\"\n"}},
		{"nobody there", keys, []string{"AWS_ENDPOINT_URL_SSM=https://127.0.0.1:1"}, nil, []string{"ssmproxy: 127.0.0.1:1 refuses connections\n"}},
		{"log file", keys, nil, []string{"--log-file", "/nonexistent/log"}, []string{"the log file cannot be opened"}},
	} {
		t.Run(test.name, func(t *testing.T) {
			t.Parallel()
			env := append(settings(t, test.config, ""), test.env...)
			fails(t, 1, env, append(test.args, instance), test.words...)
		})
	}
}

func TestServiceThatRefuses(t *testing.T) {
	t.Parallel()
	closed := listen(t)
	closed.Close()
	for _, test := range []struct {
		name  string
		cfg   ssmtest.Config
		env   []string
		args  []string
		words []string
	}{
		{"not connected", ssmtest.Config{Nodes: []ssmtest.Node{{InstanceID: "i-00000000"}}}, nil, nil,
			[]string{"ssmproxy: " + instance + " is not connected to Session Manager in eu-central-1\n", "hint: is the instance running"}},
		{"denied", ssmtest.Config{Denied: []string{"ssm:StartSession"}}, nil, nil,
			[]string{"ssmproxy: access denied: ssm:StartSession on arn:aws:ec2:eu-central-1:123456789012:instance/" + instance + "\n", "hint: "}},
		{"document", ssmtest.Config{}, nil, []string{"--document", "Nope"},
			[]string{"ssmproxy: session document \"Nope\" cannot be used in eu-central-1\n", "hint: --document"}},
		{"port", ssmtest.Config{SSHAddr: closed.Addr().String()}, nil, nil,
			[]string{"ssmproxy: nothing on " + instance + " accepts connections on port 22\n", "hint: is the SSH server (sshd) running"}},
		{"wrong secret", ssmtest.Config{}, []string{"AWS_SECRET_ACCESS_KEY=wrong"}, nil,
			[]string{"ssmproxy: AWS does not accept the signature\n", "hint: ", "hint: they come from the environment: export"}},
		{"unknown key", ssmtest.Config{}, []string{"AWS_ACCESS_KEY_ID=AKIDEXAMPLE"}, nil,
			[]string{"ssmproxy: AWS does not accept the credentials in eu-central-1\n"}},
		{"certificate", ssmtest.Config{}, []string{"AWS_CA_BUNDLE="}, nil,
			[]string{"ssmproxy: the certificate presented for 127.0.0.1:", " is not trusted\n", "hint: where a proxy inspects TLS, AWS_CA_BUNDLE"}},
		{"upgrade", ssmtest.Config{RefuseSigned: true, RefuseUnsigned: true}, nil, nil,
			[]string{"ssmproxy: the service refused to open the session's data channel\n", "hint: ", "ssmmessages:OpenDataChannel"}},
		{"gateway that is not there", ssmtest.Config{}, []string{"AWS_ENDPOINT_URL_SSMMESSAGES=https://127.0.0.1:1"}, nil,
			[]string{"ssmproxy: 127.0.0.1:1 refuses connections\n", "hint: "}},
		{"data channel without TLS", ssmtest.Config{}, []string{"AWS_ENDPOINT_URL_SSMMESSAGES=http://127.0.0.1:1"}, nil,
			[]string{"ssmproxy: AWS_ENDPOINT_URL_SSMMESSAGES must be an https:// address"}},
	} {
		t.Run(test.name, func(t *testing.T) {
			t.Parallel()
			s, _ := newService(t, test.cfg)
			fails(t, 1, append(s.Env(), test.env...), append(test.args, instance), test.words...)
			idle(t, s)
		})
	}
}

func TestExpiredCredentialsAreExplained(t *testing.T) {
	t.Parallel()
	s, _ := newService(t, ssmtest.Config{})
	env := s.Env()
	s.ExpireCredentials()
	fails(t, 1, env, []string{instance}, "ssmproxy: the AWS credentials have expired\n", "hint: they come from the environment")
}

func TestSessionClosedWithWordsIsAnError(t *testing.T) {
	t.Parallel()
	s, _ := newService(t, ssmtest.Config{})
	p := start(t, s.Env(), instance)
	p.connects()
	s.CloseSessions("Maintenance\x1b[0m begins.")
	if status := p.wait(); status != 1 {
		t.Errorf("exit status %d, want 1", status)
	}
	if got, want := p.stderr.String(), "ssmproxy: the service closed the session: Maintenance[0m begins.\n"; got != want {
		t.Errorf("got %q, want %q", got, want)
	}
}

func TestVerboseShowsThePhasesAndAWSsOwnWords(t *testing.T) {
	t.Parallel()
	s, _ := newService(t, ssmtest.Config{Nodes: []ssmtest.Node{{InstanceID: "i-00000000"}}})
	fails(t, 1, s.Env(), []string{"-v", instance},
		"ssmproxy: credentials found source=EnvConfigCredentials region=eu-central-1 took=",
		"ssmproxy: "+instance+" is not connected", "TargetNotConnected: "+instance+" is not connected")
}

func TestNoSecretIsShownOrLogged(t *testing.T) {
	t.Parallel()
	s, _ := newService(t, ssmtest.Config{})
	file := filepath.Join(t.TempDir(), "log")
	p := start(t, s.Env(), "-v", "--log-file", file, instance)
	p.connects()
	s.CutAll()
	p.echoes("resumed")
	p.stdin.Close()
	p.expectEnd()
	if status := p.wait(); status != 0 {
		t.Errorf("exit status %d", status)
	}
	logged, err := os.ReadFile(file)
	if err != nil {
		t.Fatal(err)
	}
	for _, phase := range []string{"credentials found", "session started", "connected to the data channel's host", "stream open", "first byte", "session ended"} {
		if !strings.Contains(p.stderr.String(), phase) || !strings.Contains(string(logged), phase) {
			t.Errorf("phase %q is missing", phase)
		}
	}
	all := p.stderr.String() + string(logged)
	c := s.Credentials()
	for _, secret := range []string{c.SecretAccessKey, c.SessionToken, c.SessionToken[:40], "Signature", "Authorization", "TokenValue", "cell-number", "role=publish"} {
		if strings.Contains(all, secret) {
			t.Errorf("%q is in the log:\n%s", secret, all)
		}
	}
}

func TestEndpointOfTheDataChannelFromTheProfile(t *testing.T) {
	t.Parallel()
	// Two services in front of each other: the first one's sessions are only
	// to be had at the second one's address.
	s, _ := newService(t, ssmtest.Config{})
	l := listen(t)
	serve(t, l, func(c net.Conn) {
		_, port, _ := strings.Cut(strings.TrimPrefix(s.URL(), "https://"), ":")
		tunnel(c, c, port, "")
	})
	files := settings(t, "[default]\nservices=here\n[services here]\nssmmessages =\n  endpoint_url = https://"+l.Addr().String()+"\n", "")
	env := append(append(s.Env(), "AWS_ENDPOINT_URL_SSMMESSAGES="), files...)
	p := start(t, env, "-v", instance)
	p.connects()
	p.says("connected to the data channel's host addr=" + l.Addr().String())
	p.stdin.Close()
	p.wait()
}

func TestStreamURLThatIsNotWSSIsRefused(t *testing.T) {
	t.Parallel()
	terminated := make(chan struct{}, 1)
	srv := httptest.NewTLSServer(http.HandlerFunc(func(w http.ResponseWriter, r *http.Request) {
		if strings.HasSuffix(r.Header.Get("X-Amz-Target"), ".TerminateSession") {
			terminated <- struct{}{}
		}
		fmt.Fprint(w, `{"SessionId":"me-0123","TokenValue":"t","StreamUrl":"ws://127.0.0.1:1/v1/data-channel/me-0123"}`)
	}))
	t.Cleanup(srv.Close)
	env := []string{"AWS_ENDPOINT_URL_SSM=" + srv.URL, "AWS_CA_BUNDLE=" + certificateFile(t, srv), "AWS_REGION=eu-west-1",
		"AWS_ACCESS_KEY_ID=AKIDEXAMPLE", "AWS_SECRET_ACCESS_KEY=x"}
	fails(t, 1, env, []string{instance}, "ssmproxy: the service sent a StreamUrl of scheme \"ws\", only wss is safe\n")
	<-terminated
}

// Every byte goes through a proxy that wants a password and alone knows where
// example.com is.
func TestEverythingGoesThroughHTTPSProxy(t *testing.T) {
	t.Parallel()
	s, _ := newService(t, ssmtest.Config{RefuseUnsigned: true})
	far, err := url.Parse(s.URL())
	if err != nil {
		t.Fatal(err)
	}
	transport := &http.Transport{TLSClientConfig: &tls.Config{RootCAs: s.CACertPool()}}
	t.Cleanup(transport.CloseIdleConnections)
	front := httptest.NewTLSServer(&httputil.ReverseProxy{
		Transport: transport,
		Rewrite: func(r *httputil.ProxyRequest) {
			r.SetURL(far)
			r.Out.Host = r.In.Host // it is signed
		},
	})
	t.Cleanup(front.Close)
	l := listen(t)
	asked := connectProxy(t, l, basicAuth)
	there := "example.com:" + portOf(front.Listener.Addr().String())
	env := append(s.Env(),
		"AWS_ENDPOINT_URL_SSM=https://"+there,
		"AWS_ENDPOINT_URL_SSMMESSAGES=https://"+there,
		"AWS_CA_BUNDLE="+certificateFile(t, front),
		"HTTPS_PROXY=http://user:p%3Aw@"+l.Addr().String())
	p := start(t, env, instance)
	p.connects()
	p.stdin.Close()
	p.endsQuietly()
	idle(t, s)
	for len(asked) > 0 {
		if r := <-asked; r.Host != there {
			t.Errorf("the proxy was asked for %s", r.Host)
		}
	}
}

func TestProxyOfTheAWSCallsIsExplained(t *testing.T) {
	t.Parallel()
	l := listen(t)
	connectProxy(t, l, basicAuth)
	for _, test := range []struct{ proxy, want string }{
		{"127.0.0.1:1", "ssmproxy: no connection through the proxy 127.0.0.1:1: connection refused\n"},
		{l.Addr().String(), "ssmproxy: the proxy " + l.Addr().String() + " asks for a user name and password\n"},
	} {
		t.Run(test.want, func(t *testing.T) {
			t.Parallel()
			env := append(settings(t, "", ""), "AWS_ACCESS_KEY_ID=AKIDEXAMPLE", "AWS_SECRET_ACCESS_KEY=x", "AWS_REGION=eu-west-1",
				"AWS_ENDPOINT_URL_SSM=https://example.com", "HTTPS_PROXY=http://me:hunter2@"+test.proxy)
			fails(t, 1, env, []string{"-v", instance}, test.want, "ssmproxy: hint: ")
		})
	}
}

// certificateFile is a PEM file that vouches for the server.
func certificateFile(t *testing.T, srv *httptest.Server) string {
	t.Helper()
	file := filepath.Join(t.TempDir(), "ca.pem")
	ca := pem.EncodeToMemory(&pem.Block{Type: "CERTIFICATE", Bytes: srv.Certificate().Raw})
	if err := os.WriteFile(file, ca, 0o600); err != nil {
		t.Fatal(err)
	}
	return file
}
