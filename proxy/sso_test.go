//go:build unix

package proxy

import (
	"encoding/json"
	"os"
	"path/filepath"
	"regexp"
	"strings"
	"testing"
	"time"

	"ssmproxy/ssmstream/ssmtest"
)

// signedIn writes what aws sso login writes into the cache, as of the given time
// before the token's end.
func (m *machine) signedIn(left time.Duration) ssmtest.SignIn {
	m.Helper()
	in := m.service.SignIn()
	m.write(m.tokenFile("corp"), `{"startUrl": "`+m.service.SSOStartURL()+`", "region": "us-east-2", `+
		`"accessToken": "`+in.AccessToken+`", "expiresAt": "`+time.Now().Add(left).UTC().Format("2006-01-02T15:04:05Z")+`", `+
		`"clientId": "`+in.ClientID+`", "clientSecret": "`+in.ClientSecret+`", `+
		`"registrationExpiresAt": "`+in.RegistrationExpiresAt.Format("2006-01-02T15:04:05Z")+`", "refreshToken": "`+in.RefreshToken+`"}`)
	return in
}

func (m *machine) tokenFile(sessionOrURL string) string {
	return ".aws/sso/cache/" + sha1Hex(sessionOrURL) + ".json"
}

func (m *machine) token() (t map[string]string) {
	m.Helper()
	if err := json.Unmarshal([]byte(m.read(m.tokenFile("corp"))), &t); err != nil {
		m.Fatal(err)
	}
	return t
}

func TestTokenOfTheCLIServes(t *testing.T) {
	t.Parallel()
	m := newMachine(t, ssmtest.Config{})
	m.signedIn(time.Hour)
	works(start(t, m.env, "--profile", "sso", instance))
	works(start(t, m.env, "--profile", "sso", instance))
	if n := m.calls("GetRoleCredentials"); n != 1 {
		t.Errorf("GetRoleCredentials was called %d times", n)
	}
	if n := m.calls("CreateToken"); n != 0 {
		t.Errorf("the token was refreshed %d times", n)
	}
}

func TestExpiredTokenIsRefreshedOnceByTen(t *testing.T) {
	t.Parallel()
	m := newMachine(t, ssmtest.Config{})
	old := m.signedIn(-time.Minute)
	var all []*process
	for range 10 {
		all = append(all, start(t, m.env, "--profile", "sso", instance))
	}
	for _, p := range all {
		works(p)
	}
	if n := m.calls("CreateToken"); n != 1 {
		t.Errorf("the token was refreshed %d times", n)
	}
	now := m.token()
	if now["accessToken"] == old.AccessToken || now["refreshToken"] == old.RefreshToken || now["clientId"] != old.ClientID || now["region"] != "us-east-2" {
		t.Errorf("kept %v", now)
	}
}

func TestEndedSessionNamesTheCommandWhereThereIsNoTerminal(t *testing.T) {
	t.Parallel()
	for _, profile := range []string{"sso", "sso-mfa"} {
		t.Run(profile, func(t *testing.T) {
			t.Parallel()
			m := newMachine(t, ssmtest.Config{})
			m.signedIn(-time.Minute)
			m.service.EndSignIns()
			fails(t, 1, m.env, []string{"--profile", profile, instance},
				"ssmproxy: the SSO session of profile sso has expired\n", "ssmproxy: hint: aws sso login --profile sso renews it\n")
		})
	}
}

var shownCode = regexp.MustCompile(`enter the code ([0-9A-Z-]+)\r\n`)

// signsIn does what a person does whom the screen asks to sign in.
func (s *seat) signsIn(m *machine) (code string) {
	s.Helper()
	s.shows("waiting for you to sign in", 1)
	match := shownCode.FindStringSubmatch(s.screen.String())
	if match == nil {
		s.Fatalf("no code on the screen: %q", s.screen)
	}
	if !m.service.AnswerSignIn(match[1], true) {
		s.Fatalf("%s is not a code of the service's", match[1])
	}
	return match[1]
}

