package ssmtest

import (
	"crypto/subtle"
	"encoding/binary"
	"encoding/json"
	"fmt"
	"net/url"
	"slices"
	"sync"
	"sync/atomic"
	"time"

	"ssmproxy/ssmstream"
)

// session is one session as the service knows it: the gateway's state between
// the client's data channel, which comes and goes, and the agent's.
type session struct {
	srv    *Server
	id     string
	target string
	port   string
	agent  *agent
	gone   chan struct{} // closed when the session has ended
	relays [2]relay      // by Direction

	channel   atomic.Pointer[channel] // the client's; nil while it is away
	agentAway atomic.Bool
	total     atomic.Int64 // messages that have crossed, both directions
	active    atomic.Int64 // when the latest stream message crossed, ns since 1970

	publishing sync.Mutex // of channel and what the agent is told of it, for one order of both

	mu      sync.Mutex // guards what follows
	token   string     // opens the next data channel; spent when it has
	paths   []string   // path and query of each StreamUrl granted, the latest last
	opened  bool       // a data channel has been opened before
	ended   bool
	idle    *time.Timer
	started sync.Once
}

// StartSession opens a session to target on port 22 without an API call and
// its checks: for tests of streams.
func (s *Server) StartSession(target string) (sessionID string, g ssmstream.Grant) {
	sess := s.newSession(target, "22")
	return sess.id, sess.grant()
}

func (s *Server) newSession(target, port string) *session {
	sess := &session{
		srv:    s,
		id:     sessionName + "-" + randomHex(9)[:17],
		target: target,
		port:   port,
		gone:   make(chan struct{}),
	}
	sess.agent = newAgent(sess)
	sess.active.Store(time.Now().UnixNano())
	sess.idle = time.AfterFunc(s.cfg.IdleTimeout, sess.checkIdle)
	s.mu.Lock()
	s.sessions[sess.id] = sess
	closed := s.closed
	s.mu.Unlock()
	if closed {
		sess.abandon()
	}
	s.count.change(func(st *Stats) { st.Sessions++ })
	s.notify()
	s.log.Debug("session started", "session", sess.id, "target", target, "port", port)
	return sess
}

// grant makes a fresh token, which takes the place of an unspent one.
func (s *session) grant() ssmstream.Grant {
	// As in the wild: base64 with its slashes, pluses and equals signs bare.
	raw := "wss://" + s.srv.addr() + "/v1/data-channel/" + s.id +
		"?role=publish_subscribe&cell-number=AAEAAQ/" + randomBase64(31) + "+/" + randomBase64(34)
	if s.srv.cfg.PresignedURL {
		raw = presign(raw, "ssmmessages", s.srv.cfg.Regions[0], s.srv.keys.latest())
	}
	u, err := url.Parse(raw)
	if err != nil {
		panic("ssmtest: " + err.Error()) // made by ourselves
	}
	s.mu.Lock()
	defer s.mu.Unlock()
	s.token = "AAEAA" + randomBase64(150)
	s.paths = append(s.paths, u.RequestURI())
	return ssmstream.Grant{StreamURL: raw, Token: s.token}
}

// spend reports whether token opens a data channel, which it does only once.
func (s *session) spend(token string) (resumed, ok bool) {
	s.mu.Lock()
	defer s.mu.Unlock()
	if s.ended || s.token == "" || subtle.ConstantTimeCompare([]byte(token), []byte(s.token)) == 0 {
		return false, false
	}
	s.token = ""
	if s.srv.faults.tokenExpired() {
		return false, false
	}
	resumed, s.opened = s.opened, true
	return resumed, true
}

// granted reports whether uri is that of a StreamUrl granted to the session,
// and whether a later grant has another. AWS's own client dials its first
// StreamUrl again each time, whatever ResumeSession says (GetResumeSessionParams
// in session-manager-plugin 1.3.0), so the gateway has to take it.
func (s *session) granted(uri string) (ok, outdated bool) {
	s.mu.Lock()
	defer s.mu.Unlock()
	i := slices.Index(s.paths, uri)
	return i >= 0, i < len(s.paths)-1
}

func (s *session) current() *channel { return s.channel.Load() }

func (s *session) isEnded() bool {
	s.mu.Lock()
	defer s.mu.Unlock()
	return s.ended
}

