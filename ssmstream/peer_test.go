package ssmstream

import (
	"context"
	"encoding/json"
	"errors"
	"net"
	"net/http"
	"slices"
	"sync"
	"testing"
	"testing/synctest"
	"time"

	"github.com/gorilla/websocket"
)

// peer is one connection of a scripted service, gateway and agent in one, for
// tests that need to decide on every frame. It lives in a synctest bubble: its
// network is net.Pipe, its time the bubble's.
type peer struct {
	t    *testing.T
	ws   *websocket.Conn
	open OpenDataChannel
	lock sync.Mutex // held for each write
	told chan<- any // to the test; a channel of the bubble, as its clock demands
}

// service hands each connection of a stream to the next script; the last one
// serves all that follow.
type service struct {
	t       *testing.T
	scripts []func(*peer)

	mu       sync.Mutex
	conns    chan net.Conn
	told     chan any // what the scripts have to say
	dials    int
	dialErr  func(n int) error
	notices  []Notice
	resumes  int
	resumeBy func(n int) (Grant, error)
	refuse   func(signed bool) bool // an upgrade, with 403
}

var grant = Grant{StreamURL: "wss://gateway.test/v1/data-channel/s-1?role=publish_subscribe", Token: "secret-token"}

// inBubble runs test with a service in a bubble of its own, and waits for all
// of it to end.
func inBubble(t *testing.T, scripts []func(*peer), test func(t *testing.T, s *service)) {
	t.Helper()
	t.Parallel()
	synctest.Test(t, func(t *testing.T) {
		s := &service{t: t, scripts: scripts, conns: make(chan net.Conn), told: make(chan any, 16)}
		server := &http.Server{Handler: s}
		go server.Serve(s)
		test(t, s)
		server.Close()
	})
}

func (s *service) Accept() (net.Conn, error) {
	c, ok := <-s.conns
	if !ok {
		return nil, net.ErrClosed
	}
	return c, nil
}
func (s *service) Close() error   { close(s.conns); return nil }
func (s *service) Addr() net.Addr { return Addr("bubble") }

func (s *service) DialTLS(ctx context.Context, _, _ string) (net.Conn, error) {
	s.mu.Lock()
	s.dials++
	n := s.dials
	s.mu.Unlock()
	if s.dialErr != nil {
		if err := s.dialErr(n); err != nil {
			return nil, err
		}
	}
	client, server := net.Pipe()
	s.conns <- server
	return client, nil
}

func (s *service) ResumeSession(context.Context) (Grant, error) {
	s.mu.Lock()
	s.resumes++
	n := s.resumes
	s.mu.Unlock()
	if s.resumeBy != nil {
		return s.resumeBy(n)
	}
	return grant, nil
}

// resumed is how often a new grant was asked for.
func (s *service) resumed() int {
	s.mu.Lock()
	defer s.mu.Unlock()
	return s.resumes
}

// noticed is what the person was told.
func (s *service) noticed() []Notice {
	s.mu.Lock()
	defer s.mu.Unlock()
	return slices.Clone(s.notices)
}

func (s *service) ServeHTTP(w http.ResponseWriter, r *http.Request) {
	if s.refuse != nil && s.refuse(r.Header.Get("Authorization") != "") {
		w.WriteHeader(http.StatusForbidden)
		return
	}
	ws, err := (&websocket.Upgrader{}).Upgrade(w, r, nil)
	if err != nil {
		return
	}
	defer ws.Close()
	s.mu.Lock()
	script := s.scripts[0]
	if len(s.scripts) > 1 {
		s.scripts = s.scripts[1:]
	}
	s.mu.Unlock()
	p := &peer{t: s.t, ws: ws, told: s.told}
	kind, text, err := ws.ReadMessage()
	if err != nil {
		return
	}
	if err := json.Unmarshal(text, &p.open); err != nil || kind != websocket.TextMessage {
		s.t.Errorf("first frame %q of type %d: %v", text, kind, err)
	}
	script(p)
}

// SignUpgrade makes a signature that can be told from none.
func (s *service) SignUpgrade(_ context.Context, r *http.Request) error {
	r.Header.Set("Authorization", "AWS4-HMAC-SHA256 …")
	return nil
}

func (s *service) config() Config {
	return Config{
		DialTLS: s.DialTLS,
		Signer:  s,
		Resumer: s,
		Notify: func(n Notice, _ string) {
			s.mu.Lock()
			defer s.mu.Unlock()
			s.notices = append(s.notices, n)
		},
	}
}

func (s *service) dial(t *testing.T) *Stream {
	t.Helper()
	stream, err := Dial(t.Context(), grant, s.config())
	if err != nil {
		t.Fatal(err)
	}
	t.Cleanup(func() { stream.Close() })
	return stream
}

func (p *peer) send(m Message) {
	m.ID = NewUUID()
	m.CreatedDate = uint64(time.Now().UnixMilli())
	p.lock.Lock()
	defer p.lock.Unlock()
	p.ws.WriteMessage(websocket.BinaryMessage, m.AppendTo(nil)) // an error ends the next read
}

func (p *peer) output(seq int64, payload string) {
	p.send(Message{Type: OutputStreamData, SequenceNumber: seq, PayloadType: PayloadOutput, Payload: []byte(payload)})
}

func (p *peer) acknowledge(m *Message) {
	p.send(Message{Type: Acknowledge, Flags: FlagSYN | FlagFIN,
		Payload: mustJSON(Acknowledgement{m.Type, m.ID.String(), m.SequenceNumber, true})})
}

func mustJSON(v any) []byte {
	text, err := json.Marshal(v)
	if err != nil {
		panic(err)
	}
	return text
}

var errGone = errors.New("the client is gone")

// next returns the next message of the client.
func (p *peer) next() (*Message, error) {
	_, frame, err := p.ws.ReadMessage()
	if err != nil {
		return nil, errGone
	}
	m := new(Message)
	if err := m.Decode(frame); err != nil {
		p.t.Error(err)
	}
	return m, nil
}

// nextData returns the next stream message, acknowledgements passed over.
func (p *peer) nextData() (*Message, error) {
	for {
		if m, err := p.next(); err != nil || m.Type == InputStreamData {
			return m, err
		}
	}
}

// handshake goes through the agent's side of it.
func (p *peer) handshake() {
	p.send(Message{Type: OutputStreamData, Flags: FlagSYN, PayloadType: PayloadHandshakeRequest,
		Payload: []byte(`{"AgentVersion":"3.3.987.0","RequestedClientActions":[{"ActionType":"SessionType","ActionParameters":{"SessionType":"Port","Properties":{"portNumber":"22","type":""}}}]}`)})
	m, err := p.nextData()
	if err != nil {
		return
	}
	p.acknowledge(m)
	p.send(Message{Type: OutputStreamData, SequenceNumber: 1, PayloadType: PayloadHandshakeComplete,
		Payload: []byte(`{"HandshakeTimeToComplete":5000000,"CustomerMessage":""}`)})
}

// drain acknowledges everything until the client is gone.
func (p *peer) drain() {
	for {
		m, err := p.nextData()
		if err != nil {
			return
		}
		p.acknowledge(m)
	}
}

// swallow reads nothing and says nothing until the client is gone.
func (p *peer) swallow() {
	for {
		if _, _, err := p.ws.NextReader(); err != nil {
			return
		}
	}
}

func (p *peer) closeChannel(output string) {
	p.send(Message{Type: ChannelClosed, Payload: mustJSON(ChannelClosedPayload{MessageType: "channel_closed", SchemaVersion: 1, Output: output})})
}
