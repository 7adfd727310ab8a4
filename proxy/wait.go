package proxy

import (
	"context"
	"errors"
	"log/slog"
	"time"

	"github.com/aws/aws-sdk-go-v2/service/ssm/types"
)

// How often a node that is awaited is asked for.
const (
	pollFirst = time.Second
	pollMost  = 5 * time.Second
)

// waiter is --wait: it lets calls be made again as long as the node isn't
// online. It belongs to one goroutine.
type waiter struct {
	limit time.Duration // from the first call that said so, over all calls
	what  string        // is waited for
	ui    *ui
	log   *slog.Logger

	begin time.Time // zero before that call
	pause time.Duration
	stop  func() // ends what the person is shown
}

// await calls until the outcome is another than that the node isn't online, or
// the time is up; once more at the limit itself.
func (w *waiter) await(ctx context.Context, call func(context.Context) error) error {
	for {
		err := call(ctx)
		if !isAbsent(err) || w.limit == 0 {
			return err
		}
		if w.begin.IsZero() {
			w.begin, w.pause = time.Now(), pollFirst
			w.stop = w.ui.countUp(w.what, w.limit)
		}
		left := w.limit - time.Since(w.begin)
		if left <= 0 {
			return err
		}
		w.log.Info("not online yet", "trying again in", w.pause, "error", plainError(err))
		timer := time.NewTimer(min(w.pause, left))
		select {
		case <-timer.C:
		case <-ctx.Done():
			timer.Stop()
			return err
		}
		w.pause = min(w.pause*3/2, pollMost)
	}
}

// end takes away what the person was shown.
func (w *waiter) end() {
	if w.stop != nil {
		w.stop()
		w.stop = nil
	}
}

// isAbsent tells whether err says that the node isn't online.
func isAbsent(err error) bool {
	_, unconnected := errors.AsType[*types.TargetNotConnected](err)
	_, unknown := errors.AsType[*noNodeError](err)
	return unconnected || unknown
}
