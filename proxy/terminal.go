package proxy

import (
	"context"
	"errors"
	"io"
	"os"

	"golang.org/x/term"
)

// terminal is the person's, whatever standard input and output are.
type terminal struct {
	in, out *os.File // may be the same
}

func (t *terminal) close() {
	t.in.Close()
	if t.out != t.in {
		t.out.Close()
	}
}

// secret asks and reads a line without echo. Where ctx ends first, by Ctrl-C for
// one, the terminal is as before when it returns.
func (t *terminal) secret(ctx context.Context, question string) (string, error) {
	fd := int(t.in.Fd())
	before, err := term.GetState(fd)
	if err != nil {
		return "", err
	}
	if err := ctx.Err(); err != nil {
		return "", err
	}
	io.WriteString(t.out, question)
	defer io.WriteString(t.out, "\n") // which was not echoed
	type line struct {
		text []byte
		err  error
	}
	read := make(chan line, 1)
	go func() { // ends with a line, or the process: nothing else ends a terminal's read
		text, err := term.ReadPassword(fd)
		read <- line{text, err}
	}()
	select {
	case l := <-read:
		if errors.Is(l.err, io.EOF) {
			return "", errorWithHint(nil, "the question was not answered")
		}
		return string(l.text), l.err
	case <-ctx.Done():
		term.Restore(fd, before)
		return "", ctx.Err()
	}
}
