package proxy

import (
	"context"
	"errors"
	"fmt"
	"os"
	"strings"
)

// All questions to a person are in this file and in ssologin.go. The rules:
//
//   - A question goes to the terminal, /dev/tty or CONIN$, whatever standard
//     input, output and error are: those are ssh's.
//   - Where there is no terminal it goes to the program of SSH_ASKPASS, by the
//     rules that ssh has for its own questions (askpass.go): what works for
//     ssh's passwords, in an IDE for one, works here.
//   - Where there is neither nothing is asked. The error says how to get one.
//   - It is asked before there is a stream. Later the terminal is ssh's, and
//     nothing is asked at all.
//   - It says who asks, for what and for which profile.
//   - The answer is not echoed and not logged, and goes nowhere but into the call
//     that it is for. On a program's argument list there is no code either.
//   - Ctrl-C ends it, and leaves the terminal as it was.
//   - Many ssh may start at once: one asks, the others wait for what it gets.

// maxTries is how often a person may mistype a code.
const maxTries = 3

// errNobody says that there is no one to ask.
var errNobody = errors.New("there is no terminal, and no SSH_ASKPASS program, to ask on")

// canAsk tells whether a person can be asked for a code, and to sign in: that
// takes a terminal.
func canAsk() (code, signIn bool) {
	if t, err := openTerminal(); err == nil {
		t.close()
		return true, true
	}
	program, _ := askpassProgram(os.Getenv)
	return program != "", false
}

// askSecret puts a question and returns the answer, without echo. It returns
// when ctx is over, and leaves nothing behind on the terminal.
func askSecret(ctx context.Context, question string) (string, error) {
	question = prefix + printable(question) + ": "
	program, first := askpassProgram(os.Getenv)
	if !first {
		if t, err := openTerminal(); err == nil {
			defer t.close()
			return t.secret(ctx, question)
		}
	}
	if program == "" {
		return "", errNobody
	}
	return askpass(ctx, program, question)
}

// askCode asks for an MFA code until it looks like one. Each question takes one
// of the tries that are left; refused tells that AWS didn't take the last one.
func askCode(ctx context.Context, need *codeNeeded, tries *int, refused bool) (string, error) {
	what := fmt.Sprintf("MFA code of %s for profile %s", need.serial, need.profile)
	question := what
	if refused {
		question = "AWS did not accept that code, and each is good once; the next " + what
	}
	for {
		*tries++
		answer, err := askSecret(ctx, question)
		if err != nil {
			return "", err
		}
		code := strings.ReplaceAll(strings.TrimSpace(answer), " ", "")
		if len(code) == 6 && strings.Trim(code, "0123456789") == "" {
			return code, nil
		}
		if *tries >= maxTries {
			return "", errorWithHint(nil, fmt.Sprintf("no MFA code of %s was given", need.serial), "a code has six digits")
		}
		question = "that was no code of six digits; " + what
	}
}