func TestSigningInAtATerminal(t *testing.T) {
	t.Parallel()
	for _, profile := range []string{"sso", "sso-legacy"} {
		t.Run(profile, func(t *testing.T) {
			t.Parallel()
			m := newMachine(t, ssmtest.Config{})
			s := startAtTerminal(t, m.env, "--profile", profile, instance)
			code := s.signsIn(m)
			works(s.process)
			page := m.service.URL() + "/device"
			name := map[string]string{"sso": "corp", "sso-legacy": m.service.SSOStartURL()}[profile]
			for _, line := range []string{
				"ssmproxy: sign in to " + name + " for profile " + profile + ":\r\n",
				"ssmproxy: open " + page + " and enter the code " + code + "\r\n",
				"ssmproxy: or open " + page + "?user_code=" + code + " and see that it shows that code\r\n",
				"ssmproxy: waiting for you to sign in: 1s of 10m",
			} {
				if !strings.Contains(s.screen.String(), line) {
					t.Errorf("the screen does not show %q:\n%s", line, s.screen)
				}
			}
			file := filepath.Join(m.home, m.tokenFile(name))
			if info, err := os.Stat(file); err != nil || info.Mode().Perm() != 0o600 {
				t.Errorf("%v, %v", info, err)
			}
			// From now on nobody is asked.
			os.RemoveAll(filepath.Join(m.home, ".aws/cli"))
			works(start(t, m.env, "--profile", profile, instance))
			if n := m.calls("RegisterClient"); n != 1 {
				t.Errorf("registered %d times", n)
			}
		})
	}
}

func TestTenAtOnceSignInOnce(t *testing.T) {
	t.Parallel()
	m := newMachine(t, ssmtest.Config{})
	var all []*seat
	for range 10 {
		all = append(all, startAtTerminal(t, m.env, "--profile", "sso", instance))
	}
	code, err := m.service.AwaitSignIn(t.Context())
	if err != nil {
		t.Fatal(err)
	}
	m.service.AnswerSignIn(code, true)
	for _, s := range all {
		s.expect([]byte(banner))
		s.stdin.Close()
		s.wait()
	}
	if n := m.calls("StartDeviceAuthorization"); n != 1 {
		t.Errorf("%d device authorizations", n)
	}
}

func TestTokenThatTheServiceRefusesIsReplaced(t *testing.T) {
	t.Parallel()
	m := newMachine(t, ssmtest.Config{})
	m.signedIn(time.Hour)
	m.service.EndSignIns()
	s := startAtTerminal(t, m.env, "--profile", "sso", instance)
	s.signsIn(m)
	works(s.process)
	// The registration that came with the old token is still good.
	if n := m.calls("RegisterClient"); n != 0 {
		t.Errorf("registered %d times", n)
	}
}

func TestSignInThatIsRefusedOrForgotten(t *testing.T) {
	t.Parallel()
	m := newMachine(t, ssmtest.Config{})
	s := startAtTerminal(t, m.env, "--profile", "sso", instance)
	code, err := m.service.AwaitSignIn(t.Context())
	if err != nil {
		t.Fatal(err)
	}
	m.service.AnswerSignIn(code, false)
	if status := s.wait(); status != 1 {
		t.Errorf("exit status %d", status)
	}
	s.says("ssmproxy: the sign-in to SSO was refused in the browser\n")

	m.service.FailCalls("CreateToken", -1, &ssmtest.CallError{Code: "ExpiredTokenException", Message: "Device code has expired"})
	s = startAtTerminal(t, m.env, "--profile", "sso", instance)
	if status := s.wait(); status != 1 {
		t.Errorf("exit status %d", status)
	}
	s.says("ssmproxy: nobody signed in to SSO in time\nssmproxy: hint: try again, or run aws sso login --profile sso\n")
}

