//go:build unix

package proxy

import (
	"encoding/json"
	"fmt"
	"os"
	"os/exec"
	"path/filepath"
	"strings"
	"testing"
	"time"

	"ssmproxy/ssmstream/ssmtest"
)

// recorded writes a file of the AWS CLI's cache as version 1.45.11 does (its
// newer ones write the time with +00:00), and returns its path.
func (m *machine) recorded(key string, c ssmtest.Credentials, expires string) string {
	return m.write(".aws/cli/cache/"+key+".json", fmt.Sprintf(`{"Credentials": {"AccessKeyId": %q, "SecretAccessKey": %q, "SessionToken": %q, `+
		`"Expiration": %q, "AccountId": "123456789012"}, "AssumedRoleUser": {"AssumedRoleId": "AROA0123456789ABCDEF0:botocore-session-1795342200", `+
		`"Arn": "arn:aws:sts::123456789012:assumed-role/Admin/botocore-session-1795342200"}, "ResponseMetadata": {"RequestId": `+
		`"f2d7a3c5-8a4c-4c0e-9d80-5b8f9d1f3a77", "HTTPStatusCode": 200, "HTTPHeaders": {"content-type": "text/xml"}, "RetryAttempts": 0}}`,
		c.AccessKeyID, c.SecretAccessKey, c.SessionToken, expires))
}

const mfaKey = "87aa92f48fc0df8c0aa627c46e96fe4ba5f0959b" // of profile mfa

func TestWhatTheCLICachedServes(t *testing.T) {
	t.Parallel()
	for _, format := range []string{"2006-01-02T15:04:05UTC", "2006-01-02T15:04:05Z", "2006-01-02T15:04:05+00:00"} {
		t.Run(format, func(t *testing.T) {
			t.Parallel()
			m := newMachine(t, ssmtest.Config{})
			m.recorded(mfaKey, m.service.Credentials(), time.Now().Add(time.Hour).UTC().Format(format))
			m.start("mfa").works()
			m.expectCalls("AssumeRole", 0)
		})
	}
}

func TestCacheThatIsNotAnyGoodIsReplaced(t *testing.T) {
	t.Parallel()
	for name, text := range map[string]string{
		"expired": "", "broken": "{", "empty": "", "of something else": `{"a": 1}`,
	} {
		t.Run(name, func(t *testing.T) {
			t.Parallel()
			m := newMachine(t, ssmtest.Config{})
			path := m.recorded(mfaKey, m.service.Credentials(), time.Now().Add(-time.Hour).UTC().Format(time.RFC3339))
			if name != "expired" {
				m.write(".aws/cli/cache/"+mfaKey+".json", text)
			}
			start(t, m.withAskpass("DISPLAY=:0"), "--profile", "mfa", instance).works()
			if info, err := os.Stat(path); err != nil || info.Mode().Perm() != 0o600 {
				t.Errorf("%v, %v", info, err)
			}
		})
	}
}

func TestCacheIsPrivateAndInTheCLIsFormat(t *testing.T) {
	t.Parallel()
	m := newMachine(t, ssmtest.Config{})
	start(t, m.withAskpass("DISPLAY=:0"), "--profile", "mfa", instance).works()
	dir := filepath.Join(m.home, ".aws/cli/cache")
	if info, err := os.Stat(dir); err != nil || info.Mode().Perm() != 0o700 {
		t.Errorf("%v, %v", info, err)
	}
	all, err := os.ReadDir(dir)
	if err != nil || len(all) != 1 || all[0].Name() != mfaKey+".json" {
		t.Fatalf("%v, %v", all, err)
	}
	var file struct {
		Credentials     map[string]string
		AssumedRoleUser map[string]string
	}
	if err := json.Unmarshal([]byte(m.read(".aws/cli/cache/"+mfaKey+".json")), &file); err != nil {
		t.Fatal(err)
	}
	expires, err := time.Parse(time.RFC3339, file.Credentials["Expiration"])
	if left := time.Until(expires); err != nil || left < 55*time.Minute || left > time.Hour {
		t.Errorf("good for %v, %v", left, err)
	}
	if c := file.Credentials; !strings.HasPrefix(c["AccessKeyId"], "ASIA") || c["SecretAccessKey"] == "" || c["SessionToken"] == "" || c["AccountId"] != "123456789012" {
		t.Errorf("keys %v", c)
	}
	if u := file.AssumedRoleUser; !strings.HasPrefix(u["Arn"], "arn:aws:sts::123456789012:assumed-role/Admin/") || u["AssumedRoleId"] == "" {
		t.Errorf("user %v", u)
	}
}

