package proxy

import (
	"bytes"
	"errors"
	"log/slog"
	"os"
	"path/filepath"
	"strings"
	"testing"
	"time"

	"ssmproxy/ssmstream"
)

func TestFailPrintsOneLineAndHints(t *testing.T) {
	t.Parallel()
	var b bytes.Buffer
	status := Fail(&b, errorWithHint(errors.New("raw"), "two\nlines\x1b[31m", "first", "second\x07"))
	want := "ssmproxy: two lines[31m\nssmproxy: hint: first\nssmproxy: hint: second\n"
	if b.String() != want {
		t.Errorf("got %q, want %q", b.String(), want)
	}
	if status != 1 {
		t.Errorf("exit status %d, want 1", status)
	}
}

func TestNotices(t *testing.T) {
	t.Parallel()
	for _, test := range []struct {
		notice     ssmstream.Notice
		text, want string
	}{
		{ssmstream.NoticeLost, "secret reason", "ssmproxy: connection to the service lost, resuming…\n"},
		{ssmstream.NoticeResumed, "", "ssmproxy: connection to the service resumed\n"},
		{ssmstream.NoticeCustomerMessage, "Logged.\r\nBe good\x1b]0;x\x07\u202e!\n", "ssmproxy: Logged.\nssmproxy: Be good]0;x!\n"},
	} {
		var b bytes.Buffer
		(&ui{w: &b}).notice(test.notice, test.text)
		if b.String() != test.want {
			t.Errorf("got %q, want %q", b.String(), test.want)
		}
	}
}

func TestNoticeUnsignedNamesTheStatement(t *testing.T) {
	t.Parallel()
	var b bytes.Buffer
	(&ui{w: &b}).notice(ssmstream.NoticeUnsigned, "")
	lines := strings.Split(strings.TrimSuffix(b.String(), "\n"), "\n")
	if len(lines) != 2 || !strings.HasPrefix(lines[1], "ssmproxy: hint: ") ||
		!strings.Contains(lines[1], `"ssmmessages:OpenDataChannel"`) ||
		!strings.Contains(lines[1], `"arn:aws:ssm:*:*:session/${aws:userid}-*"`) {
		t.Errorf("got %q", lines)
	}
}

func TestVerboseLines(t *testing.T) {
	t.Parallel()
	var b bytes.Buffer
	log := slog.New(&lineHandler{ui: &ui{w: &b}}).With("a", 1).WithGroup("g")
	log.Debug("not this")
	log.Info("done", "took", 1234567*time.Nanosecond, "error", "x y\n")
	if want := "ssmproxy: done a=1 g.took=1.2ms g.error=\"x y\\n\"\n"; b.String() != want {
		t.Errorf("got %q, want %q", b.String(), want)
	}
}

func TestLogFileIsPrivateAndAppended(t *testing.T) {
	t.Parallel()
	file := filepath.Join(t.TempDir(), "log")
	for _, text := range []string{"one", "two"} {
		log, closer, err := newLogger(Options{LogFile: file}, &ui{w: &bytes.Buffer{}})
		if err != nil {
			t.Fatal(err)
		}
		log.Debug(text)
		closer.Close()
	}
	content, err := os.ReadFile(file)
	if err != nil {
		t.Fatal(err)
	}
	if s := string(content); !strings.Contains(s, "msg=one") || !strings.Contains(s, "msg=two") || strings.Count(s, "\n") != 2 {
		t.Errorf("got %q", s)
	}
	if info, err := os.Stat(file); err != nil || info.Mode().Perm() != 0o600 {
		t.Errorf("mode %v, %v", info.Mode(), err)
	}
}
