//go:build unix

package proxy

import (
	"encoding/json"
	"os"
	"os/exec"
	"path/filepath"
	"strings"
	"syscall"
	"testing"

	"ssmproxy/ssmstream/ssmtest"
)

// secrets returns every value in the caches that nobody but the owner may see.
func (m *machine) secrets() map[string]string {
	m.Helper()
	found := make(map[string]string)
	var collect func(v any, name string)
	collect = func(v any, name string) {
		switch v := v.(type) {
		case map[string]any:
			for k, inner := range v {
				collect(inner, k)
			}
		case string:
			switch strings.ToLower(name) {
			case "secretaccesskey", "sessiontoken", "accesstoken", "refreshtoken", "clientsecret":
				found[name+" "+v[:6]] = v
			}
		}
	}
	for _, file := range append(m.files(".aws/cli/cache/*.json"), m.files(".aws/sso/cache/*.json")...) {
		data, err := os.ReadFile(file)
		if err != nil {
			m.Fatal(err)
		}
		var v any
		if err := json.Unmarshal(data, &v); err != nil {
			m.Fatal(err)
		}
		collect(v, "")
	}
	return found
}

// processes is what anyone on the machine may see of the others' arguments.
func processes(t *testing.T) string {
	t.Helper()
	out, err := exec.Command("ps", "-A", "-o", "args=").Output()
	if err != nil {
		t.Fatal(err)
	}
	return string(out)
}

// Signing in to SSO, then an MFA code at the terminal, then one by SSH_ASKPASS,
// with all that can be logged: no code, no token and no key leaves the
// terminal, the askpass program's output and the caches.
func TestNoCodeOrTokenIsShownLoggedOrAnArgument(t *testing.T) {
	t.Parallel()
	m := newMachine(t, ssmtest.Config{})
	log := filepath.Join(m.home, "log")
	m.write("bin/xdg-open", "#!/bin/sh\nps -A -o args= >>"+m.home+"/processes\n")
	env := append(m.env, "DISPLAY=:0", "PATH="+m.home+"/bin:"+os.Getenv("PATH"), "SSH_ASKPASS_REQUIRE=never")
	flags := []string{"-v", "--log-file", log, "--profile"}

	s := startAtTerminal(t, env, append(flags, "sso-mfa", instance)...)
	secrets := map[string]string{"user code": s.signsIn(m)}
	s.shows("MFA code of ", 1)
	visible := processes(t)
	secrets["wrong code"] = "987651"
	s.types("987651\n")
	s.shows("MFA code of ", 2)
	secrets["code"] = m.service.MFACode()
	s.types(secrets["code"] + "\n")
	s.connects()
	visible += processes(t)
	s.stdin.Close()
	s.expectEnd()
	s.wait()
	if screen := s.screen.String(); strings.Contains(screen, secrets["code"]) || strings.Contains(screen, secrets["wrong code"]) {
		t.Errorf("a code was echoed: %q", screen)
	}

	collect := func() {
		for name, value := range m.secrets() {
			secrets[name] = value
		}
	}
	collect()
	// The CLI's cache does not care who assumes a role: this one would do.
	m.remove(".aws/cli")
	env = m.withAskpass("DISPLAY=:0")
	secrets["askpass code"] = m.read("askpass")[strings.LastIndex(m.read("askpass"), "echo ")+5:][:6]
	p := start(t, env, append(flags, "mfa", instance)...)
	p.connects()
	visible += processes(t)
	p.stdin.Close()
	p.expectEnd()
	p.wait()

	collect()
	if len(secrets) < 4+3*2+3 { // three roles' keys and tokens, one sign-in
		t.Fatalf("only %d secrets", len(secrets))
	}
	visible += m.read("processes")
	logged := m.read("log")
	for _, line := range []string{"credentials found", "signed in to SSO"} {
		if !strings.Contains(logged, line) {
			t.Errorf("%q is not in the log", line)
		}
	}
	for name, secret := range secrets {
		for place, text := range map[string]string{
			"standard error": s.stderr.String() + p.stderr.String(), "the log": logged, "an argument list": visible,
		} {
			if strings.Contains(text, secret) {
				t.Errorf("%s is in %s", name, place)
			}
		}
	}
}

func TestSlowSourceSaysWhatItWaitsFor(t *testing.T) {
	t.Parallel()
	m := newMachine(t, ssmtest.Config{})
	fifo := filepath.Join(m.home, "fifo")
	if err := syscall.Mkfifo(fifo, 0o600); err != nil {
		t.Fatal(err)
	}
	m.write(".aws/config", m.read(".aws/config")+"[profile slow]\nregion = eu-central-1\ncredential_process = cat "+fifo+"\n"+
		"[profile slow-role]\nregion = eu-central-1\nrole_arn = arn:aws:iam::123456789012:role/Deploy\nsource_profile = slow\n")
	for _, profile := range []string{"slow", "slow-role"} {
		p := m.start(profile)
		want := map[string]string{
			"slow":      "ssmproxy: waiting for credentials for profile slow: the credential_process\n",
			"slow-role": "ssmproxy: waiting for credentials for profile slow-role: the credential_process, then STS, to assume a role\n",
		}[profile]
		p.says(want)
		c := m.service.UserCredentials()
		answer, err := json.Marshal(map[string]any{"Version": 1, "AccessKeyId": c.AccessKeyID, "SecretAccessKey": c.SecretAccessKey})
		if err != nil {
			t.Fatal(err)
		}
		if err := os.WriteFile(fifo, answer, 0); err != nil {
			t.Fatal(err)
		}
		p.connects()
		p.stdin.Close()
		p.wait()
		if got := p.stderr.String(); got != want {
			t.Errorf("said %q", got)
		}
	}
}

func TestWaitingForAnotherIsSaid(t *testing.T) {
	t.Parallel()
	m := newMachine(t, ssmtest.Config{})
	s := m.asked("mfa")
	other := m.startAtTerminal("mfa")
	other.says("ssmproxy: waiting for another ssmproxy, which asks for the MFA code of arn:aws:iam::123456789012:mfa/demo\n")
	s.types("\x03") // it gives up, and the other's turn has come
	s.wait()
	other.shows(question, 1)
	other.answers(m)
	other.connects()
	other.stdin.Close()
	other.wait()
}
