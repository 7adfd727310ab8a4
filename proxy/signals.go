package proxy

import (
	"context"
	"fmt"
	"log/slog"
	"os"
	"os/signal"
)

// untilSignal returns a context that ends when the process is told to end; its
// cause names the signal. Signals that follow change nothing: the end is under
// way. Those that the process was started to ignore (nohup) stay ignored.
func untilSignal(ctx context.Context, log *slog.Logger) (_ context.Context, stop func()) {
	catchBrokenPipe()
	ctx, cancel := context.WithCancelCause(ctx)
	signals := make(chan os.Signal, 4)
	for _, sig := range endSignals {
		if !signal.Ignored(sig) {
			signal.Notify(signals, sig)
		}
	}
	done := make(chan struct{})
	go func() { // ends with stop
		for {
			select {
			case sig := <-signals:
				log.Debug("signal", "signal", sig.String())
				cancel(fmt.Errorf("signal: %v", sig))
			case <-done:
				return
			}
		}
	}()
	return ctx, func() {
		close(done) // signals stay caught: one that comes now must not spoil the exit status
		cancel(context.Canceled)
	}
}
