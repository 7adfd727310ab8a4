package proxy

import (
	"io"
	"log/slog"
	"sync"
	"sync/atomic"
	"time"
)

const (
	inputBuffer  = 32 << 10
	outputBuffer = 64 << 10

	// stuckAfter is how long a reader of standard output may take nothing once
	// the session is over.
	stuckAfter = 2 * time.Second
)

// input is standard input. It is read from the start, so that its end is
// noticed before there is a stream: that is how ssh's death shows.
type input struct {
	ended     chan struct{} // closed after the last byte was read and, given a stream, written
	flushed   chan struct{} // closed when what was read before attach is written
	attached  chan struct{} // closed by attach
	abandoned chan struct{} // closed by abandon

	mu    sync.Mutex // held while early is being written: what follows waits
	early []byte     // read before attach, at most inputBuffer bytes
	dst   io.Writer  // nil before attach
}

func newInput(src io.Reader) *input {
	in := &input{
		ended:     make(chan struct{}),
		flushed:   make(chan struct{}),
		attached:  make(chan struct{}),
		abandoned: make(chan struct{}),
	}
	go in.pump(src) // ends with src, or the stream; a Read that waits ends with the process
	return in
}

// pump reads, and writes what it read before it reads more: where the stream
// takes nothing, ssh feels it.
func (in *input) pump(src io.Reader) {
	buf := make([]byte, inputBuffer)
	for {
		n, err := src.Read(buf)
		if n > 0 && !in.pass(buf[:n]) {
			return // the stream is over and says so to its reader
		}
		if err != nil {
			close(in.ended)
			return
		}
	}
}

// pass writes p to the stream or keeps it until there is one. It reports
// whether there is any sense in going on.
func (in *input) pass(p []byte) bool {
	in.mu.Lock()
	if in.dst == nil && len(in.early)+len(p) <= inputBuffer {
		in.early = append(in.early, p...)
		in.mu.Unlock()
		return true
	}
	in.mu.Unlock()
	select {
	case <-in.attached:
	case <-in.abandoned:
		return false
	}
	in.mu.Lock()
	dst := in.dst
	in.mu.Unlock()
	_, err := dst.Write(p)
	return err == nil
}

// attach begins to write to dst, with what has been read so far. It is called
// once and does not block.
func (in *input) attach(dst io.Writer) {
	in.mu.Lock()
	in.dst = dst
	close(in.attached)
	go func() { // ends when dst has taken what was early, or is over
		defer in.mu.Unlock()
		defer close(in.flushed)
		dst.Write(in.early) // its error is pump's, and the reader's, to see
		in.early = nil
	}()
}

// pending tells whether something was read that no stream has been given.
func (in *input) pending() bool {
	in.mu.Lock()
	defer in.mu.Unlock()
	return len(in.early) > 0
}

// abandon says that nothing will be taken from in any more.
func (in *input) abandon() { close(in.abandoned) }

// output carries a stream to standard output.
type output struct {
	ended chan struct{} // closed when the stream has ended and everything is written
	gone  chan struct{} // closed when nobody reads standard output any more
	err   error         // the stream's last; to be read after ended

	writes atomic.Int64
}

func newOutput(src io.Reader, dst io.Writer, log *slog.Logger, start time.Time) *output {
	out := &output{ended: make(chan struct{}), gone: make(chan struct{})}
	go out.copy(src, dst, log, start) // ends with the stream; a Write that is stuck ends with the process
	return out
}

// copy goes on reading when nobody reads standard output any more: the stream
// needs that to come to its end.
func (out *output) copy(src io.Reader, dst io.Writer, log *slog.Logger, start time.Time) {
	defer close(out.ended)
	buf := make([]byte, outputBuffer)
	gone := false
	for first := true; ; first = false {
		n, err := src.Read(buf)
		if n > 0 && first {
			log.Info("first byte from the instance", "since start", time.Since(start))
		}
		if n > 0 && !gone {
			if _, err := dst.Write(buf[:n]); err != nil {
				log.Info("write to standard output", "error", plainError(err))
				gone = true
				close(out.gone)
			}
			out.writes.Add(1)
		}
		if err != nil {
			out.err = err
			return
		}
	}
}

// drain waits until everything is written, as long as somebody reads it.
func (out *output) drain() {
	ticker := time.NewTicker(stuckAfter)
	defer ticker.Stop()
	for seen := out.writes.Load(); ; {
		select {
		case <-out.ended:
			return
		case <-ticker.C:
			now := out.writes.Load()
			if now == seen {
				return
			}
			seen = now
		}
	}
}
