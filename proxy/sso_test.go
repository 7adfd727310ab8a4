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
	m.start("sso").works()
	m.start("sso").works()
	m.expectCalls("GetRoleCredentials", 1)
	m.expectCalls("CreateToken", 0)
}

func TestExpiredTokenIsRefreshedOnceByTen(t *testing.T) {
	t.Parallel()
	m := newMachine(t, ssmtest.Config{})
	old := m.signedIn(-time.Minute)
	tenAtOnce(func() *process { return m.start("sso") })
	m.expectCalls("CreateToken", 1)
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
			s := m.startAtTerminal(profile)
			code := s.signsIn(m)
			s.works()
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
			m.remove(".aws/cli")
			m.start(profile).works()
			m.expectCalls("RegisterClient", 1)
		})
	}
}

func TestTenAtOnceSignInOnce(t *testing.T) {
	t.Parallel()
	m := newMachine(t, ssmtest.Config{})
	var all []*seat
	for range 10 {
		all = append(all, m.startAtTerminal("sso"))
	}
	code, err := m.service.AwaitSignIn(t.Context())
	if err != nil {
		t.Fatal(err)
	}
	m.service.AnswerSignIn(code, true)
	for _, s := range all {
		s.connects()
		s.stdin.Close()
		s.wait()
	}
	m.expectCalls("StartDeviceAuthorization", 1)
}

func TestTokenThatTheServiceRefusesIsReplaced(t *testing.T) {
	t.Parallel()
	m := newMachine(t, ssmtest.Config{})
	m.signedIn(time.Hour)
	m.service.EndSignIns()
	s := m.startAtTerminal("sso")
	s.signsIn(m)
	s.works()
	// The registration that came with the old token is still good.
	m.expectCalls("RegisterClient", 0)
}

func TestSignInThatIsRefusedOrForgotten(t *testing.T) {
	t.Parallel()
	m := newMachine(t, ssmtest.Config{})
	s := m.startAtTerminal("sso")
	code, err := m.service.AwaitSignIn(t.Context())
	if err != nil {
		t.Fatal(err)
	}
	m.service.AnswerSignIn(code, false)
	s.ends(1, "ssmproxy: the sign-in to SSO was refused in the browser\n")

	m.service.FailCalls("CreateToken", -1, &ssmtest.CallError{Code: "ExpiredTokenException", Message: "Device code has expired"})
	s = m.startAtTerminal("sso")
	s.ends(1, "ssmproxy: nobody signed in to SSO in time\nssmproxy: hint: try again, or run aws sso login --profile sso\n")
}

func TestSignInWaitsNoLongerThanTheServiceDoes(t *testing.T) {
	t.Parallel()
	m := newMachine(t, ssmtest.Config{DeviceLifetime: time.Second})
	m.startAtTerminal("sso").ends(1, "ssmproxy: nobody signed in to SSO in time\n")
}

func TestCtrlCEndsTheWaitForASignIn(t *testing.T) {
	t.Parallel()
	m := newMachine(t, ssmtest.Config{})
	s := m.startAtTerminal("sso")
	s.shows("waiting for you to sign in", 1)
	s.types("\x03")
	s.endsQuietly()
}

func TestMFARoleThroughSSO(t *testing.T) {
	t.Parallel()
	m := newMachine(t, ssmtest.Config{})
	s := m.startAtTerminal("sso-mfa")
	s.signsIn(m)
	s.shows("ssmproxy: MFA code of arn:aws:iam::123456789012:mfa/demo for profile sso-mfa: ", 1)
	s.types("000000\n")
	s.shows("AWS did not accept that code", 1)
	s.answers(m)
	s.works()
	m.expectCalls("GetRoleCredentials", 1)
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
	s.works()

	m.remove("opened")
	m.remove(".aws/sso")
	m.remove(".aws/cli")
	s = startAtTerminal(t, append(env, "SSH_CONNECTION=192.0.2.1 1 192.0.2.2 22"), "--profile", "sso", instance)
	s.signsIn(m)
	s.works()
	if len(m.files("opened")) != 0 {
		t.Error("a browser was started on the far end of an SSH session")
	}
}

func TestRoleThatIsNotGrantedIsExplained(t *testing.T) {
	t.Parallel()
	m := newMachine(t, ssmtest.Config{})
	m.signedIn(time.Hour)
	m.edit(".aws/config", "sso_role_name = Developer", "sso_role_name = Admin")
	fails(t, 1, m.env, []string{"--profile", "sso", instance},
		"ssmproxy: SSO gives you no role Admin in account 123456789012\n")
}

func TestSSOSessionGoesOnWithARefreshedToken(t *testing.T) {
	t.Parallel()
	m := newMachine(t, ssmtest.Config{})
	m.signedIn(time.Hour)
	p := m.start("sso")
	p.connects()
	m.signedIn(-time.Minute) // hours later
	m.remove(".aws/cli")
	m.service.ExpireCredentials()
	p.echoes("goes on")
	p.stdin.Close()
	p.wait()
	m.expectCalls("CreateToken", 1)
}