// attach makes c the client's data channel in the place of any other, and
// tells both ends to publish.
func (s *session) attach(c *channel) {
	s.publishing.Lock()
	defer s.publishing.Unlock()
	if old := s.channel.Swap(c); old != nil {
		old.conn.cut()
	}
	start := s.publicationFrame(ssmstream.StartPublication)
	c.out.putNow(start)
	if !s.agentAway.Load() {
		s.agent.in.putNow(start)
	}
	s.started.Do(s.agent.start)
	if s.isEnded() { // between spend and here
		c.conn.cut()
	}
}

// detach notes that c is gone and, where no other has taken its place, has the
// agent pause.
func (s *session) detach(c *channel) {
	s.publishing.Lock()
	defer s.publishing.Unlock()
	if !s.channel.CompareAndSwap(c, nil) || s.agentAway.Load() {
		return
	}
	pause := s.publicationFrame(ssmstream.PausePublication)
	if late := s.srv.cfg.LatePause; late > 0 {
		s.srv.after(late, func() { s.agent.in.putNow(pause) })
	} else {
		s.agent.in.putNow(pause)
	}
}

// end ends the session at most once: the client gets channel_closed with
// words in its Output.
func (s *session) end(cause Cause, words string) {
	if !s.markEnded() {
		return
	}
	s.srv.count.change(func(st *Stats) { st.Ended[cause]++ })
	s.srv.log.Debug("session ended", "session", s.id, "cause", string(cause), "words", words)
	if c := s.current(); c != nil {
		c.out.putNow(s.closedFrame(words))
		c.out.seal()
	}
	s.agent.stop()
	s.srv.notify()
}

// abandon ends the session without a word, for the server's end.
func (s *session) abandon() {
	s.markEnded()
	if c := s.current(); c != nil {
		c.conn.cut()
	}
	s.agent.stop()
}

func (s *session) markEnded() bool {
	s.mu.Lock()
	defer s.mu.Unlock()
	if s.ended {
		return false
	}
	s.ended = true
	s.idle.Stop()
	close(s.gone)
	return true
}

func (s *session) checkIdle() {
	quiet := time.Since(time.Unix(0, s.active.Load()))
	if rest := s.srv.cfg.IdleTimeout - quiet; rest > 0 {
		s.mu.Lock()
		defer s.mu.Unlock()
		if !s.ended {
			s.idle.Reset(rest)
		}
		return
	}
	s.end(CauseIdle, "Session timed out due to inactivity.")
}

// publicationFrame makes a start_publication or pause_publication.
func (s *session) publicationFrame(t ssmstream.MessageType) []byte {
	frame := serviceFrame(t, ssmstream.NewUUID(), time.Now(), []byte(t))
	if s.srv.cfg.BarePublications {
		clear(frame[40:48])
		clear(frame[80:112])
	}
	return frame
}

// serviceFrame makes a frame as the service makes a channel_closed: the header
// ends before PayloadType, and the type is padded with NULs (agent_message.go in
// mmmorris1975/ssm-session-client, which works with the live service). For
// start_publication that is inferred: bertrandmartel/aws-ssm-session knows it by
// a PayloadType of 17 (examples/node/app.js), which would be the PayloadLength in
// that place, of a payload that repeats the type. For pause_publication it is a
// guess.
func serviceFrame(t ssmstream.MessageType, id ssmstream.UUID, now time.Time, payload []byte) []byte {
	m := ssmstream.Message{Type: t, CreatedDate: uint64(now.UnixMilli()), ID: id, Payload: payload}
	frame := m.AppendTo(nil)
	clear(frame[4+len(t) : 36])
	binary.BigEndian.PutUint32(frame, 112)
	return slices.Delete(frame, 112, 116)
}

func (s *session) closedFrame(words string) []byte {
	id := ssmstream.NewUUID()
	now := time.Now()
	payload, err := json.Marshal(ssmstream.ChannelClosedPayload{
		MessageType:   string(ssmstream.ChannelClosed),
		MessageID:     id.String(),
		CreatedDate:   now.UTC().Format(time.RFC3339),
		DestinationID: s.target,
		SessionID:     s.id,
		SchemaVersion: 1,
		Output:        words,
	})
	if err != nil {
		panic(fmt.Sprintf("ssmtest: %v", err)) // strings and a number
	}
	return serviceFrame(ssmstream.ChannelClosed, id, now, payload)
}
