package ssmtest

import (
	"bufio"
	"encoding/json"
	"io"
	"net"
	"net/http"
	"slices"
	"strings"
	"sync"
	"sync/atomic"
	"time"

	"github.com/gorilla/websocket"

	"ssmproxy/ssmstream"
)

const (
	openTimeout    = 30 * time.Second // for the first frame
	quietTimeout   = 10 * time.Minute // without a frame or ping, as API Gateway has it
	maxFrame       = 128 << 10        // of any client's, as API Gateway has it
	toAgentBuffer  = 1 << 20          // bytes between gateway and agent
	toClientBuffer = 256 << 10        // bytes between agent and the websocket
)

// channel is one data channel: a client's websocket.
type channel struct {
	sess   *session
	conn   *linkConn // the TCP connection, for faults
	ws     *websocket.Conn
	batch  *batchConn
	out    *mailbox // frames for the client
	signed bool

	cutWhenSent atomic.Bool // by a fault, which seals out
}

// serveDataChannel is the upgrade and, in the same goroutine, the reading end
// of the websocket that comes of it.
func (s *Server) serveDataChannel(w http.ResponseWriter, r *http.Request) {
	s.wg.Add(1)
	defer s.wg.Done()
	sess := s.session(r.PathValue("id"))
	if sess == nil || sess.isEnded() {
		http.Error(w, `{"message":"Not Found"}`, http.StatusNotFound)
		return
	}
	granted, outdated := sess.granted(r.URL.RequestURI())
	if !granted {
		s.log.Warn("StreamUrl was not dialled as granted", "got", r.URL.RequestURI())
		http.Error(w, `{"message":"Bad Request"}`, http.StatusBadRequest)
		return
	}
	if outdated {
		s.count.change(func(st *Stats) { st.OutdatedURLs++ })
	}
	signed, refusal := s.checkUpgrade(r)
	if refusal != nil {
		s.log.Debug("upgrade refused", "signed", signed, "code", refusal.Code)
		s.count.change(func(st *Stats) {
			if signed {
				st.RefusedSigned++
			} else {
				st.RefusedBare++
			}
		})
		w.Header().Set("Content-Type", "application/json")
		w.Header().Set("X-Amzn-Errortype", refusal.Code)
		w.WriteHeader(s.cfg.RefusalStatus)
		json.NewEncoder(w).Encode(map[string]string{"message": refusal.Message})
		return
	}
	c := &channel{
		sess:   sess,
		conn:   r.Context().Value(connKey{}).(*linkConn),
		out:    newMailbox(toClientBuffer),
		signed: signed,
	}
	h := &batchingHijacker{ResponseWriter: w}
	upgrader := websocket.Upgrader{ReadBufferSize: 32 << 10, WriteBufferSize: 4 << 10}
	ws, err := upgrader.Upgrade(h, r, nil)
	if err != nil {
		s.log.Debug("upgrade failed", "error", err)
		return
	}
	c.ws, c.batch = ws, h.batch
	defer c.batch.Conn.Close()
	c.serve()
}

// checkUpgrade verifies the upgrade's signature, and that the caller may open a
// data channel.
func (s *Server) checkUpgrade(r *http.Request) (signed bool, refusal *CallError) {
	sig, err := parseSignature(r)
	if err != nil {
		return true, err
	}
	if sig == nil {
		if s.cfg.RefuseUnsigned || s.cfg.PresignedURL {
			return false, errNoSignature
		}
		s.count.change(func(st *Stats) { st.Unsigned++ })
		return false, nil
	}
	presigned := sig.expires > 0
	if presigned && r.Header.Get("Authorization") != "" {
		return true, &CallError{Code: "InvalidSignatureException", Message: "Only one auth mechanism allowed"}
	}
	if _, err := sig.verify(r, nil, "ssmmessages", s.cfg.Regions, &s.keys); err != nil {
		return true, err
	}
	if !presigned && (s.cfg.RefuseSigned || slices.Contains(s.cfg.Denied, "ssmmessages:OpenDataChannel")) {
		return true, denied("ssmmessages:OpenDataChannel", "arn:aws:ssm:"+sig.region+":"+accountID+":session/"+r.PathValue("id"))
	}
	s.count.change(func(st *Stats) {
		if presigned {
			st.Presigned++
		} else {
			st.SignedUpgrades++
		}
	})
	return true, nil
}

