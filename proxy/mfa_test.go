//go:build unix

package proxy

import (
	"fmt"
	"os"
	"path/filepath"
	"strings"
	"syscall"
	"testing"
	"time"

	"golang.org/x/term"

	"ssmproxy/ssmstream/ssmtest"
)

// machine is a client's: a home directory with the service's profiles in it.
type machine struct {
	*testing.T
	service *ssmtest.Server
	home    string
	env     []string // without the keys of Server.Env
}

func newMachine(t *testing.T, cfg ssmtest.Config) *machine {
	t.Helper()
	s, _ := newService(t, cfg)
	m := &machine{T: t, service: s, home: t.TempDir()}
	config, credentials := s.Profiles()
	m.write(".aws/config", config)
	m.write(".aws/credentials", credentials)
	for _, setting := range s.Env() {
		name, _, _ := strings.Cut(setting, "=")
		switch name {
		case "AWS_ACCESS_KEY_ID", "AWS_SECRET_ACCESS_KEY", "AWS_SESSION_TOKEN", "AWS_REGION", "AWS_CONFIG_FILE", "AWS_SHARED_CREDENTIALS_FILE":
		default:
			m.env = append(m.env, setting)
		}
	}
	m.env = append(m.env, "HOME="+m.home)
	return m
}

// write makes a file of mode 0700 in the home directory, and returns its path.
func (m *machine) write(name, text string) string {
	m.Helper()
	path := filepath.Join(m.home, name)
	if err := os.MkdirAll(filepath.Dir(path), 0o700); err != nil {
		m.Fatal(err)
	}
	if err := os.WriteFile(path, []byte(text), 0o700); err != nil {
		m.Fatal(err)
	}
	return path
}

func (m *machine) read(name string) string {
	m.Helper()
	data, err := os.ReadFile(filepath.Join(m.home, name))
	if err != nil {
		m.Fatal(err)
	}
	return string(data)
}

// files lists those that match a pattern in the home directory.
func (m *machine) files(pattern string) []string {
	m.Helper()
	found, err := filepath.Glob(filepath.Join(m.home, pattern))
	if err != nil {
		m.Fatal(err)
	}
	return found
}

func (m *machine) calls(action string) int { return m.service.Stats().Calls[action] }

// works lets a process that has connected carry something, and end.
func works(p *process) {
	p.Helper()
	p.expect([]byte(banner))
	p.send([]byte("all is well"))
	p.expect([]byte("all is well"))
	p.stdin.Close()
	p.expectEnd()
	p.endsQuietly()
}

const question = "ssmproxy: MFA code of arn:aws:iam::123456789012:mfa/demo for profile mfa: "

func TestMFACodeIsAskedOnTheTerminalWithoutEcho(t *testing.T) {
	t.Parallel()
	m := newMachine(t, ssmtest.Config{})
	s := startAtTerminal(t, m.env, "--profile", "mfa", instance)
	s.shows(question, 1)
	code := m.service.MFACode()
	s.types(code + "\n")
	works(s.process)
	if got := s.screen.String(); got != question+"\r\n" {
		t.Errorf("the screen shows %q", got)
	}
	if s.changed() {
		t.Error("the terminal is not as it was")
	}
}

func TestMFACodeIsRememberedForTheNext(t *testing.T) {
	t.Parallel()
	m := newMachine(t, ssmtest.Config{})
	s := startAtTerminal(t, m.env, "--profile", "mfa", instance)
	s.shows(question, 1)
	s.types(m.service.MFACode() + "\n")
	works(s.process)
	works(start(t, m.env, "--profile", "mfa", instance))
	if n := m.calls("AssumeRole"); n != 1 {
		t.Errorf("AssumeRole was called %d times", n)
	}
}

func TestMistypedCodeMayBeTypedAgain(t *testing.T) {
	t.Parallel()
	m := newMachine(t, ssmtest.Config{})
	s := startAtTerminal(t, m.env, "--profile", "mfa", instance)
	s.shows(question, 1)
	s.types("12345\n")
	s.shows("ssmproxy: that was no code of six digits; MFA code of ", 1)
	s.types("000000\n")
	s.shows("ssmproxy: AWS did not accept that code, and each is good once; the next MFA code of arn:aws:iam::123456789012:mfa/demo for profile mfa: ", 1)
	code := m.service.MFACode()
	s.types(code[:3] + " " + code[3:] + "\n")
	works(s.process)
}

func TestThreeWrongCodesAreAnError(t *testing.T) {
	t.Parallel()
	m := newMachine(t, ssmtest.Config{})
	s := startAtTerminal(t, m.env, "--profile", "mfa", instance)
	for i := range 3 {
		s.shows(" for profile mfa: ", i+1)
		s.types("000000\n")
	}
	if status := s.wait(); status != 1 {
		t.Errorf("exit status %d", status)
	}
	s.says("ssmproxy: AWS did not accept the MFA code\nssmproxy: hint: ")
	if n := m.calls("AssumeRole"); n != 3 {
		t.Errorf("AssumeRole was called %d times", n)
	}
}

