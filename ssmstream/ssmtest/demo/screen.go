package main

import (
	"context"
	"fmt"
	"io"
	"os"
	"os/exec"
	"strings"
	"time"

	"golang.org/x/term"
)

// screen is where the person looks.
type screen struct {
	w                 io.Writer
	bold, dim, normal string // escape sequences; empty where they would only be noise
}

func newScreen(f *os.File) *screen {
	s := &screen{w: f}
	if term.IsTerminal(int(f.Fd())) && os.Getenv("NO_COLOR") == "" && os.Getenv("TERM") != "dumb" {
		s.bold, s.dim, s.normal = "\x1b[1m", "\x1b[2m", "\x1b[0m"
	}
	return s
}

func (s *screen) intro() {
	fmt.Fprintf(s.w, `
%sssmproxy: SSH through AWS Session Manager%s

Session Manager, an instance's agent and an SSH server run here, on loopback, for
this demo. ssh, scp, sftp and ssmproxy are the real ones. No AWS account and no
file of yours is touched: everything is in a temporary directory.
`, s.bold, s.normal)
}

// command shows what is about to run, as a person types it.
func (s *screen) command(about string, command []string) {
	words := make([]string, len(command))
	for i, w := range command {
		words[i] = plainOrQuoted(w)
	}
	fmt.Fprintf(s.w, "\n%s# %s%s\n%s$ %s%s\n", s.dim, about, s.normal, s.bold, strings.Join(words, " "), s.normal)
}

func (s *screen) output(text string) {
	for line := range strings.Lines(text) {
		fmt.Fprintf(s.w, "  %s\n", strings.TrimRight(line, "\r\n"))
	}
}

func (s *screen) took(d time.Duration, found string) {
	if found != "" {
		fmt.Fprintf(s.w, "  %s\n", found)
	}
	fmt.Fprintf(s.w, "  %s%.2f s%s\n", s.dim, d.Seconds(), s.normal)
}

func (s *screen) note(text string) {
	fmt.Fprintf(s.w, "\nAll of it worked; %s.\n", text)
}

// config ends with what a person puts into their own ~/.ssh/config, as the
// binary prints it.
func (s *screen) config(ctx context.Context, binary string) error {
	block, err := exec.CommandContext(ctx, binary, "--ssh-config").Output()
	if err != nil {
		return fmt.Errorf("ssmproxy --ssh-config: %w", err)
	}
	fmt.Fprintf(s.w, "\nFor instances of your own: run %s./install.sh%s, and put into ~/.ssh/config\n(or let %s./install.sh --ssh-config%s do both):\n\n",
		s.bold, s.normal, s.bold, s.normal)
	for line := range strings.Lines(string(block)) {
		fmt.Fprintf(s.w, "    %s", line)
	}
	fmt.Fprintln(s.w)
	return nil
}

func (s *screen) serving(st *stage) {
	fmt.Fprintf(s.w, "The demo's instance stays up until Ctrl-C. From another terminal:\n\n    %sssh -F %s %s@%s%s\n\n",
		s.bold, plainOrQuoted(st.config), st.ssh.User, instance, s.normal)
}

// plainOrQuoted quotes a word for the shell where it must be.
func plainOrQuoted(s string) string {
	if strings.ContainsAny(s, " '\"$\\;&()*?[]<>|`!#~") {
		return shellQuote(s)
	}
	return s
}
