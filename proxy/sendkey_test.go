package proxy

import (
	"os"
	"path/filepath"
	"testing"

	"ssmproxy/ssmstream"
	"ssmproxy/ssmstream/ssmtest"
)

// keyArgs are the flags that push the key, which is in a file of the test's.
func keyArgs(t *testing.T, key string) []string {
	t.Helper()
	file := filepath.Join(t.TempDir(), "id.pub")
	if err := os.WriteFile(file, []byte(key), 0o600); err != nil {
		t.Fatal(err)
	}
	return []string{"--send-key", file, "--user", "me"}
}

func TestNothingGoesOutBeforeTheKeyIsThere(t *testing.T) {
	t.Parallel()
	pushed := make(chan struct{})
	s, e := newService(t, ssmtest.Config{KeyPushed: func(ssmtest.PushedKey) func() {
		<-pushed
		return func() {}
	}})
	p := start(t, s.Env(), append(keyArgs(t, edKey), instance)...)
	p.send([]byte("at once"))
	// The session stands, and has been told that its first output arrived.
	until(t, "the output is acknowledged", func() bool {
		st := s.Stats()
		return st.OutputBytes == int64(len(banner)) && st.FromClient.Messages[ssmstream.Acknowledge] > 2
	})
	if got := e.got(); len(got) > 0 {
		t.Errorf("%q went out", got)
	}
	close(pushed)
	p.expect([]byte(banner + "at once"))
	p.stdin.Close()
	p.endsQuietly()
	idle(t, s)
	if keys := s.PushedKeys(); len(keys) != 1 || keys[0] != (ssmtest.PushedKey{InstanceID: instance, User: "me", Key: edKey}) {
		t.Errorf("pushed %v", keys)
	}
}

func TestKeyIsCheckedBeforeAnyCall(t *testing.T) {
	t.Parallel()
	for name, test := range map[string]struct {
		key, host string
		words     []string
	}{
		"no key":       {"nonsense", instance, []string{"ssmproxy: ", "id.pub is not a public key\n", "hint: "}},
		"managed node": {edKey, "mi-0123456789abcdef0", []string{"ssmproxy: no key can be pushed to mi-0123456789abcdef0: ", "hint: put the public key into"}},
	} {
		t.Run(name, func(t *testing.T) {
			t.Parallel()
			s, _ := newService(t, ssmtest.Config{})
			fails(t, 1, s.Env(), append(keyArgs(t, test.key), test.host), test.words...)
			if calls := s.Stats().Calls; len(calls) > 0 {
				t.Errorf("called %v", calls)
			}
		})
	}
}

func TestKeyThatCannotBePushedEndsTheSession(t *testing.T) {
	t.Parallel()
	for name, test := range map[string]struct {
		nodes []ssmtest.Node
		fail  *ssmtest.CallError
		env   []string
		host  string
		words []string
	}{
		"denied": {fail: &ssmtest.CallError{Code: "AuthException", Message: "Not this one."}, host: instance,
			words: []string{"ssmproxy: access denied: SendSSHPublicKey\n", "hint: AWS says: Not this one", "hint: ec2-instance-connect:SendSSHPublicKey is what --send-key needs"}},
		"stopped": {nodes: []ssmtest.Node{{InstanceID: instance, Stopped: true, ComputerName: "web"}}, host: "web",
			words: []string{"ssmproxy: the key can't be pushed: web (" + instance + ") is not running\n", "hint: aws ec2 start-instances --instance-ids " + instance}},
		"unavailable": {fail: &ssmtest.CallError{Code: "EC2InstanceUnavailableException"}, host: instance,
			words: []string{"ssmproxy: the key can't be pushed: EC2 says that " + instance + " is unavailable\n"}},
		"unknown": {fail: &ssmtest.CallError{Code: "EC2InstanceNotFoundException"}, host: instance,
			words: []string{"ssmproxy: the key can't be pushed: EC2 knows no instance " + instance + " in eu-central-1\n"}},
		"arguments": {fail: &ssmtest.CallError{Code: "InvalidArgsException", Message: "Bad."}, host: instance,
			words: []string{"ssmproxy: EC2 Instance Connect does not take this key for user \"me\"\n", "hint: AWS says: Bad"}},
		"managed node by name": {nodes: []ssmtest.Node{{InstanceID: "mi-0123456789abcdef0", ComputerName: "web"}}, host: "web",
			words: []string{"ssmproxy: no key can be pushed to mi-0123456789abcdef0: "}},
		"no TLS": {env: []string{"AWS_ENDPOINT_URL_EC2_INSTANCE_CONNECT=http://127.0.0.1:1"}, host: instance,
			words: []string{"ssmproxy: AWS_ENDPOINT_URL_EC2_INSTANCE_CONNECT must be an https:// address"}},
	} {
		t.Run(name, func(t *testing.T) {
			t.Parallel()
			s, e := newService(t, ssmtest.Config{Nodes: test.nodes})
			if test.fail != nil {
				s.FailCalls("SendSSHPublicKey", -1, test.fail)
			}
			fails(t, 1, append(s.Env(), test.env...), append(keyArgs(t, edKey), test.host), test.words...)
			idle(t, s)
			if got := e.got(); len(got) > 0 {
				t.Errorf("%q went out", got)
			}
		})
	}
}

func TestPushOutlivesFaultsOfTheService(t *testing.T) {
	t.Parallel()
	s, _ := newService(t, ssmtest.Config{})
	s.FailCalls("SendSSHPublicKey", 2, &ssmtest.CallError{Code: "ServiceException", Status: 500})
	p := start(t, s.Env(), append(keyArgs(t, edKey), instance)...)
	p.connects()
	p.stdin.Close()
	p.endsQuietly()
	idle(t, s)
}
