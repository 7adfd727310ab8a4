package ssmstream

import (
	"context"
	"encoding/json"
	"errors"
	"fmt"
	"io"
	"net"
	"net/http"
	"net/url"
	"strings"
	"time"

	"github.com/gorilla/websocket"
)

const (
	// maxFrame is the largest frame that is read: far above what any peer
	// sends, and little memory.
	maxFrame = 128 << 10

	// recordSize is what one TLS record carries.
	recordSize = 16 << 10

	// batchSize is how many bytes are enough for one write: with one more
	// message, and its websocket header, they still fit one TLS record.
	batchSize = recordSize - (8 + payloadOffset + MaxPayload)

	// writeTimeout is how long a write may stand still. A connection that
	// takes nothing for so long is as good as dead.
	writeTimeout = 10 * time.Second
)

// channel is one websocket of a stream's life. Its write side belongs to the
// stream's write loop, its read side to its read loop.
type channel struct {
	ws     *websocket.Conn
	out    *coalescer
	frame  []byte // the frame that is being read; reused
	opened time.Time

	// Guarded by Stream.mu:
	heard  bool // anything has come
	proven bool // the agent has been heard
	broken bool // the write loop has left
}

// openChannel dials the grant's URL, upgrades to a websocket and opens the
// data channel. A signed upgrade that is refused with 401 or 403 is tried once
// more unsigned, unless one was accepted before: then it is the credentials
// that the service refuses, and newer ones may do.
func (s *Stream) openChannel(ctx context.Context, g Grant) (*channel, error) {
	u, err := url.Parse(g.StreamURL)
	if err != nil || u.Scheme != "wss" || u.Host == "" {
		return nil, Permanent(errors.New("the service gave a StreamUrl that is not wss"))
	}
	signer := s.cfg.Signer
	if presigned(u) || s.signing == signingRefused {
		signer = nil
	}
	ch, err := s.upgrade(ctx, u, signer)
	switch refused := errors.Is(err, ErrUpgradeRefused); {
	case refused && s.signing == signingUnknown && signer != nil:
		s.log.Info("signed upgrade refused, trying unsigned", "error", err)
		unsigned, unsignedErr := s.upgrade(ctx, u, nil)
		if unsignedErr != nil {
			return nil, Permanent(err)
		}
		ch, s.signing = unsigned, signingRefused
		s.cfg.Notify(NoticeUnsigned, "")
	case refused && s.signing != signingAccepted:
		return nil, Permanent(err)
	case err != nil:
		return nil, err
	case signer != nil:
		s.signing = signingAccepted
	}
	return ch, ch.open(g.Token, s.clientID)
}

// signing is what the service has shown to think of signed upgrades.
type signing int

const (
	signingUnknown signing = iota
	signingAccepted
	signingRefused
)

// presigned tells whether the URL carries its own signature: it is then not
// signed again, and cannot be resumed.
func presigned(u *url.URL) bool {
	for key := range u.Query() {
		if strings.HasPrefix(strings.ToLower(key), "x-amz-") {
			return true
		}
	}
	return false
}

func (s *Stream) upgrade(ctx context.Context, u *url.URL, signer Signer) (*channel, error) {
	header := http.Header{}
	if signer != nil {
		target := *u
		target.Scheme = "https"
		r := &http.Request{Method: http.MethodGet, URL: &target, Host: u.Host, Header: header}
		if err := signer.SignUpgrade(ctx, r.WithContext(ctx)); err != nil {
			return nil, fmt.Errorf("sign the data channel's upgrade: %w", err)
		}
	}
	out := &coalescer{passing: true, batch: make([]byte, 0, recordSize)}
	stop := func() bool { return true }
	dialer := websocket.Dialer{
		NetDialTLSContext: func(_ context.Context, network, addr string) (net.Conn, error) {
			c, err := s.cfg.DialTLS(ctx, network, addr)
			if err != nil {
				return nil, err
			}
			out.Conn = c
			// gorilla heeds a context's deadline, but not its cancellation.
			stop = context.AfterFunc(ctx, out.abort)
			return out, nil
		},
		ReadBufferSize:  recordSize,
		WriteBufferSize: 4 << 10, // one message: gorilla would fragment a longer one
	}
	ws, response, err := dialer.DialContext(ctx, u.String(), header)
	if !stop() && err == nil {
		ws.Close()
		err = ctx.Err()
	}
	if response != nil && err != nil {
		status := response.StatusCode
		if status == http.StatusUnauthorized || status == http.StatusForbidden {
			return nil, fmt.Errorf("%w: %s", ErrUpgradeRefused, response.Status)
		}
		return nil, fmt.Errorf("open the data channel: the service answered %s", response.Status)
	}
	if err != nil {
		return nil, fmt.Errorf("open the data channel: %w", withoutURL(err))
	}
	out.passing = false
	ws.SetReadLimit(maxFrame)
	return &channel{ws: ws, out: out, opened: time.Now()}, nil
}

