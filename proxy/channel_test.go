//go:build unix

package proxy

import (
	"fmt"
	"os"
	"strings"
	"testing"
	"time"

	"ssmproxy/ssmstream"
	"ssmproxy/ssmstream/ssmtest"
)

func TestCutConnectionIsResumedByteExact(t *testing.T) {
	t.Parallel()
	s, p := newSession(t, ssmtest.Config{NoPacing: true})
	for range 5 {
		data := randomBytes(100 << 10)
		go p.stdin.Write(data)
		until(t, "data flows", func() bool { return s.Stats().OpenChannels == 1 })
		s.CutAll()
		p.expect(data)
	}
	p.stdin.Close()
	p.endsInOrder(s)
	if st := s.Stats(); st.Resumed < 5 {
		t.Errorf("resumed %d times", st.Resumed)
	}
}

func TestExportedCredentialsThatExpireEndTheSessionWithWords(t *testing.T) {
	t.Parallel()
	s, p := newSession(t, ssmtest.Config{})
	s.ExpireCredentials()
	p.ends(1)
	want := "ssmproxy: the AWS credentials have expired\nssmproxy: hint: they come from the environment: export AWS_ACCESS_KEY_ID, "
	if text := p.stderr.String(); !strings.HasPrefix(text, want) {
		t.Errorf("got %q", text)
	}
}

func TestCredentialsAreTakenAfreshFromTheirFile(t *testing.T) {
	t.Parallel()
	s, _ := newService(t, ssmtest.Config{})
	file := t.TempDir() + "/credentials"
	write := func(c ssmtest.Credentials) {
		text := fmt.Sprintf("[default]\naws_access_key_id=%s\naws_secret_access_key=%s\naws_session_token=%s\n",
			c.AccessKeyID, c.SecretAccessKey, c.SessionToken)
		if err := os.WriteFile(file, []byte(text), 0o600); err != nil {
			t.Fatal(err)
		}
	}
	write(s.Credentials())
	env := append(s.Env(), "AWS_ACCESS_KEY_ID=", "AWS_SECRET_ACCESS_KEY=", "AWS_SESSION_TOKEN=", "AWS_SHARED_CREDENTIALS_FILE="+file)
	p := start(t, env, instance)
	p.connects()
	write(s.RenewCredentials()) // before the cut: the client is fast
	s.ExpireOldCredentials()
	p.echoes("an hour later")
	p.stdin.Close()
	p.wait()
	idle(t, s)
}

func TestConnectionLostAndBackIsSaidOnce(t *testing.T) {
	t.Parallel()
	s, p := newSession(t, ssmtest.Config{})
	s.Outage(time.Hour)
	p.says("ssmproxy: connection to the service lost, resuming…\n")
	s.Outage(0)
	p.says("ssmproxy: connection to the service resumed\n")
	p.echoes("back")
	p.stdin.Close()
	p.wait()
	if n := strings.Count(p.stderr.String(), "\n"); n != 2 {
		t.Errorf("said %q", p.stderr)
	}
}

func TestCustomerMessageGoesToThePersonOnly(t *testing.T) {
	t.Parallel()
	_, p := newSession(t, ssmtest.Config{CustomerMessage: "This session is recorded.\x1b[2J"})
	p.stdin.Close()
	p.expectEnd()
	p.wait()
	if got, want := p.stderr.String(), "ssmproxy: This session is recorded.[2J\n"; got != want {
		t.Errorf("got %q, want %q", got, want)
	}
}

func TestSignedUpgradeRefusedIsExplainedOnce(t *testing.T) {
	t.Parallel()
	_, p := newSession(t, ssmtest.Config{RefuseSigned: true})
	p.stdin.Close()
	p.ends(0)
	text := p.stderr.String()
	if strings.Count(text, "\n") != 2 || !strings.Contains(text, "hint: the policy of this user or role lacks the statement {") {
		t.Errorf("got %q", text)
	}
}

func TestUpgradeIsSigned(t *testing.T) {
	t.Parallel()
	s, p := newSession(t, ssmtest.Config{RefuseUnsigned: true, MinClientVersion: "1.2.764.0"})
	p.stdin.Close()
	p.endsQuietly()
	if st := s.Stats(); st.SignedUpgrades != 1 || st.RefusedBare != 0 || st.Connections > 2 {
		t.Errorf("%d signed upgrades, %d unsigned refused, %d connections", st.SignedUpgrades, st.RefusedBare, st.Connections)
	}
}

func TestPresignedURLIsNotSignedAgain(t *testing.T) {
	t.Parallel()
	s, p := newSession(t, ssmtest.Config{PresignedURL: true})
	p.stdin.Close()
	p.endsQuietly()
	if st := s.Stats(); st.Presigned != 1 || st.SignedUpgrades != 0 {
		t.Errorf("%d presigned, %d signed", st.Presigned, st.SignedUpgrades)
	}
}

func TestNothingIsSentEarly(t *testing.T) {
	t.Parallel()
	s, _ := newService(t, ssmtest.Config{})
	p := start(t, s.Env(), instance)
	p.send([]byte("at once"))
	p.expect([]byte(banner + "at once"))
	p.stdin.Close()
	p.endsQuietly()
	if st := s.Stats(); st.EarlyData != 0 || st.FromClient.Messages[ssmstream.InputStreamData] == 0 {
		t.Errorf("%d messages before the handshake's end", st.EarlyData)
	}
}
