//go:build unix

package proxy

import (
	"io"
	"os"
	"os/exec"
	"reflect"
	"strings"
	"syscall"
	"testing"
	"time"

	"github.com/creack/pty"
	"golang.org/x/term"
)

// setTerminal makes tty the terminal that controls the command; where it is nil
// the command has none.
func setTerminal(cmd *exec.Cmd, tty *os.File) {
	cmd.SysProcAttr = &syscall.SysProcAttr{Setsid: true}
	if tty != nil {
		cmd.ExtraFiles = []*os.File{tty}
		cmd.SysProcAttr.Setctty = true
		cmd.SysProcAttr.Ctty = 3
	}
}

// seat is a process with pipes, as ssh starts it, at a person's terminal.
type seat struct {
	*process
	keyboard *os.File
	screen   *recorder
	tty      *os.File
	before   term.State // of the terminal, before the process
}

// startAtTerminal runs the binary at a terminal of its own.
func startAtTerminal(t *testing.T, env []string, args ...string) *seat {
	t.Helper()
	return startCommandAtTerminal(t, env, append([]string{product(t)}, args...)...)
}

func startCommandAtTerminal(t *testing.T, env []string, command ...string) *seat {
	t.Helper()
	keyboard, tty, err := pty.Open()
	if err != nil {
		t.Fatal(err)
	}
	s := &seat{keyboard: keyboard, tty: tty, screen: &recorder{grown: make(chan struct{})}}
	shown := make(chan struct{})
	go func() {
		io.Copy(s.screen, keyboard)
		close(shown)
	}()
	t.Cleanup(func() {
		tty.Close()
		keyboard.Close()
		<-shown
		if t.Failed() {
			t.Logf("on the terminal:\n%s", s.screen)
		}
	})
	before, err := term.GetState(int(tty.Fd()))
	if err != nil {
		t.Fatal(err)
	}
	s.before = *before
	s.process = startCommandOn(t, stdio{terminal: tty}, env, command...)
	return s
}

// shows waits until the screen has the words, times times.
func (s *seat) shows(words string, times int) {
	s.Helper()
	deadline := time.After(patience)
	for {
		text, grown := s.screen.snapshot()
		if strings.Count(text, words) >= times {
			return
		}
		select {
		case <-grown:
		case <-s.exited:
			s.Fatalf("ended without showing %q: %q, %q", words, text, s.stderr)
		case <-deadline:
			s.Fatalf("does not show %q", words)
		}
	}
}

// types enters text at the keyboard.
func (s *seat) types(text string) {
	s.Helper()
	if _, err := io.WriteString(s.keyboard, text); err != nil {
		s.Fatal(err)
	}
}

// changed tells whether the terminal's modes, echo among them, are not those of
// before.
func (s *seat) changed() bool {
	s.Helper()
	now, err := term.GetState(int(s.tty.Fd()))
	if err != nil {
		s.Fatal(err)
	}
	return !reflect.DeepEqual(*now, s.before)
}

// expectRestored checks that the terminal is left as it was.
func (s *seat) expectRestored() {
	s.Helper()
	if s.changed() {
		s.Error("the terminal is not as it was")
	}
}