func TestSignInWaitsNoLongerThanTheServiceDoes(t *testing.T) {
	t.Parallel()
	m := newMachine(t, ssmtest.Config{DeviceLifetime: time.Second})
	s := startAtTerminal(t, m.env, "--profile", "sso", instance)
	if status := s.wait(); status != 1 {
		t.Errorf("exit status %d", status)
	}
	s.says("ssmproxy: nobody signed in to SSO in time\n")
}

func TestCtrlCEndsTheWaitForASignIn(t *testing.T) {
	t.Parallel()
	m := newMachine(t, ssmtest.Config{})
	s := startAtTerminal(t, m.env, "--profile", "sso", instance)
	s.shows("waiting for you to sign in", 1)
	s.types("\x03")
	s.endsQuietly()
}

func TestMFARoleThroughSSO(t *testing.T) {
	t.Parallel()
	m := newMachine(t, ssmtest.Config{})
	s := startAtTerminal(t, m.env, "--profile", "sso-mfa", instance)
	s.signsIn(m)
	s.shows("ssmproxy: MFA code of arn:aws:iam::123456789012:mfa/demo for profile sso-mfa: ", 1)
	s.types("000000\n")
	s.shows("AWS did not accept that code", 1)
	s.types(m.service.MFACode() + "\n")
	works(s.process)
	if n := m.calls("GetRoleCredentials"); n != 1 {
		t.Errorf("GetRoleCredentials was called %d times", n)
	}
}

func TestBrowserIsStartedWithoutTheCode(t *testing.T) {
	t.Parallel()
	m := newMachine(t, ssmtest.Config{})
	m.write("bin/xdg-open", "#!/bin/sh\necho \"$*\" >"+m.home+"/opened\n")
	env := append(m.env, "DISPLAY=:0", "PATH="+m.home+"/bin:"+os.Getenv("PATH"))
	s := startAtTerminal(t, env, "--profile", "sso", instance)
	until(t, "a browser is started", func() bool {
		opened, err := os.ReadFile(m.home + "/opened")
		return err == nil && string(opened) == m.service.URL()+"/device\n"
	})
	s.signsIn(m)
	works(s.process)

	os.Remove(m.home + "/opened")
	os.RemoveAll(m.home + "/.aws/sso")
	os.RemoveAll(m.home + "/.aws/cli")
	s = startAtTerminal(t, append(env, "SSH_CONNECTION=192.0.2.1 1 192.0.2.2 22"), "--profile", "sso", instance)
	s.signsIn(m)
	works(s.process)
	if len(m.files("opened")) != 0 {
		t.Error("a browser was started on the far end of an SSH session")
	}
}

func TestRoleThatIsNotGrantedIsExplained(t *testing.T) {
	t.Parallel()
	m := newMachine(t, ssmtest.Config{})
	m.signedIn(time.Hour)
	m.write(".aws/config", strings.ReplaceAll(m.read(".aws/config"), "sso_role_name = Developer", "sso_role_name = Admin"))
	fails(t, 1, m.env, []string{"--profile", "sso", instance},
		"ssmproxy: SSO gives you no role Admin in account 123456789012\n")
}

func TestSSOSessionGoesOnWithARefreshedToken(t *testing.T) {
	t.Parallel()
	m := newMachine(t, ssmtest.Config{})
	m.signedIn(time.Hour)
	p := start(t, m.env, "--profile", "sso", instance)
	p.expect([]byte(banner))
	m.signedIn(-time.Minute) // hours later
	os.RemoveAll(filepath.Join(m.home, ".aws/cli"))
	m.service.ExpireCredentials()
	p.send([]byte("goes on"))
	p.expect([]byte("goes on"))
	p.stdin.Close()
	p.wait()
	if n := m.calls("CreateToken"); n != 1 {
		t.Errorf("the token was refreshed %d times", n)
	}
}
