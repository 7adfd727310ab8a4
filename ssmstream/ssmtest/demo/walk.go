package main

import (
	"bytes"
	"context"
	"crypto/rand"
	"errors"
	"fmt"
	"os"
	"os/exec"
	"path/filepath"
	"strings"
	"syscall"
	"time"
)

// stepTimeout is more than any step takes on a slow machine.
const stepTimeout = 2 * time.Minute

// A step is one command of the demo.
type step struct {
	about   string                 // what it shows
	command []string               // the program and its arguments, without -F
	stdin   string                 // of sftp, which echoes it
	check   func() (string, error) // says what it found, once the command has succeeded
}

// walk runs the steps, one after the other, and fails with the first that does.
func walk(ctx context.Context, s *stage, out *screen) error {
	const up, down = 10_000_000, 1_500_000
	for name, size := range map[string]int{"local/up.bin": up, "instance/down.bin": down} {
		data := make([]byte, size)
		rand.Read(data)
		if err := os.WriteFile(filepath.Join(filepath.Dir(s.local), name), data, 0o600); err != nil {
			return err
		}
	}
	host := s.ssh.User + "@" + instance
	steps := []step{
		{
			about:   "a command",
			command: []string{"ssh", host, `echo "you are $USER on $INSTANCE"; uname -sm`},
		}, {
			about:   "a file up",
			command: []string{"scp", "up.bin", host + ":"},
			check:   s.same("up.bin", up),
		}, {
			about:   "a file down (the agent reads a port at 0.7 MB/s at most; so does this one)",
			command: []string{"scp", host + ":down.bin", "."},
			check:   s.same("down.bin", down),
		}, {
			about:   "sftp",
			command: []string{"sftp", "-q", "-b", "-", host},
			stdin:   "mkdir reports\nput up.bin reports/q3.bin\nls -l reports\n",
		},
	}
	for _, step := range steps {
		if err := s.do(ctx, step, out); err != nil {
			return err
		}
	}

	ctx, cancel := context.WithTimeout(ctx, 5*time.Second)
	defer cancel()
	if err := s.service.WaitIdle(ctx); err != nil {
		return fmt.Errorf("sessions are left open: %s", strings.Join(s.service.OpenSessions(), ", "))
	}
	out.note(fmt.Sprintf("%d sessions were opened, none is left open", s.service.Stats().Sessions))
	return nil
}

func (s *stage) do(ctx context.Context, step step, out *screen) error {
	out.command(step.about, step.command)
	stepCtx, cancel := context.WithTimeout(ctx, stepTimeout)
	defer cancel()
	args := append([]string{"-F", s.config}, step.command[1:]...)
	cmd := exec.CommandContext(stepCtx, step.command[0], args...)
	cmd.Cancel = func() error { return cmd.Process.Signal(syscall.SIGTERM) }
	cmd.WaitDelay = 10 * time.Second
	cmd.Dir = s.local
	cmd.Stdin = strings.NewReader(step.stdin)
	var output bytes.Buffer
	cmd.Stdout, cmd.Stderr = &output, &output
	start := time.Now()
	err := cmd.Run()
	took := time.Since(start)
	out.output(output.String())
	found := ""
	if err == nil && step.check != nil {
		found, err = step.check()
	}
	if err != nil {
		if ctx.Err() != nil {
			return ctx.Err()
		}
		if stepCtx.Err() != nil {
			err = errors.New("no end after " + stepTimeout.String())
		}
		return fmt.Errorf("%s: %w", step.command[0], err)
	}
	out.took(took, found)
	return nil
}

// same gives a check that a file is the same on both sides, byte for byte.
func (s *stage) same(name string, size int) func() (string, error) {
	return func() (string, error) {
		here, err := os.ReadFile(filepath.Join(s.local, name))
		if err != nil {
			return "", err
		}
		there, err := os.ReadFile(filepath.Join(s.remote, name))
		if err != nil {
			return "", err
		}
		if len(here) != size || !bytes.Equal(here, there) {
			return "", fmt.Errorf("%s differs: %d bytes here, %d there", name, len(here), len(there))
		}
		return fmt.Sprintf("%.1f MB, the same on both sides, byte for byte", float64(size)/1e6), nil
	}
}
