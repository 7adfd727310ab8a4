package ssmtest

import (
	"bytes"
	"context"
	"crypto/tls"
	"encoding/binary"
	"encoding/json"
	"io"
	"net"
	"net/http"
	"testing"
	"time"

	"github.com/gorilla/websocket"
	"go.uber.org/goleak"

	"ssmproxy/ssmstream"
)

func TestMain(m *testing.M) { goleak.VerifyTestMain(m) }

const patience = 20 * time.Second // after which a test gives up

// newServer is NewServer with the end of the test as its own, and the seed in
// the log of a test that fails.
func newServer(t testing.TB, cfg Config) *Server {
	t.Helper()
	s := NewServer(cfg)
	t.Cleanup(func() {
		if t.Failed() {
			t.Logf("seed %d, stats %+v", s.Seed(), s.Stats())
		}
		s.Close()
	})
	return s
}

// client is a data channel's client that does only what it is told to.
type client struct {
	t    testing.TB
	ws   *websocket.Conn
	next int64 // number of its next stream message

	seen map[int64]bool // numbers of the output that await has seen
	data []byte         // port data that await has seen and awaitBytes not taken
}

// dial opens a data channel, signed, and returns what the upgrade was answered
// with.
func dial(t testing.TB, s *Server, g ssmstream.Grant) *client {
	t.Helper()
	c, response, err := tryDial(t, s, g, s.Signer())
	if err != nil {
		t.Fatalf("dial: %v (%+v)", err, response)
	}
	return c
}

func tryDial(t testing.TB, s *Server, g ssmstream.Grant, signer ssmstream.Signer) (*client, *http.Response, error) {
	t.Helper()
	header := http.Header{}
	if signer != nil {
		r, err := http.NewRequest(http.MethodGet, g.StreamURL, nil)
		if err != nil {
			t.Fatal(err)
		}
		if err := signer.SignUpgrade(t.Context(), r); err != nil {
			t.Fatal(err)
		}
		header = r.Header
	}
	d := websocket.Dialer{TLSClientConfig: &tls.Config{RootCAs: s.CACertPool()}}
	ws, response, err := d.DialContext(t.Context(), g.StreamURL, header)
	if err != nil {
		return nil, response, err
	}
	t.Cleanup(func() { ws.Close() })
	c := &client{t: t, ws: ws, seen: make(map[int64]bool)}
	c.open(g.Token)
	return c, response, nil
}

func (c *client) open(token string) {
	c.t.Helper()
	hello, err := json.Marshal(ssmstream.OpenDataChannel{
		MessageSchemaVersion: "1.0",
		RequestID:            ssmstream.NewUUID().String(),
		TokenValue:           token,
		ClientID:             ssmstream.NewUUID().String(),
		ClientVersion:        ssmstream.ClientVersion,
	})
	if err != nil {
		c.t.Fatal(err)
	}
	if err := c.ws.WriteMessage(websocket.TextMessage, hello); err != nil {
		c.t.Fatal(err)
	}
}

func (c *client) write(m *ssmstream.Message) {
	c.t.Helper()
	if err := c.ws.WriteMessage(websocket.BinaryMessage, m.AppendTo(nil)); err != nil {
		c.t.Fatalf("write: %v", err)
	}
}

func input(seq int64, t ssmstream.PayloadType, payload []byte) *ssmstream.Message {
	return &ssmstream.Message{
		Type:           ssmstream.InputStreamData,
		CreatedDate:    uint64(time.Now().UnixMilli()),
		SequenceNumber: seq,
		ID:             ssmstream.NewUUID(),
		PayloadType:    t,
		Payload:        payload,
	}
}

// send sends the next stream message and returns its number.
func (c *client) send(t ssmstream.PayloadType, payload []byte) int64 {
	c.t.Helper()
	c.write(input(c.next, t, payload))
	c.next++
	return c.next - 1
}

// acknowledge does not mind a channel that has ended meanwhile.
func (c *client) acknowledge(m *ssmstream.Message, flags uint64) {
	c.t.Helper()
	payload, err := json.Marshal(ssmstream.Acknowledgement{
		MessageType: m.Type, MessageID: m.ID.String(), SequenceNumber: m.SequenceNumber, IsSequentialMessage: true,
	})
	if err != nil {
		c.t.Fatal(err)
	}
	ack := ssmstream.Message{
		Type: ssmstream.Acknowledge, CreatedDate: uint64(time.Now().UnixMilli()), Flags: flags,
		ID: ssmstream.NewUUID(), Payload: payload,
	}
	c.ws.WriteMessage(websocket.BinaryMessage, ack.AppendTo(nil))
}

// receive returns the next message, whatever it is.
func (c *client) receive() (*ssmstream.Message, error) {
	c.ws.SetReadDeadline(time.Now().Add(patience))
	_, frame, err := c.ws.ReadMessage()
	if err != nil {
		return nil, err
	}
	m := new(ssmstream.Message)
	if err := m.Decode(frame); err != nil {
		c.t.Fatalf("received: %v", err)
	}
	return m, nil
}

