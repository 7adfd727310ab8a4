//go:build unix

package proxy

import (
	"fmt"
	"os"
	"path/filepath"
	"strings"
	"testing"

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

// edit replaces text in a file of the home directory.
func (m *machine) edit(name, before, after string) {
	m.Helper()
	m.write(name, strings.ReplaceAll(m.read(name), before, after))
}

// remove deletes what matches a pattern in the home directory.
func (m *machine) remove(pattern string) {
	m.Helper()
	for _, path := range m.files(pattern) {
		if err := os.RemoveAll(path); err != nil {
			m.Fatal(err)
		}
	}
}

// expectCalls checks how often the service was called.
func (m *machine) expectCalls(action string, want int) {
	m.Helper()
	if n := m.service.Stats().Calls[action]; n != want {
		m.Errorf("%s was called %d times, want %d", action, n, want)
	}
}

// start runs the binary with a profile, without a terminal.
func (m *machine) start(profile string) *process {
	m.Helper()
	return start(m.T, m.env, "--profile", profile, instance)
}

func (m *machine) startAtTerminal(profile string) *seat {
	m.Helper()
	return startAtTerminal(m.T, m.env, "--profile", profile, instance)
}

// tenAtOnce starts ten, and then lets each of them work.
func tenAtOnce(start func() *process) {
	var all []*process
	for range 10 {
		all = append(all, start())
	}
	for _, p := range all {
		p.works()
	}
}

const question = "ssmproxy: MFA code of arn:aws:iam::123456789012:mfa/demo for profile mfa: "

// asked starts the binary at a terminal, with a profile that leads to mfa, and
// returns when it asks for the code.
func (m *machine) asked(profile string) *seat {
	m.Helper()
	s := m.startAtTerminal(profile)
	s.shows(question, 1)
	return s
}

// answered does the same, and types the code.
func (m *machine) answered(profile string) *seat {
	m.Helper()
	s := m.asked(profile)
	s.answers(m)
	return s
}

// answers types a code that the service takes.
func (s *seat) answers(m *machine) {
	s.Helper()
	s.types(m.service.MFACode() + "\n")
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
