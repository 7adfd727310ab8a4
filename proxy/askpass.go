package proxy

import (
	"bytes"
	"context"
	"errors"
	"fmt"
	"os"
	"os/exec"
	"slices"
	"strings"
	"time"
)

// askpassProgram returns the program that asks in ssh's place, by the rules of
// ssh(1), ENVIRONMENT, and of OpenSSH's readpass.c; empty where there is none.
// first tells that it goes before the terminal.
func askpassProgram(getenv func(string) string) (program string, first bool) {
	display := getenv("DISPLAY") != "" || getenv("WAYLAND_DISPLAY") != ""
	switch strings.ToLower(getenv("SSH_ASKPASS_REQUIRE")) {
	case "never":
		return "", false
	case "prefer":
		first = display
	case "force":
		first, display = true, true
	}
	if !display {
		return "", false
	}
	if program = getenv("SSH_ASKPASS"); program == "" {
		program, _ = exec.LookPath("ssh-askpass")
	}
	return program, first && program != ""
}

// askpass runs the program with the question as its argument and returns the
// first line of what it prints.
func askpass(ctx context.Context, program, question string) (string, error) {
	cmd := exec.CommandContext(ctx, program, question)
	var answer bytes.Buffer
	cmd.Stdout = &answer
	// It says that the question is no secret, or only to be confirmed.
	cmd.Env = slices.DeleteFunc(os.Environ(), func(setting string) bool {
		return strings.HasPrefix(setting, "SSH_ASKPASS_PROMPT=")
	})
	cmd.WaitDelay = time.Second // a child of the program's may outlive it
	if err := cmd.Run(); err != nil {
		if ctx.Err() != nil {
			return "", ctx.Err()
		}
		if _, ended := errors.AsType[*exec.ExitError](err); ended {
			return "", errorWithHint(err, "the question was not answered", "it was put by the SSH_ASKPASS program "+program)
		}
		return "", errorWithHint(err, fmt.Sprintf("the SSH_ASKPASS program %s cannot be run: %v", program, innermost(err)))
	}
	line, _, _ := strings.Cut(answer.String(), "\n")
	return strings.TrimRight(line, "\r"), nil
}