func TestDeviceThatIsNotKnownIsNotAskedForAgain(t *testing.T) {
	t.Parallel()
	m := newMachine(t, ssmtest.Config{})
	m.write(".aws/config", strings.ReplaceAll(m.read(".aws/config"), "mfa/demo", "mfa/old"))
	s := startAtTerminal(t, m.env, "--profile", "mfa", instance)
	s.shows("mfa/old for profile mfa: ", 1)
	s.types(m.service.MFACode() + "\n")
	if status := s.wait(); status != 1 {
		t.Errorf("exit status %d", status)
	}
	s.says("ssmproxy: AWS does not know the MFA device as one of yours\n")
}

func TestCtrlCAtTheQuestionLeavesTheTerminalAsItWas(t *testing.T) {
	t.Parallel()
	m := newMachine(t, ssmtest.Config{})
	s := startAtTerminal(t, m.env, "--profile", "mfa", instance)
	s.shows(question, 1)
	if !s.changed() {
		t.Error("echo is on")
	}
	s.types("123\x03")
	s.wait()
	if s.changed() {
		t.Error("the terminal is not as it was")
	}
	if text := s.stderr.String(); text != "" {
		t.Errorf("said %q", text)
	}
	s.expectEnd()
	if n := m.calls("AssumeRole"); n != 0 {
		t.Errorf("AssumeRole was called %d times", n)
	}
}

func TestQuestionIsPutAgainAfterAStop(t *testing.T) {
	t.Parallel()
	m := newMachine(t, ssmtest.Config{})
	s := startAtTerminal(t, m.env, "--profile", "mfa", instance)
	s.shows(question, 1)
	s.cmd.Process.Signal(syscall.SIGSTOP)
	if err := term.Restore(int(s.tty.Fd()), &s.before); err != nil { // as the shell does
		t.Fatal(err)
	}
	s.cmd.Process.Signal(syscall.SIGCONT)
	s.shows(question, 2)
	if !s.changed() {
		t.Error("echo is on")
	}
	s.types(m.service.MFACode() + "\n")
	works(s.process)
	if s.changed() {
		t.Error("the terminal is not as it was")
	}
}

func TestQuestionEndsWithSSH(t *testing.T) {
	t.Parallel()
	m := newMachine(t, ssmtest.Config{})
	s := startAtTerminal(t, m.env, "--profile", "mfa", instance)
	s.shows(question, 1)
	s.stdin.Close()
	s.endsQuietly()
	if s.changed() {
		t.Error("the terminal is not as it was")
	}
}

func TestNobodyToAskIsExplained(t *testing.T) {
	t.Parallel()
	m := newMachine(t, ssmtest.Config{})
	fails(t, 1, m.env, []string{"--profile", "mfa", instance},
		"ssmproxy: the role of profile mfa asks for an MFA code of arn:aws:iam::123456789012:mfa/demo, and there is no terminal to ask on\n",
		"hint: connect once from a terminal", "hint: or set SSH_ASKPASS")
}

// withAskpass returns settings with a program for SSH_ASKPASS that answers with
// a new code, and notes how it was started.
func (m *machine) withAskpass(settings ...string) (env []string) {
	m.Helper()
	program := m.write("askpass", fmt.Sprintf(`#!/bin/sh
echo "question: $*" >>%[1]s/asked
echo "prompt: ${SSH_ASKPASS_PROMPT-unset}" >>%[1]s/asked
ps -A -o args= >>%[1]s/processes
echo %[2]s
`, m.home, m.service.MFACode()))
	return append(append(m.env, "SSH_ASKPASS="+program), settings...)
}

func TestWithoutATerminalTheQuestionGoesToAskpass(t *testing.T) {
	t.Parallel()
	m := newMachine(t, ssmtest.Config{})
	works(start(t, m.withAskpass("DISPLAY=:0", "SSH_ASKPASS_PROMPT=confirm"), "--profile", "mfa", instance))
	if got, want := m.read("asked"), "question: "+question+"\nprompt: unset\n"; got != want {
		t.Errorf("got %q, want %q", got, want)
	}
}

func TestAskpassBesideATerminal(t *testing.T) {
	t.Parallel()
	for _, test := range []struct {
		settings []string
		askpass  bool
	}{
		{[]string{"DISPLAY=:0"}, false},
		{[]string{"DISPLAY=:0", "SSH_ASKPASS_REQUIRE=prefer"}, true},
		{[]string{"SSH_ASKPASS_REQUIRE=prefer"}, false},
		{[]string{"SSH_ASKPASS_REQUIRE=force"}, true},
		{[]string{"DISPLAY=:0", "SSH_ASKPASS_REQUIRE=never"}, false},
	} {
		t.Run(strings.Join(test.settings, " "), func(t *testing.T) {
			t.Parallel()
			m := newMachine(t, ssmtest.Config{})
			s := startAtTerminal(t, m.withAskpass(test.settings...), "--profile", "mfa", instance)
			if !test.askpass {
				s.shows(question, 1)
				s.types(m.service.MFACode() + "\n")
			}
			works(s.process)
			if asked := len(m.files("asked")) == 1; asked != test.askpass {
				t.Errorf("askpass was used: %v", asked)
			}
		})
	}
}

