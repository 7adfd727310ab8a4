package proxy

import (
	"fmt"
	"io"
	"strings"
	"sync"
	"time"
	"unicode/utf8"
)

// setStatus shows text below what has been said so far, in place of the last
// status. Empty text takes it away. It is for terminals.
func (u *ui) setStatus(text string) {
	u.mu.Lock()
	defer u.mu.Unlock()
	wipe := blank(u.status)
	u.status = ""
	if text != "" {
		u.status = prefix + printable(text)
	}
	io.WriteString(u.w, wipe+u.status)
}

// blank overwrites a status, in a way that every terminal understands.
func blank(status string) string {
	if status == "" {
		return ""
	}
	return "\r" + strings.Repeat(" ", utf8.RuneCountInString(status)) + "\r"
}

// countUp says that something is being waited for: on a terminal in a line that
// counts the seconds and goes away with stop, otherwise once.
func (u *ui) countUp(what string, limit time.Duration) (stop func()) {
	if !u.terminal {
		u.line(fmt.Sprintf("waiting up to %s for %s", duration(limit), what))
		return func() {}
	}
	const widest = 40 // so that it stays one line
	if runes := []rune(what); len(runes) > widest {
		what = string(runes[:widest-1]) + "…"
	}
	done := make(chan struct{})
	var counting sync.WaitGroup
	counting.Go(func() { // ends with stop
		ticker := time.NewTicker(time.Second)
		defer ticker.Stop()
		for begin := time.Now(); ; {
			u.setStatus(fmt.Sprintf("waiting for %s: %s of %s", what,
				duration(time.Since(begin).Truncate(time.Second)), duration(limit)))
			select {
			case <-ticker.C:
			case <-done:
				return
			}
		}
	})
	return func() {
		close(done)
		counting.Wait()
		u.setStatus("")
	}
}

// duration writes d as people do: 2m, not 2m0s.
func duration(d time.Duration) string {
	text := d.String()
	if strings.HasSuffix(text, "m0s") {
		text = strings.TrimSuffix(text, "0s")
	}
	if strings.HasSuffix(text, "h0m") {
		text = strings.TrimSuffix(text, "0m")
	}
	return text
}
