package proxy

import (
	"context"
	"errors"
	"io"
	"os"
	"os/signal"
	"strings"
	"time"
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
	restore, err := echoOff(t.in) // before anyone is asked to type
	if err != nil {
		return "", err
	}
	defer restore()
	resumed := make(chan os.Signal, 1)
	notifyResumed(resumed)
	defer signal.Stop(resumed)
	io.WriteString(t.out, question)
	defer io.WriteString(t.out, "\n") // which was not echoed
	type line struct {
		text string
		err  error
	}
	read := make(chan line, 1)
	go func() { // ends with a line, the deadline or, where a terminal has none, the process
		text, err := readLine(t.in)
		read <- line{text, err}
	}()
	for {
		select {
		case l := <-read:
			if errors.Is(l.err, io.EOF) {
				return "", errorWithHint(nil, "the question was not answered")
			}
			return l.text, l.err
		case <-resumed: // after a Ctrl-Z, in which the shell has set its own modes
			if _, err := echoOff(t.in); err != nil {
				return "", err
			}
			io.WriteString(t.out, question)
		case <-ctx.Done():
			t.in.SetReadDeadline(time.Unix(1, 0))
			return "", ctx.Err()
		}
	}
}

// readLine reads no further than the end of the line: what is typed after it is
// for others.
func readLine(r io.Reader) (string, error) {
	var line strings.Builder
	for b := make([]byte, 1); ; {
		n, err := r.Read(b)
		switch {
		case n == 1 && b[0] == '\n':
			return strings.TrimSuffix(line.String(), "\r"), nil
		case n == 1:
			line.WriteByte(b[0])
		case err != nil:
			return "", err
		}
	}
}