// serve reads until the websocket ends.
func (c *channel) serve() {
	s := c.sess.srv
	if c.batch.flush() != nil {
		return
	}
	c.ws.SetReadLimit(maxFrame)
	c.ws.SetPingHandler(func(data string) error {
		s.count.pings.Add(1)
		err := c.ws.WriteControl(websocket.PongMessage, []byte(data), time.Now().Add(time.Second))
		c.batch.flush()
		return err
	})
	if !c.open() {
		c.ws.WriteControl(websocket.CloseMessage, websocket.FormatCloseMessage(websocket.ClosePolicyViolation, ""), time.Now().Add(time.Second))
		c.batch.flush()
		return
	}
	s.count.change(func(st *Stats) {
		st.OpenChannels++
		st.MaxChannels = max(st.MaxChannels, st.OpenChannels)
	})
	written := make(chan struct{})
	s.wg.Go(func() { // the writing end: sends what is in c.out
		defer close(written)
		c.write()
	})
	c.sess.attach(c)
	err := c.read()
	s.log.Debug("data channel gone", "session", c.sess.id, "error", err)
	c.sess.detach(c)
	c.out.close()
	c.batch.Conn.Close()
	<-written
	s.count.change(func(st *Stats) { st.OpenChannels-- })
}

// open reads and checks the first frame.
func (c *channel) open() bool {
	s := c.sess.srv
	c.ws.SetReadDeadline(time.Now().Add(openTimeout))
	kind, data, err := c.ws.ReadMessage()
	if err != nil {
		return false
	}
	var hello ssmstream.OpenDataChannel
	problem := ""
	if kind != websocket.TextMessage {
		problem = "not a text frame"
	} else if err := json.Unmarshal(data, &hello); err != nil {
		problem = "malformed JSON"
	} else {
		problem = s.checkOpening(hello)
	}
	if problem != "" {
		s.log.Warn("data channel not opened", "problem", problem)
		s.count.change(func(st *Stats) { st.BadOpenings++ })
		return false
	}
	resumed, ok := c.sess.spend(hello.TokenValue)
	s.count.change(func(st *Stats) {
		switch {
		case !ok:
			st.WrongTokens++
		case resumed:
			st.Opened++
			st.Resumed++
		default:
			st.Opened++
		}
	})
	return ok
}

func (s *Server) checkOpening(hello ssmstream.OpenDataChannel) (problem string) {
	if hello.MessageSchemaVersion != "1.0" {
		return "MessageSchemaVersion is not 1.0"
	}
	if _, err := ssmstream.ParseUUID(hello.RequestID); err != nil {
		return "RequestId is not a UUID"
	}
	least := s.cfg.MinClientVersion
	if hello.ClientID == "" && hello.ClientVersion == "" && least == "" {
		return ""
	}
	if _, err := ssmstream.ParseUUID(hello.ClientID); err != nil {
		return "ClientId is not a UUID"
	}
	version, err := parseVersion(hello.ClientVersion)
	if err != nil {
		return "ClientVersion is not a dotted number"
	}
	if least != "" {
		if v, err := parseVersion(least); err != nil || slices.Compare(version, v) < 0 {
			return "ClientVersion is below " + least
		}
	}
	return ""
}

