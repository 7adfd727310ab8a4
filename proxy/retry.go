package proxy

import (
	"context"
	"errors"
	"math/rand/v2"
	"net/http"
	"time"

	"github.com/aws/aws-sdk-go-v2/aws"
	"github.com/aws/aws-sdk-go-v2/aws/retry"
	"github.com/aws/smithy-go"

	"ssmproxy/ssmstream"
)

// StartSession is allowed a few times a second in an account, and an Ansible
// run starts a hundred clients at once. Exponential backoff with full jitter
// (AWS Architecture Blog, "Exponential Backoff And Jitter") spreads them; the
// ceilings are that high because each refused call is one that the others
// lack: simulated, 100 clients against 5 calls a second need 3.2 calls each.
const (
	throttleBase   = 3 * time.Second
	throttleFactor = 3
	throttleMax    = 30 * time.Second
	throttleLimit  = 5 * time.Minute // no new attempt after this

	faultBase     = 200 * time.Millisecond
	faultAttempts = 3
)

// startSession asks for a session until it gets one or trying again is of no
// use. Where ctx ends it stops, but not without the answer to a call that is on
// its way; then it may return a grant although ctx is over.
func (c *client) startSession(ctx context.Context) (grant ssmstream.Grant, err error) {
	err = c.insist(ctx, func(ctx context.Context) (err error) {
		start := time.Now()
		if grant, err = c.startOnce(ctx); err == nil {
			c.log.Info("session started", "session", c.session(), took(start))
		}
		return err
	})
	return grant, err
}

// insist makes a call again where it was throttled, or failed by a fault that
// may pass. It stops where ctx ends.
func (c *client) insist(ctx context.Context, call func(context.Context) error) error {
	begin := time.Now()
	throttled, faults := 0, 0
	for {
		err := call(ctx)
		if err == nil {
			return nil
		}
		var wait time.Duration
		switch {
		case isThrottle(err) && time.Since(begin) < throttleLimit:
			wait = throttleBackoff(throttled)
			throttled++
		case !isThrottle(err) && worthRetry(err) && faults < faultAttempts-1:
			wait = jitter(faultBase << faults)
			faults++
		default:
			return err
		}
		c.log.Info(operation(err)+" failed, trying again", "in", wait, "error", plainError(err))
		timer := time.NewTimer(wait)
		select {
		case <-timer.C:
		case <-ctx.Done():
			timer.Stop()
			return err
		}
	}
}

// throttleBackoff is the wait before the next try after n+1 refusals.
func throttleBackoff(n int) time.Duration {
	ceiling := throttleBase
	for range n {
		ceiling = min(ceiling*throttleFactor, throttleMax)
	}
	return jitter(ceiling)
}

func jitter(ceiling time.Duration) time.Duration { return rand.N(ceiling) }

func isThrottle(err error) bool {
	return retry.ThrottleErrorCode{Codes: retry.DefaultThrottleErrorCodes}.IsErrorThrottle(err) == aws.TrueTernary ||
		httpStatus(err) == http.StatusTooManyRequests
}

// worthRetry tells whether the same call may succeed a little later: throttling,
// faults of the service, the network, and a clock that the SDK has corrected.
func worthRetry(err error) bool {
	if isThrottle(err) {
		return true
	}
	if isTLSFailure(err) || errors.Is(err, context.Canceled) {
		return false
	}
	if errors.Is(err, context.DeadlineExceeded) {
		return true
	}
	if api, ok := errors.AsType[smithy.APIError](err); ok && api.ErrorCode() == "InternalServerError" {
		return true
	}
	return retry.IsErrorRetryables(retry.DefaultRetryables).IsErrorRetryable(err) == aws.TrueTernary
}

// httpStatus is the status of the answer that err tells of, 0 where there was none.
func httpStatus(err error) int {
	var e interface{ HTTPStatusCode() int }
	if errors.As(err, &e) {
		return e.HTTPStatusCode()
	}
	return 0
}
