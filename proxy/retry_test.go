package proxy

import (
	"context"
	"io"
	"math/rand/v2"
	"net/http"
	"strings"
	"sync"
	"testing"
	"testing/synctest"
	"time"
)

// throttledService allows 5 StartSession calls a second, in memory: in a
// synctest bubble its time is the bubble's.
type throttledService struct {
	mu     sync.Mutex
	tokens float64
	filled time.Time
	calls  int
}

const allowed = 5.0 // calls a second, in bursts of as many

func (s *throttledService) Do(r *http.Request) (*http.Response, error) {
	time.Sleep(50 * time.Millisecond)
	s.mu.Lock()
	defer s.mu.Unlock()
	s.calls++
	s.tokens = min(allowed, s.tokens+time.Since(s.filled).Seconds()*allowed)
	s.filled = time.Now()
	if s.tokens < 1 {
		return reply(400, `{"__type":"ThrottlingException","message":"Rate exceeded"}`), nil
	}
	s.tokens--
	return reply(200, `{"SessionId":"s","TokenValue":"t","StreamUrl":"wss://example.com/v1/data-channel/s"}`), nil
}

func reply(status int, body string) *http.Response {
	return &http.Response{StatusCode: status, Header: http.Header{}, Body: io.NopCloser(strings.NewReader(body))}
}

func TestHundredClientsAgainstFiveCallsASecond(t *testing.T) {
	t.Parallel()
	synctest.Test(t, func(t *testing.T) {
		s := &throttledService{tokens: allowed, filled: time.Now()}
		const clients = 100
		begin := time.Now()
		var wg sync.WaitGroup
		for range clients {
			wg.Go(func() {
				time.Sleep(rand.N(time.Second)) // processes do not start together to the millisecond
				if _, err := clientFor(s, "https://ssm.example.com").startSession(t.Context()); err != nil {
					t.Error(err)
				}
			})
		}
		wg.Wait()
		perClient := float64(s.calls) / clients
		t.Logf("%.2f calls a client, the last connected after %v", perClient, time.Since(begin))
		if perClient > 4 {
			t.Errorf("%.2f calls a client, want at most 4", perClient)
		}
	})
}

func TestThrottlingEndsSomeDay(t *testing.T) {
	t.Parallel()
	synctest.Test(t, func(t *testing.T) {
		s := &throttledService{tokens: -1e9, filled: time.Now()}
		begin := time.Now()
		c := clientFor(s, "https://ssm.example.com")
		_, err := c.startSession(t.Context())
		checkExplained(t, c.explain(err), "AWS is throttling StartSession in this account and region", "")
		if took := time.Since(begin); took < throttleLimit || took > throttleLimit+throttleMax+time.Second {
			t.Errorf("gave up after %v", took)
		}
	})
}

func TestFaultsOfTheServiceAreRetriedAFewTimes(t *testing.T) {
	t.Parallel()
	for _, test := range []struct {
		name      string
		status    int
		body      string
		wantCalls int
	}{
		{"fault", 500, `{"__type":"InternalServerError"}`, faultAttempts},
		{"unavailable", 503, ``, faultAttempts},
		{"not connected", 400, `{"__type":"TargetNotConnected"}`, 1},
		{"denied", 400, `{"__type":"AccessDeniedException"}`, 1},
		{"expired", 400, `{"__type":"ExpiredTokenException"}`, 1},
	} {
		t.Run(test.name, func(t *testing.T) {
			t.Parallel()
			synctest.Test(t, func(t *testing.T) {
				s := &fixedService{status: test.status, body: test.body}
				if _, err := clientFor(s, "https://ssm.example.com").startSession(t.Context()); err == nil {
					t.Error("no error")
				}
				if s.calls != test.wantCalls {
					t.Errorf("%d calls, want %d", s.calls, test.wantCalls)
				}
			})
		})
	}
}

type fixedService struct {
	status int
	body   string
	calls  int
}

func (s *fixedService) Do(*http.Request) (*http.Response, error) {
	s.calls++
	return reply(s.status, s.body), nil
}

// slowService answers after a second.
type slowService struct{}

func (slowService) Do(r *http.Request) (*http.Response, error) {
	select {
	case <-time.After(time.Second):
		return reply(200, `{"SessionId":"s","TokenValue":"t","StreamUrl":"wss://example.com/v1/data-channel/s"}`), nil
	case <-r.Context().Done():
		return nil, r.Context().Err()
	}
}

func TestAnswerOnItsWayIsAwaitedWhenNobodyWantsItAnyMore(t *testing.T) {
	t.Parallel()
	synctest.Test(t, func(t *testing.T) {
		c := clientFor(slowService{}, "https://ssm.example.com")
		ctx, cancel := context.WithTimeout(t.Context(), 100*time.Millisecond)
		defer cancel()
		if _, err := c.startSession(ctx); err != nil {
			t.Error(err)
		}
		if c.session() != "s" {
			t.Errorf("session %q is not known, nobody will end it", c.session())
		}
	})
}

// aheadService's clock is an hour ahead, and it minds.
type aheadService struct{ calls int }

func (s *aheadService) Do(r *http.Request) (*http.Response, error) {
	s.calls++
	now := time.Now().Add(time.Hour).UTC()
	resp := reply(200, `{"SessionId":"s","TokenValue":"t","StreamUrl":"wss://example.com/v1/data-channel/s"}`)
	if signed, err := time.Parse("20060102T150405Z", r.Header.Get("X-Amz-Date")); err != nil || signed.Sub(now).Abs() > 5*time.Minute {
		resp = reply(400, `{"__type":"InvalidSignatureException","message":"Signature expired: it is now earlier than it was"}`)
	}
	resp.Header.Set("Date", now.Format(http.TimeFormat))
	return resp, nil
}

func TestWrongClockIsCorrectedForTheUpgradeToo(t *testing.T) {
	t.Parallel()
	synctest.Test(t, func(t *testing.T) {
		s := &aheadService{}
		c := clientFor(s, "https://ssm.example.com")
		if _, err := c.startSession(t.Context()); err != nil {
			t.Fatal(err)
		}
		r, err := http.NewRequestWithContext(t.Context(), "GET", "https://ssmmessages.example.com/v1/data-channel/s?b=2&a=1", nil)
		if err != nil {
			t.Fatal(err)
		}
		if err := c.SignUpgrade(t.Context(), r); err != nil {
			t.Fatal(err)
		}
		signed, err := time.Parse("20060102T150405Z", r.Header.Get("X-Amz-Date"))
		if ahead := time.Until(signed); err != nil || (ahead-time.Hour).Abs() > time.Minute {
			t.Errorf("signed %v ahead, %v", ahead, err)
		}
		if got := r.URL.String(); got != "https://ssmmessages.example.com/v1/data-channel/s?b=2&a=1" {
			t.Errorf("the URL became %s", got)
		}
		if s.calls != 2 {
			t.Errorf("%d calls, want 2", s.calls)
		}
	})
}