// withoutURL strips a URL from an error: a presigned one is a credential.
func withoutURL(err error) error {
	var u *url.Error
	if errors.As(err, &u) {
		return u.Err
	}
	return err
}

// open sends the one text frame of a channel, its first.
func (ch *channel) open(token, clientID string) error {
	text, err := json.Marshal(OpenDataChannel{
		MessageSchemaVersion: "1.0",
		RequestID:            NewUUID().String(),
		TokenValue:           token,
		ClientID:             clientID,
		ClientVersion:        ClientVersion,
	})
	if err == nil {
		// The token may be longer than a message: a writer of its own would
		// fragment it, and a fragmented open frame is nothing a gateway knows.
		err = ch.writeUnfragmented(text)
	}
	if err == nil {
		err = ch.out.flush()
	}
	if err != nil {
		ch.close()
		return fmt.Errorf("open the data channel: %w", err)
	}
	return nil
}

func (ch *channel) writeUnfragmented(text []byte) error {
	prepared, err := websocket.NewPreparedMessage(websocket.TextMessage, text)
	if err != nil {
		return err
	}
	return ch.ws.WritePreparedMessage(prepared)
}

// read returns the next binary frame, valid until the next call.
func (ch *channel) read() ([]byte, error) {
	for {
		kind, r, err := ch.ws.NextReader()
		if err != nil {
			return nil, err
		}
		ch.frame = ch.frame[:0]
		for {
			if len(ch.frame) == cap(ch.frame) {
				grown := make([]byte, len(ch.frame), max(4<<10, 2*cap(ch.frame)))
				copy(grown, ch.frame)
				ch.frame = grown
			}
			n, err := r.Read(ch.frame[len(ch.frame):cap(ch.frame)])
			ch.frame = ch.frame[:len(ch.frame)+n]
			if err == io.EOF {
				break
			}
			if err != nil {
				return nil, err
			}
		}
		if kind == websocket.BinaryMessage {
			return ch.frame, nil
		}
	}
}

// write puts one frame into the batch that the next flush sends.
func (ch *channel) write(frame []byte) error {
	return ch.ws.WriteMessage(websocket.BinaryMessage, frame)
}

func (ch *channel) control(kind int, data []byte) error {
	return ch.ws.WriteControl(kind, data, time.Now().Add(writeTimeout))
}

func (ch *channel) close() { ch.out.abort() }

// coalescer is the connection under a websocket. What gorilla writes, one call
// a frame, it collects, so that frames that are ready together leave in one
// TLS record and one system call.
type coalescer struct {
	net.Conn
	passing bool // during the upgrade, nothing is held back
	batch   []byte
}

func (c *coalescer) Write(p []byte) (int, error) {
	if c.passing {
		return c.Conn.Write(p)
	}
	c.batch = append(c.batch, p...)
	return len(p), nil
}

// SetWriteDeadline does nothing once frames are collected: flush sets one.
func (c *coalescer) SetWriteDeadline(t time.Time) error {
	if c.passing {
		return c.Conn.SetWriteDeadline(t)
	}
	return nil
}

func (c *coalescer) flush() error {
	if len(c.batch) == 0 {
		return nil
	}
	if err := c.Conn.SetWriteDeadline(time.Now().Add(writeTimeout)); err != nil {
		return err
	}
	_, err := c.Conn.Write(c.batch)
	c.batch = c.batch[:0]
	return err
}

// abort closes the connection under TLS: a close of TLS itself waits for its
// goodbye to be written, seconds on a connection that takes nothing.
func (c *coalescer) abort() {
	switch conn := c.Conn.(type) {
	case nil:
	case interface{ NetConn() net.Conn }:
		conn.NetConn().Close()
	default:
		conn.Close()
	}
}
