//go:build unix

package proxy

import (
	"strings"
	"syscall"
	"testing"
	"time"

	"golang.org/x/term"

	"ssmproxy/ssmstream/ssmtest"
)

func TestMFACodeIsAskedOnTheTerminalWithoutEcho(t *testing.T) {
	t.Parallel()
	m := newMachine(t, ssmtest.Config{})
	s := m.answered("mfa")
	s.works()
	if got := s.screen.String(); got != question+"\r\n" {
		t.Errorf("the screen shows %q", got)
	}
	s.expectRestored()
}

func TestMFACodeIsRememberedForTheNext(t *testing.T) {
	t.Parallel()
	m := newMachine(t, ssmtest.Config{})
	m.answered("mfa").works()
	m.start("mfa").works()
	m.expectCalls("AssumeRole", 1)
}

func TestMistypedCodeMayBeTypedAgain(t *testing.T) {
	t.Parallel()
	m := newMachine(t, ssmtest.Config{})
	s := m.asked("mfa")
	s.types("12345\n")
	s.shows("ssmproxy: that was no code of six digits; MFA code of ", 1)
	s.types("000000\n")
	s.shows("ssmproxy: AWS did not accept that code, and each is good once; the next MFA code of arn:aws:iam::123456789012:mfa/demo for profile mfa: ", 1)
	code := m.service.MFACode()
	s.types(code[:3] + " " + code[3:] + "\n")
	s.works()
}

func TestThreeWrongCodesAreAnError(t *testing.T) {
	t.Parallel()
	m := newMachine(t, ssmtest.Config{})
	s := m.startAtTerminal("mfa")
	for i := range 3 {
		s.shows(" for profile mfa: ", i+1)
		s.types("000000\n")
	}
	s.ends(1, "ssmproxy: AWS did not accept the MFA code\nssmproxy: hint: ")
	m.expectCalls("AssumeRole", 3)
}

func TestDeviceThatIsNotKnownIsNotAskedForAgain(t *testing.T) {
	t.Parallel()
	m := newMachine(t, ssmtest.Config{})
	m.edit(".aws/config", "mfa/demo", "mfa/old")
	s := m.startAtTerminal("mfa")
	s.shows("mfa/old for profile mfa: ", 1)
	s.answers(m)
	s.ends(1, "ssmproxy: AWS does not know the MFA device as one of yours\n")
}

func TestCtrlCAtTheQuestionLeavesTheTerminalAsItWas(t *testing.T) {
	t.Parallel()
	m := newMachine(t, ssmtest.Config{})
	s := m.asked("mfa")
	if !s.changed() {
		t.Error("echo is on")
	}
	s.types("123\x03")
	s.wait()
	s.expectRestored()
	if text := s.stderr.String(); text != "" {
		t.Errorf("said %q", text)
	}
	s.expectEnd()
	m.expectCalls("AssumeRole", 0)
}

func TestQuestionIsPutAgainAfterAStop(t *testing.T) {
	t.Parallel()
	m := newMachine(t, ssmtest.Config{})
	s := m.asked("mfa")
	s.cmd.Process.Signal(syscall.SIGSTOP)
	if err := term.Restore(int(s.tty.Fd()), &s.before); err != nil { // as the shell does
		t.Fatal(err)
	}
	s.cmd.Process.Signal(syscall.SIGCONT)
	s.shows(question, 2)
	if !s.changed() {
		t.Error("echo is on")
	}
	s.answers(m)
	s.works()
	s.expectRestored()
}

func TestQuestionEndsWithSSH(t *testing.T) {
	t.Parallel()
	m := newMachine(t, ssmtest.Config{})
	s := m.asked("mfa")
	s.stdin.Close()
	s.endsQuietly()
	s.expectRestored()
}

func TestNobodyToAskIsExplained(t *testing.T) {
	t.Parallel()
	m := newMachine(t, ssmtest.Config{})
	fails(t, 1, m.env, []string{"--profile", "mfa", instance},
		"ssmproxy: the role of profile mfa asks for an MFA code of arn:aws:iam::123456789012:mfa/demo, and there is no terminal to ask on\n",
		"hint: connect once from a terminal", "hint: or set SSH_ASKPASS")
}

func TestWithoutATerminalTheQuestionGoesToAskpass(t *testing.T) {
	t.Parallel()
	m := newMachine(t, ssmtest.Config{})
	start(t, m.withAskpass("DISPLAY=:0", "SSH_ASKPASS_PROMPT=confirm"), "--profile", "mfa", instance).works()
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
				s.answers(m)
			}
			s.works()
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
	tenAtOnce(func() *process { return start(t, env, "--profile", "mfa", instance) })
	if n := strings.Count(m.read("asked"), "question: "); n != 1 {
		t.Errorf("asked %d times", n)
	}
	m.expectCalls("AssumeRole", 1)
}

func TestRoleThatIsAssumedByAnMFARoleAsksOnce(t *testing.T) {
	t.Parallel()
	m := newMachine(t, ssmtest.Config{})
	m.answered("chain").works()
	m.expectCalls("AssumeRole", 2)
	m.start("chain").works()
	m.start("mfa").works()
	m.expectCalls("AssumeRole", 2)
}

// Nothing may be asked in the middle of a session: the terminal is ssh's.
func TestNothingIsAskedOnceTheStreamStands(t *testing.T) {
	t.Parallel()
	m := newMachine(t, ssmtest.Config{})
	s := m.answered("mfa")
	s.connects()
	m.remove(".aws/cli/cache/*.json")
	m.service.ExpireCredentials()
	s.ends(1, "ssmproxy: the AWS credentials have expired\nssmproxy: hint: connect again: the MFA code of ")
	if got := s.screen.String(); strings.Count(got, "MFA") != 1 {
		t.Errorf("the screen shows %q", got)
	}
}

func TestCodeGivenMeanwhileServesARunningSession(t *testing.T) {
	t.Parallel()
	m := newMachine(t, ssmtest.Config{})
	s := m.answered("mfa")
	s.connects()
	m.remove(".aws/cli/cache/*.json")
	m.answered("mfa").works()
	m.service.CutAll()
	s.echoes("goes on")
	s.stdin.Close()
	s.wait()
}

func TestOldCredentialsAreRenewedAndServeWhereNobodyCanBeAsked(t *testing.T) {
	t.Parallel()
	m := newMachine(t, ssmtest.Config{RoleLifetime: 10 * time.Minute})
	for i := range 2 {
		m.answered("mfa").works()
		m.expectCalls("AssumeRole", i+1)
	}
	m.start("mfa").works()
	m.expectCalls("AssumeRole", 2)
}