// await returns the next message of a type. Output is acknowledged, taken once
// and, if it is the port's, kept for awaitBytes.
func (c *client) await(want ssmstream.MessageType) *ssmstream.Message {
	c.t.Helper()
	for {
		m, err := c.receive()
		if err != nil {
			c.t.Fatalf("waiting for %s: %v", want, err)
		}
		if m.Type == ssmstream.OutputStreamData {
			c.acknowledge(m, 3)
			if c.seen[m.SequenceNumber] {
				continue
			}
			c.seen[m.SequenceNumber] = true
			if m.PayloadType == ssmstream.PayloadOutput {
				c.data = append(c.data, m.Payload...)
			}
		}
		if m.Type == want {
			return m
		}
	}
}

// awaitBytes returns the next n bytes of the port.
func (c *client) awaitBytes(n int) string {
	c.t.Helper()
	for len(c.data) < n {
		c.await(ssmstream.OutputStreamData)
	}
	got := string(c.data[:n])
	c.data = c.data[n:]
	return got
}

// awaitPayload is await for a stream message with a payload type.
func (c *client) awaitPayload(want ssmstream.PayloadType) *ssmstream.Message {
	c.t.Helper()
	for {
		if m := c.await(ssmstream.OutputStreamData); m.PayloadType == want {
			return m
		}
	}
}

// awaitAck waits for the acknowledgement of message seq.
func (c *client) awaitAck(seq int64) {
	c.t.Helper()
	for {
		if got := ackedBy(c.t, c.await(ssmstream.Acknowledge)); got == seq {
			return
		}
	}
}

func ackedBy(t testing.TB, m *ssmstream.Message) int64 {
	t.Helper()
	var a ssmstream.Acknowledgement
	if err := json.Unmarshal(m.Payload, &a); err != nil {
		t.Fatal(err)
	}
	return a.SequenceNumber
}

func responsePayload(status int) []byte {
	payload, _ := json.Marshal(ssmstream.HandshakeResponse{
		ClientVersion: ssmstream.ClientVersion,
		ProcessedClientActions: []ssmstream.ProcessedClientAction{
			{ActionType: ssmstream.ActionSessionType, ActionStatus: status},
		},
		Errors: []string{},
	})
	return payload
}

// handshake goes through to HandshakeComplete.
func (c *client) handshake() {
	c.t.Helper()
	c.awaitPayload(ssmstream.PayloadHandshakeRequest)
	c.send(ssmstream.PayloadHandshakeResponse, responsePayload(ssmstream.ActionSuccess))
	c.awaitPayload(ssmstream.PayloadHandshakeComplete)
}

func flag(value uint32) []byte { return binary.BigEndian.AppendUint32(nil, value) }

// listen serves each connection to a port of the test's own with f.
func listen(t testing.TB, f func(net.Conn)) (addr string) {
	t.Helper()
	l, err := net.Listen("tcp", "127.0.0.1:0")
	if err != nil {
		t.Fatal(err)
	}
	done := make(chan struct{})
	go func() {
		defer close(done)
		for {
			c, err := l.Accept()
			if err != nil {
				return
			}
			go func() {
				defer c.Close()
				f(c)
			}()
		}
	}()
	t.Cleanup(func() {
		l.Close()
		<-done
	})
	return l.Addr().String()
}

// greet is an SSH server's habit: it speaks first, then this one echoes.
func greet(c net.Conn) {
	io.WriteString(c, greeting)
	io.Copy(c, c)
}

const greeting = "SSH-2.0-test\r\n"

func idle(t testing.TB, s *Server) {
	t.Helper()
	ctx, cancel := context.WithTimeout(context.Background(), patience)
	defer cancel()
	if err := s.WaitIdle(ctx); err != nil {
		t.Fatal(err)
	}
}

func TestSessionEndToEnd(t *testing.T) {
	t.Parallel()
	s := newServer(t, Config{SSHAddr: listen(t, greet)})
	_, g := s.StartSession("i-0123456789abcdef0")
	c := dial(t, s, g)
	c.handshake()
	if got := c.awaitBytes(len(greeting)); got != greeting {
		t.Errorf("greeting %q", got)
	}
	c.send(ssmstream.PayloadOutput, []byte("hello\n"))
	if got := c.awaitBytes(6); got != "hello\n" {
		t.Errorf("echo %q", got)
	}
	c.send(ssmstream.PayloadFlag, flag(ssmstream.FlagTerminateSession))
	if m := c.await(ssmstream.ChannelClosed); !bytes.Contains(m.Payload, []byte(`"Output":""`)) {
		t.Errorf("channel_closed %s", m.Payload)
	}
	idle(t, s)
	if st := s.Stats(); st.Ended[CauseFlag] != 1 || st.SignedUpgrades != 1 || st.EarlyData != 0 {
		t.Errorf("stats %+v", st)
	}
}

func grantOf(url, token *string) ssmstream.Grant {
	return ssmstream.Grant{StreamURL: *url, Token: *token}
}
