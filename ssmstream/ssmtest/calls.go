package ssmtest

import (
	"encoding/json"
	"errors"
	"io"
	"math"
	"net/http"
	"slices"
	"strings"
	"sync"
	"time"

	"ssmproxy/ssmstream"
)

// CallError is how the service refuses an API call.
type CallError struct {
	Code    string
	Message string
	Status  int // of HTTP; 400 when 0
}

func (e *CallError) Error() string { return e.Code + ": " + e.Message }

// Failures for FailCalls, in the service's words.
var (
	ErrThrottled = &CallError{Code: "ThrottlingException", Message: "Rate exceeded"}
	ErrInternal  = &CallError{Code: "InternalServerError", Message: "Internal server error", Status: http.StatusInternalServerError}
	ErrExpired   = errExpiredToken
)

// call is one API action: how it is signed and permitted, and what it does.
// Other services' actions go into the same table.
type call struct {
	service string // that the signature is scoped to
	action  string // IAM's name
	serve   func(s *Server, caller *Credentials, body []byte) (any, *CallError)
}

// calls are the actions by their X-Amz-Target.
var calls = map[string]call{
	"AmazonSSM.StartSession":                {"ssm", "ssm:StartSession", (*Server).callStartSession},
	"AmazonSSM.ResumeSession":               {"ssm", "ssm:ResumeSession", (*Server).callResumeSession},
	"AmazonSSM.TerminateSession":            {"ssm", "ssm:TerminateSession", (*Server).callTerminateSession},
	"AmazonSSM.DescribeInstanceInformation": {"ssm", "ssm:DescribeInstanceInformation", (*Server).callDescribeInstanceInformation},

	"AWSEC2InstanceConnectService.SendSSHPublicKey": {"ec2-instance-connect", "ec2-instance-connect:SendSSHPublicKey", (*Server).callSendSSHPublicKey},
}

const maxBody = 1 << 20

// serveCall answers one request of the AWS JSON 1.1 protocol, or of STS.
func (s *Server) serveCall(w http.ResponseWriter, r *http.Request) {
	if isQuery(r) {
		s.serveQuery(w, r)
		return
	}
	body, err := io.ReadAll(http.MaxBytesReader(w, r.Body, maxBody))
	if err != nil {
		http.Error(w, err.Error(), http.StatusBadRequest)
		return
	}
	target := r.Header.Get("X-Amz-Target")
	_, name, _ := strings.Cut(target, ".")
	out, failure := s.answer(r, target, name, body)
	s.countCall(name, failure)
	writeAnswer(w, out, failure)
}

// countCall counts a call when its answer is known, before it leaves.
func (s *Server) countCall(name string, failure *CallError) {
	s.count.change(func(st *Stats) {
		st.Calls[name]++
		if failure != nil {
			st.CallErrors[failure.Code]++
		}
	})
	if failure != nil {
		s.log.Debug("call failed", "action", name, "code", failure.Code, "message", failure.Message)
	}
}

func (s *Server) answer(r *http.Request, target, name string, body []byte) (any, *CallError) {
	c, known := calls[target]
	if !known {
		return nil, &CallError{Code: "UnknownOperationException"}
	}
	sig, failure := parseSignature(r)
	if failure != nil {
		return nil, failure
	}
	if sig == nil {
		return nil, errNoSignature
	}
	caller, failure := sig.verify(r, body, c.service, s.cfg.Regions, &s.keys)
	if failure != nil {
		return nil, failure
	}
	if failure := s.failures.next(name); failure != nil {
		return nil, failure
	}
	return c.serve(s, caller, body)
}

func writeAnswer(w http.ResponseWriter, out any, failure *CallError) {
	status := http.StatusOK
	if failure != nil {
		status = failure.Status
		if status == 0 {
			status = http.StatusBadRequest
		}
		// Some of the real ones write message, some Message.
		name := "message"
		if failure.Code == "AccessDeniedException" {
			name = "Message"
		}
		out = map[string]string{"__type": failure.Code, name: failure.Message}
	}
	w.Header().Set("Content-Type", "application/x-amz-json-1.1")
	w.Header().Set("X-Amzn-Requestid", ssmstream.NewUUID().String())
	w.WriteHeader(status)
	json.NewEncoder(w).Encode(out)
}

func decodeInput(body []byte, in any) *CallError {
	if err := json.Unmarshal(body, in); err != nil {
		return &CallError{Code: "SerializationException", Message: err.Error()}
	}
	return nil
}

// permit refuses what Config.Denied denies.
func (s *Server) permit(action, resource string) *CallError {
	if slices.Contains(s.cfg.Denied, action) {
		return denied(action, resource)
	}
	return nil
}

// failures are the calls that fail without being looked at further.
type failures struct {
	rate *bucket // of StartSession

	mu     sync.Mutex
	queued map[string]*queuedFailure
}

type queuedFailure struct {
	left int // negative: until replaced
	err  *CallError
}

// FailCalls lets the next n calls of an action, such as "ResumeSession", fail
// with err; all until the next FailCalls of that action where n is negative,
// none where it is 0.
func (s *Server) FailCalls(action string, n int, err *CallError) {
	s.failures.mu.Lock()
	defer s.failures.mu.Unlock()
	if s.failures.queued == nil {
		s.failures.queued = make(map[string]*queuedFailure)
	}
	s.failures.queued[action] = &queuedFailure{n, err}
}

func (f *failures) next(action string) *CallError {
	f.mu.Lock()
	defer f.mu.Unlock()
	if q := f.queued[action]; q != nil && q.left != 0 {
		q.left--
		return q.err
	}
	if action == "StartSession" && !f.rate.take() {
		return ErrThrottled
	}
	return nil
}

// bucket is a token bucket that holds a second's worth, or one. A nil bucket is
// never empty.
type bucket struct {
	rate, size, tokens float64
	filled             time.Time
}

func newBucket(rate float64) *bucket {
	if rate == 0 {
		return nil
	}
	size := math.Max(1, rate)
	return &bucket{rate: rate, size: size, tokens: size, filled: time.Now()}
}

func (b *bucket) take() bool {
	if b == nil {
		return true
	}
	now := time.Now()
	b.tokens = math.Min(b.size, b.tokens+now.Sub(b.filled).Seconds()*b.rate)
	b.filled = now
	if b.tokens < 1 {
		return false
	}
	b.tokens--
	return true
}

// asCallError reads an error answer, as a client does.
func asCallError(status int, body []byte) error {
	var fields struct {
		Type    string `json:"__type"`
		Message string
	}
	if err := json.Unmarshal(body, &fields); err != nil || fields.Type == "" {
		return errors.New(http.StatusText(status))
	}
	return &CallError{Code: fields.Type, Message: fields.Message, Status: status}
}