func TestAskpassThatGivesUpIsExplained(t *testing.T) {
	t.Parallel()
	m := newMachine(t, ssmtest.Config{})
	program := m.write("askpass", "#!/bin/sh\nexit 1\n")
	fails(t, 1, append(m.env, "SSH_ASKPASS="+program, "DISPLAY=:0"), []string{"--profile", "mfa", instance},
		"ssmproxy: the question was not answered\n", "hint: it was put by the SSH_ASKPASS program "+program)
	fails(t, 1, append(m.env, "SSH_ASKPASS=/nonexistent/askpass", "DISPLAY=:0"), []string{"--profile", "mfa", instance},
		"ssmproxy: the SSH_ASKPASS program /nonexistent/askpass cannot be run: ")
}

func TestTenAtOnceAskOnce(t *testing.T) {
	t.Parallel()
	m := newMachine(t, ssmtest.Config{})
	env := m.withAskpass("DISPLAY=:0")
	var all []*process
	for range 10 {
		all = append(all, start(t, env, "--profile", "mfa", instance))
	}
	for _, p := range all {
		works(p)
	}
	if n := strings.Count(m.read("asked"), "question: "); n != 1 {
		t.Errorf("asked %d times", n)
	}
	if n := m.calls("AssumeRole"); n != 1 {
		t.Errorf("AssumeRole was called %d times", n)
	}
}

func TestRoleThatIsAssumedByAnMFARoleAsksOnce(t *testing.T) {
	t.Parallel()
	m := newMachine(t, ssmtest.Config{})
	s := startAtTerminal(t, m.env, "--profile", "chain", instance)
	s.shows(question, 1)
	s.types(m.service.MFACode() + "\n")
	works(s.process)
	if n := m.calls("AssumeRole"); n != 2 {
		t.Errorf("AssumeRole was called %d times", n)
	}
	works(start(t, m.env, "--profile", "chain", instance))
	works(start(t, m.env, "--profile", "mfa", instance))
	if n := m.calls("AssumeRole"); n != 2 {
		t.Errorf("AssumeRole was called %d times", n)
	}
}

// Nothing may be asked in the middle of a session: the terminal is ssh's.
func TestNothingIsAskedOnceTheStreamStands(t *testing.T) {
	t.Parallel()
	m := newMachine(t, ssmtest.Config{})
	s := startAtTerminal(t, m.env, "--profile", "mfa", instance)
	s.shows(question, 1)
	s.types(m.service.MFACode() + "\n")
	s.expect([]byte(banner))
	for _, file := range m.files(".aws/cli/cache/*.json") {
		os.Remove(file)
	}
	m.service.ExpireCredentials()
	if status := s.wait(); status != 1 {
		t.Errorf("exit status %d", status)
	}
	s.says("ssmproxy: the AWS credentials have expired\nssmproxy: hint: connect again: the MFA code of ")
	if got := s.screen.String(); strings.Count(got, "MFA") != 1 {
		t.Errorf("the screen shows %q", got)
	}
}

func TestCodeGivenMeanwhileServesARunningSession(t *testing.T) {
	t.Parallel()
	m := newMachine(t, ssmtest.Config{})
	s := startAtTerminal(t, m.env, "--profile", "mfa", instance)
	s.shows(question, 1)
	s.types(m.service.MFACode() + "\n")
	s.expect([]byte(banner))
	for _, file := range m.files(".aws/cli/cache/*.json") {
		os.Remove(file)
	}
	other := startAtTerminal(t, m.env, "--profile", "mfa", instance)
	other.shows(question, 1)
	other.types(m.service.MFACode() + "\n")
	works(other.process)
	m.service.CutAll()
	s.send([]byte("goes on"))
	s.expect([]byte("goes on"))
	s.stdin.Close()
	s.wait()
}

func TestOldCredentialsAreRenewedAndServeWhereNobodyCanBeAsked(t *testing.T) {
	t.Parallel()
	m := newMachine(t, ssmtest.Config{RoleLifetime: 10 * time.Minute})
	for i := range 2 {
		s := startAtTerminal(t, m.env, "--profile", "mfa", instance)
		s.shows(question, 1)
		s.types(m.service.MFACode() + "\n")
		works(s.process)
		if n := m.calls("AssumeRole"); n != i+1 {
			t.Errorf("AssumeRole was called %d times", n)
		}
	}
	works(start(t, m.env, "--profile", "mfa", instance))
	if n := m.calls("AssumeRole"); n != 2 {
		t.Errorf("AssumeRole was called %d times", n)
	}
}