func (c *channel) read() error {
	var buf []byte
	var extended time.Time // when the read deadline was last set
	for {
		if now := time.Now(); now.Sub(extended) > quietTimeout/10 {
			c.ws.SetReadDeadline(now.Add(quietTimeout))
			extended = now
		}
		kind, r, err := c.ws.NextReader()
		if err != nil {
			return err
		}
		if buf, err = readAll(r, buf[:0]); err != nil {
			return err
		}
		if kind != websocket.BinaryMessage {
			c.sess.srv.log.Warn("text frame after the first", "session", c.sess.id)
			return nil
		}
		c.sess.relay(ToAgent, buf)
	}
}

// readAll is io.ReadAll into a buffer that is kept.
func readAll(r io.Reader, buf []byte) ([]byte, error) {
	for {
		if len(buf) == cap(buf) {
			buf = slices.Grow(buf, 4<<10)
		}
		n, err := r.Read(buf[len(buf):cap(buf)])
		buf = buf[:len(buf)+n]
		if err == io.EOF {
			return buf, nil
		}
		if err != nil {
			return buf, err
		}
	}
}

// write sends what the mailbox has until it is sealed, then closes the
// websocket the way that was asked for.
func (c *channel) write() {
	var batch []byte
	for {
		var ok bool
		if batch, ok = c.out.take(batch); !ok {
			break
		}
		for frame := range frames(batch) {
			if c.ws.WriteMessage(websocket.BinaryMessage, frame) != nil {
				c.out.close()
				c.conn.cut()
				return
			}
		}
		if c.batch.flush() != nil {
			c.out.close()
			c.conn.cut()
			return
		}
	}
	if c.cutWhenSent.Load() {
		c.cut()
		return
	}
	c.ws.WriteControl(websocket.CloseMessage, websocket.FormatCloseMessage(websocket.CloseNormalClosure, ""), time.Now().Add(time.Second))
	c.batch.flush()
	c.batch.Conn.Close()
}

// cut breaks the TCP connection with all that is on its way.
func (c *channel) cut() {
	c.sess.srv.count.change(func(st *Stats) { st.Cuts++ })
	c.conn.cut()
}

// batchConn gathers what is written until flush, so that frames that are ready
// together leave in one TLS record and one system call.
type batchConn struct {
	net.Conn
	mu  sync.Mutex
	buf []byte
}

const batchSize = 16 << 10 // a TLS record's

func (b *batchConn) Write(p []byte) (int, error) {
	b.mu.Lock()
	defer b.mu.Unlock()
	if len(b.buf)+len(p) > batchSize {
		if err := b.flushLocked(); err != nil {
			return 0, err
		}
	}
	b.buf = append(b.buf, p...)
	return len(p), nil
}

func (b *batchConn) flush() error {
	b.mu.Lock()
	defer b.mu.Unlock()
	return b.flushLocked()
}

func (b *batchConn) flushLocked() error {
	if len(b.buf) == 0 {
		return nil
	}
	_, err := b.Conn.Write(b.buf)
	b.buf = b.buf[:0]
	return err
}

// SetWriteDeadline does nothing: gorilla sets one for each write, which here
// only gathers.
func (b *batchConn) SetWriteDeadline(time.Time) error { return nil }

// batchingHijacker gives gorilla's Upgrader a batchConn.
type batchingHijacker struct {
	http.ResponseWriter
	batch *batchConn
}

func (h *batchingHijacker) Hijack() (net.Conn, *bufio.ReadWriter, error) {
	conn, rw, err := http.NewResponseController(h.ResponseWriter).Hijack()
	if err != nil {
		return nil, nil, err
	}
	h.batch = &batchConn{Conn: conn}
	return h.batch, rw, nil
}

// denied is an AccessDeniedException in IAM's words.
func denied(action, resource string) *CallError {
	return &CallError{Code: "AccessDeniedException", Message: strings.Join([]string{
		"User:", callerARN, "is not authorized to perform:", action, "on resource:", resource,
		"because no identity-based policy allows the", action, "action",
	}, " ")}
}