func TestHomeThatCannotBeWrittenToCostsTheCacheOnly(t *testing.T) {
	t.Parallel()
	m := newMachine(t, ssmtest.Config{})
	m.write(".aws/cli", "a file where a directory should be")
	m.write(".cache", "another one")
	start(t, m.withAskpass("DISPLAY=:0"), "--profile", "mfa", instance).works()
}

func TestConfigurationElsewhereIsRespected(t *testing.T) {
	t.Parallel()
	m := newMachine(t, ssmtest.Config{})
	env := append(m.withAskpass("DISPLAY=:0"), "AWS_PROFILE=mfa",
		"AWS_CONFIG_FILE="+m.write("elsewhere/c", m.read(".aws/config")),
		"AWS_SHARED_CREDENTIALS_FILE="+m.write("elsewhere/k", m.read(".aws/credentials")))
	for _, name := range []string{"config", "credentials"} {
		if err := os.Remove(filepath.Join(m.home, ".aws", name)); err != nil {
			t.Fatal(err)
		}
	}
	start(t, env, instance).works()
	if files := m.files(".aws/cli/cache/" + mfaKey + ".json"); len(files) != 1 {
		t.Error("not cached where the CLI looks")
	}
}

// aws returns the AWS CLI, whichever is installed.
func (m *machine) aws() string {
	m.Helper()
	path, err := exec.LookPath("aws")
	if err == nil {
		err = exec.Command(path, "--version").Run()
	}
	if err != nil {
		m.Skip("the AWS CLI is not installed")
	}
	return path
}

func (m *machine) identity(profile string) []string {
	return []string{m.aws(), "--profile", profile, "--output", "text", "--query", "Arn", "sts", "get-caller-identity"}
}

func TestRealCLIReadsWhatWeCached(t *testing.T) {
	t.Parallel()
	m := newMachine(t, ssmtest.Config{})
	who := m.identity("mfa")
	start(t, m.withAskpass("DISPLAY=:0"), "--profile", "mfa", instance).works()
	p := startCommand(t, m.env, who...)
	if status := p.wait(); status != 0 {
		t.Fatalf("exit status %d: %s", status, p.stderr)
	}
	p.expect([]byte("arn:aws:sts::123456789012:assumed-role/Admin/"))
	m.expectCalls("AssumeRole", 1)
}

func TestWeReadWhatTheRealCLICached(t *testing.T) {
	t.Parallel()
	m := newMachine(t, ssmtest.Config{})
	s := startCommandAtTerminal(t, m.env, m.identity("mfa")...)
	s.shows("Enter MFA code for arn:aws:iam::123456789012:mfa/demo: ", 1)
	s.answers(m)
	s.expect([]byte("arn:aws:sts::123456789012:assumed-role/Admin/botocore-session-"))
	s.wait()
	m.start("mfa").works()
	m.expectCalls("AssumeRole", 1)
}

func TestRealCLIReadsTheTokenThatWeKept(t *testing.T) {
	t.Parallel()
	for _, profile := range []string{"sso", "sso-legacy"} {
		t.Run(profile, func(t *testing.T) {
			t.Parallel()
			m := newMachine(t, ssmtest.Config{})
			who := m.identity(profile)
			s := m.startAtTerminal(profile)
			s.signsIn(m)
			s.works()
			p := startCommand(t, m.env, who...)
			if status := p.wait(); status != 0 {
				t.Fatalf("exit status %d: %s", status, p.stderr)
			}
			p.expect([]byte("arn:aws:sts::123456789012:assumed-role/AWSReservedSSO_Developer_"))
		})
	}
}
