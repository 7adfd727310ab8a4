package proxy

import (
	"context"
	"fmt"
	"io"
	"log/slog"
	"os"
	"strings"
	"time"
)

// newLogger returns the logger of a run and what closes its file. Without -v
// and --log-file it logs nothing. No credential, token or signed header is
// ever given to it.
func newLogger(o Options, u *ui) (*slog.Logger, io.Closer, error) {
	var handlers []slog.Handler
	closer := io.NopCloser(nil)
	if o.Verbose {
		handlers = append(handlers, &lineHandler{ui: u})
	}
	if o.LogFile != "" {
		f, err := os.OpenFile(o.LogFile, os.O_APPEND|os.O_CREATE|os.O_WRONLY, 0o600)
		if err != nil {
			return nil, nil, errorWithHint(err, "the log file cannot be opened: "+plainError(err))
		}
		closer = f
		pid := []slog.Attr{slog.Int("pid", os.Getpid())} // several ssh may share a file
		handlers = append(handlers, slog.NewTextHandler(f, &slog.HandlerOptions{Level: slog.LevelDebug}).WithAttrs(pid))
	}
	if len(handlers) == 0 {
		return slog.New(slog.DiscardHandler), closer, nil
	}
	return slog.New(slog.NewMultiHandler(handlers...)), closer, nil
}

// lineHandler is what -v shows: a line an event, from slog.LevelInfo up.
type lineHandler struct {
	ui    *ui
	attrs string // those of WithAttrs, formatted
	group string // of WithGroup, with its dot
}

func (h *lineHandler) Enabled(_ context.Context, l slog.Level) bool { return l >= slog.LevelInfo }

func (h *lineHandler) Handle(_ context.Context, r slog.Record) error {
	var b strings.Builder
	b.WriteString(r.Message)
	b.WriteString(h.attrs)
	r.Attrs(func(a slog.Attr) bool {
		b.WriteString(h.format(a))
		return true
	})
	h.ui.line(oneLine(b.String()))
	return nil
}

func (h *lineHandler) WithAttrs(attrs []slog.Attr) slog.Handler {
	next := *h
	for _, a := range attrs {
		next.attrs += h.format(a)
	}
	return &next
}

func (h *lineHandler) WithGroup(name string) slog.Handler {
	next := *h
	next.group += name + "."
	return &next
}

func (h *lineHandler) format(a slog.Attr) string {
	value := a.Value.Resolve()
	if value.Kind() == slog.KindDuration {
		return fmt.Sprintf(" %s%s=%v", h.group, a.Key, value.Duration().Round(100*time.Microsecond))
	}
	text := value.String()
	if text == "" || strings.ContainsAny(text, " \t\n\"=") {
		text = fmt.Sprintf("%q", text)
	}
	return " " + h.group + a.Key + "=" + text
}

// took is the attribute that tells how long something took.
func took(start time.Time) slog.Attr { return slog.Duration("took", time.Since(start)) }
