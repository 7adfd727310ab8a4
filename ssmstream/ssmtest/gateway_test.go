package ssmtest

import (
	"bytes"
	"context"
	"crypto/sha256"
	"encoding/binary"
	"errors"
	"io"
	"net"
	"net/http"
	"strings"
	"testing"
	"time"

	"github.com/gorilla/websocket"

	"ssmproxy/ssmstream"
)

func TestUpgradeSignatures(t *testing.T) {
	t.Parallel()
	wrong := func(change func(*Credentials)) func(*Server) ssmstream.Signer {
		return func(s *Server) ssmstream.Signer {
			c := s.Credentials()
			change(&c)
			return fixedSigner{c, "ssmmessages", s.Region()}
		}
	}
	for name, test := range map[string]struct {
		cfg    Config
		signer func(*Server) ssmstream.Signer // nil: unsigned
		status int                            // 0: accepted
	}{
		"signed":                        {signer: (*Server).Signer},
		"signed by the SDK":             {signer: func(s *Server) ssmstream.Signer { return sdkSigner{s} }},
		"unsigned":                      {},
		"unsigned, refused":             {cfg: Config{RefuseUnsigned: true}, status: 403},
		"unsigned, refused with 401":    {cfg: Config{RefuseUnsigned: true, RefusalStatus: 401}, status: 401},
		"signed where only those may":   {cfg: Config{RefuseUnsigned: true}, signer: (*Server).Signer},
		"signed, refused":               {cfg: Config{RefuseSigned: true}, signer: (*Server).Signer, status: 403},
		"unsigned where signed may not": {cfg: Config{RefuseSigned: true}},
		"denied":                        {cfg: Config{Denied: []string{"ssmmessages:OpenDataChannel"}}, signer: (*Server).Signer, status: 403},
		"wrong secret":                  {signer: wrong(func(c *Credentials) { c.SecretAccessKey = "x" }), status: 403},
		"wrong token":                   {signer: wrong(func(c *Credentials) { c.SessionToken = "x" }), status: 403},
		"wrong service": {signer: func(s *Server) ssmstream.Signer {
			return fixedSigner{s.Credentials(), "ssm", s.Region()}
		}, status: 403},
		"wrong region": {signer: func(s *Server) ssmstream.Signer {
			return fixedSigner{s.Credentials(), "ssmmessages", "us-east-1"}
		}, status: 403},
		"presigned":               {cfg: Config{PresignedURL: true}},
		"presigned, and signed":   {cfg: Config{PresignedURL: true}, signer: (*Server).Signer, status: 403},
		"presigned, policy lacks": {cfg: Config{PresignedURL: true, RefuseSigned: true}},
	} {
		t.Run(name, func(t *testing.T) {
			t.Parallel()
			s := newServer(t, test.cfg)
			_, g := s.StartSession(target)
			var signer ssmstream.Signer
			if test.signer != nil {
				signer = test.signer(s)
			}
			c, response, err := tryDial(t, s, g, signer)
			if test.status != 0 {
				if err == nil || response == nil || response.StatusCode != test.status {
					t.Fatalf("answered %+v, %v", response, err)
				}
				st := s.Stats()
				if bare := signer == nil; (st.RefusedBare == 1) != bare || (st.RefusedSigned == 1) == bare {
					t.Errorf("stats %+v", st)
				}
				return
			}
			if err != nil {
				t.Fatal(err)
			}
			c.awaitPayload(ssmstream.PayloadHandshakeRequest)
		})
	}
}

type fixedSigner struct {
	c               Credentials
	service, region string
}

func (f fixedSigner) SignUpgrade(_ context.Context, r *http.Request) error {
	signRequest(r, nil, f.service, f.region, f.c)
	return nil
}

func TestExpiredCredentialsCutAndRefuse(t *testing.T) {
	t.Parallel()
	s := newServer(t, Config{SSHAddr: listen(t, greet)})
	id, g := s.StartSession(target)
	old := s.Credentials()
	c := dial(t, s, g)
	c.await(ssmstream.StartPublication)
	s.ExpireCredentials()
	for {
		if _, err := c.receive(); err != nil {
			break
		}
	}
	if _, err := s.Resumer(id).ResumeSession(t.Context()); !ssmstream.IsPermanent(err) {
		t.Errorf("resume with expired credentials: %v", err)
	}
	s.RenewCredentials()
	g, err := s.Resumer(id).ResumeSession(t.Context())
	if err != nil {
		t.Fatal(err)
	}
	if _, response, err := tryDial(t, s, g, fixedSigner{old, "ssmmessages", s.Region()}); err == nil || response.StatusCode != 403 {
		t.Errorf("upgrade with expired credentials: %v", err)
	}
	dial(t, s, g).await(ssmstream.StartPublication)
}

func TestTokenOpensOneChannel(t *testing.T) {
	t.Parallel()
	s := newServer(t, Config{})
	_, g := s.StartSession(target)
	dial(t, s, g).await(ssmstream.StartPublication)
	for _, token := range []string{g.Token, "wrong", ""} {
		c := dial(t, s, ssmstream.Grant{StreamURL: g.StreamURL, Token: token})
		if m, err := c.receive(); err == nil {
			t.Errorf("token %.5q: received %+v", token, m)
		}
	}
	if st := s.Stats(); st.WrongTokens != 3 || st.Opened != 1 {
		t.Errorf("stats %+v", st)
	}
}

func TestExpiredTokenClosesTheChannel(t *testing.T) {
	t.Parallel()
	s := newServer(t, Config{SSHAddr: listen(t, greet)})
	id, g := s.StartSession(target)
	s.RejectTokens(1)
	for range 2 { // the second time it is spent
		c := dial(t, s, g)
		if _, _, err := c.ws.ReadMessage(); !websocket.IsCloseError(err, websocket.ClosePolicyViolation) {
			t.Errorf("an expired token: %v", err)
		}
	}
	g, err := s.Resumer(id).ResumeSession(t.Context())
	if err != nil {
		t.Fatal(err)
	}
	dial(t, s, g).await(ssmstream.StartPublication)
	if st := s.Stats(); st.WrongTokens != 2 || st.Opened != 1 {
		t.Errorf("stats %+v", st)
	}
}

func TestFirstFrameIsChecked(t *testing.T) {
	t.Parallel()
	const id = "0a1b2c3d-4e5f-4a6b-8c7d-9e0f1a2b3c4d"
	for name, test := range map[string]struct {
		kind  int
		frame string
	}{
		"binary":         {websocket.BinaryMessage, `{"MessageSchemaVersion":"1.0","RequestId":"` + id + `","TokenValue":"TOKEN","ClientId":"` + id + `","ClientVersion":"1.2.764.0"}`},
		"no JSON":        {websocket.TextMessage, `hello`},
		"schema":         {websocket.TextMessage, `{"MessageSchemaVersion":"2.0","RequestId":"` + id + `","TokenValue":"TOKEN","ClientId":"` + id + `","ClientVersion":"1.2.764.0"}`},
		"request ID":     {websocket.TextMessage, `{"MessageSchemaVersion":"1.0","RequestId":"1","TokenValue":"TOKEN","ClientId":"` + id + `","ClientVersion":"1.2.764.0"}`},
		"client ID":      {websocket.TextMessage, `{"MessageSchemaVersion":"1.0","RequestId":"` + id + `","TokenValue":"TOKEN","ClientVersion":"1.2.764.0"}`},
		"no version":     {websocket.TextMessage, `{"MessageSchemaVersion":"1.0","RequestId":"` + id + `","TokenValue":"TOKEN","ClientId":"` + id + `","ClientVersion":"v1"}`},
		"version is old": {websocket.TextMessage, `{"MessageSchemaVersion":"1.0","RequestId":"` + id + `","TokenValue":"TOKEN","ClientId":"` + id + `","ClientVersion":"1.2.763.9"}`},
	} {
		t.Run(name, func(t *testing.T) {
			t.Parallel()
			s := newServer(t, Config{MinClientVersion: "1.2.764.0"})
			_, g := s.StartSession(target)
			d := websocket.Dialer{NetDialTLSContext: s.DialTLS}
			ws, _, err := d.DialContext(t.Context(), g.StreamURL, nil)
			if err != nil {
				t.Fatal(err)
			}
			defer ws.Close()
			if err := ws.WriteMessage(test.kind, []byte(strings.Replace(test.frame, "TOKEN", g.Token, 1))); err != nil {
				t.Fatal(err)
			}
			if _, _, err := ws.ReadMessage(); err == nil {
				t.Error("accepted")
			}
			eventually(t, func() bool { return s.Stats().BadOpenings == 1 })
		})
	}
}

func TestStreamURLIsDialledAsGranted(t *testing.T) {
	t.Parallel()
	s := newServer(t, Config{})
	_, g := s.StartSession(target)
	g.StreamURL = strings.ReplaceAll(g.StreamURL, "+", "%2B")
	if _, response, err := tryDial(t, s, g, s.Signer()); err == nil || response.StatusCode != http.StatusBadRequest {
		t.Errorf("answered %+v", response)
	}
}

// Clients in use open a channel with no more than this, check the digest of
// everything, and acknowledge everything, whatever its type.
func TestPlainClientIsServed(t *testing.T) {
	t.Parallel()
	s := newServer(t, Config{SSHAddr: listen(t, greet)})
	_, g := s.StartSession(target)
	d := websocket.Dialer{NetDialTLSContext: s.DialTLS}
	ws, _, err := d.DialContext(t.Context(), g.StreamURL, nil)
	if err != nil {
		t.Fatal(err)
	}
	c := &client{t: t, ws: ws, seen: make(map[int64]bool)}
	defer ws.Close()
	hello := `{"MessageSchemaVersion":"1.0","RequestId":"` + ssmstream.NewUUID().String() + `","TokenValue":"` + g.Token + `"}`
	if err := ws.WriteMessage(websocket.TextMessage, []byte(hello)); err != nil {
		t.Fatal(err)
	}
	_, frame, err := ws.ReadMessage()
	if err != nil {
		t.Fatal(err)
	}
	if digest := sha256.Sum256(frame[116:]); !bytes.HasPrefix(frame[4:], []byte("start_publication\x00")) || !bytes.Equal(frame[80:112], digest[:]) {
		t.Errorf("frame %x", frame)
	}
	var start ssmstream.Message
	if err := start.Decode(frame); err != nil {
		t.Fatal(err)
	}
	c.acknowledge(&start, ssmstream.FlagSYN|ssmstream.FlagFIN)
	c.handshake()
	if got := c.awaitBytes(len(greeting)); got != greeting {
		t.Errorf("got %q", got)
	}
}

func TestFramesOfTheServiceHaveNoPayloadType(t *testing.T) {
	t.Parallel()
	s := newServer(t, Config{})
	_, g := s.StartSession(target)
	c := dial(t, s, g)
	for _, kind := range []string{"start_publication", "channel_closed"} {
		for {
			_, frame, err := c.ws.ReadMessage()
			if err != nil {
				t.Fatal(err)
			}
			if !bytes.HasPrefix(frame[4:], []byte(kind+"\x00")) {
				continue // the agent's
			}
			if header, length := binary.BigEndian.Uint32(frame), binary.BigEndian.Uint32(frame[112:]); header != 112 || int(length) != len(frame)-116 {
				t.Errorf("%s: header of %d bytes, payload of %d", kind, header, length)
			}
			break
		}
		s.CloseSessions("gone")
	}
}

// AWS's own client never takes another StreamUrl than its first.
func TestFirstStreamURLStaysGood(t *testing.T) {
	t.Parallel()
	s := newServer(t, Config{})
	id, first := s.StartSession(target)
	dial(t, s, first).await(ssmstream.StartPublication)
	for range 2 {
		g, err := s.Resumer(id).ResumeSession(t.Context())
		if err != nil {
			t.Fatal(err)
		}
		g.StreamURL = first.StreamURL
		dial(t, s, g).await(ssmstream.StartPublication)
	}
	if st := s.Stats(); st.OutdatedURLs != 2 || st.Resumed != 2 {
		t.Errorf("stats %+v", st)
	}
}

func TestBarePublicationsHaveNoDigestAndNoDate(t *testing.T) {
	t.Parallel()
	s := newServer(t, Config{BarePublications: true})
	_, g := s.StartSession(target)
	c := dial(t, s, g)
	_, frame, err := c.ws.ReadMessage()
	if err != nil {
		t.Fatal(err)
	}
	if !bytes.HasPrefix(frame[4:], []byte("start_publication\x00")) || !bytes.Equal(frame[80:112], make([]byte, 32)) || !bytes.Equal(frame[40:48], make([]byte, 8)) {
		t.Errorf("frame %x", frame)
	}
}

func TestTextFrameAfterTheFirstEndsTheChannel(t *testing.T) {
	t.Parallel()
	s := newServer(t, Config{})
	c := open(t, s)
	c.await(ssmstream.StartPublication)
	c.open("again")
	for {
		if _, err := c.receive(); err != nil {
			break
		}
	}
	if n := len(s.OpenSessions()); n != 1 {
		t.Errorf("%d sessions open", n)
	}
}

func TestPingsAreAnswered(t *testing.T) {
	t.Parallel()
	s := newServer(t, Config{MuteAgent: true})
	c := open(t, s)
	got := make(chan string, 1)
	c.ws.SetPongHandler(func(data string) error { got <- data; return errors.New("enough") })
	if err := c.ws.WriteControl(websocket.PingMessage, []byte("there?"), time.Now().Add(patience)); err != nil {
		t.Fatal(err)
	}
	for {
		if _, err := c.receive(); err != nil {
			break
		}
	}
	if data := <-got; data != "there?" {
		t.Errorf("pong %q", data)
	}
}

func TestSessionGoesOnAfterResume(t *testing.T) {
	t.Parallel()
	speak := make(chan struct{})
	s := newServer(t, Config{SSHAddr: listen(t, func(c net.Conn) {
		io.WriteString(c, greeting)
		<-speak
		io.WriteString(c, "while you were away")
		io.Copy(c, c)
	})})
	id, g := s.StartSession(target)
	first := dial(t, s, g)
	first.handshake()
	first.awaitBytes(len(greeting))
	settled(t, s)
	s.CutAll()
	for {
		if _, err := first.receive(); err != nil {
			break
		}
	}
	eventually(t, func() bool { return s.Stats().OpenChannels == 0 })
	close(speak)

	g, err := s.Resumer(id).ResumeSession(t.Context())
	if err != nil {
		t.Fatal(err)
	}
	c := dial(t, s, g)
	c.next = first.next
	c.await(ssmstream.StartPublication)
	if got := c.awaitBytes(19); got != "while you were away" {
		t.Errorf("output %q", got)
	}
	c.send(ssmstream.PayloadOutput, []byte("back"))
	if got := c.awaitBytes(4); got != "back" {
		t.Errorf("echo %q", got)
	}
	if st := s.Stats(); st.Resumed != 1 || st.Cuts != 1 {
		t.Errorf("stats %+v", st)
	}
}

func TestNewChannelTakesTheOldOnesPlace(t *testing.T) {
	t.Parallel()
	s := newServer(t, Config{SSHAddr: listen(t, greet)})
	id, g := s.StartSession(target)
	old := dial(t, s, g)
	old.handshake()
	old.awaitBytes(len(greeting))
	settled(t, s)
	g, err := s.Resumer(id).ResumeSession(t.Context())
	if err != nil {
		t.Fatal(err)
	}
	c := dial(t, s, g)
	c.next = old.next
	c.await(ssmstream.StartPublication)
	for {
		if _, err := old.receive(); err != nil {
			break
		}
	}
	c.send(ssmstream.PayloadOutput, []byte("mine"))
	if got := c.awaitBytes(4); got != "mine" {
		t.Errorf("echo %q", got)
	}
}

func TestPresignedSessionCannotBeResumed(t *testing.T) {
	t.Parallel()
	s := newServer(t, Config{PresignedURL: true})
	id, _ := s.StartSession(target)
	if _, err := s.Resumer(id).ResumeSession(t.Context()); !errors.Is(err, ssmstream.ErrSessionOver) {
		t.Errorf("resume: %v", err)
	}
}

func TestIdleSessionIsEnded(t *testing.T) {
	t.Parallel()
	s := newServer(t, Config{MuteAgent: true, IdleTimeout: time.Second})
	c := open(t, s)
	if words := c.closedWords(); !strings.Contains(words, "inactivity") {
		t.Errorf("closed with %q", words)
	}
	idle(t, s)
	if n := s.Stats().Ended[CauseIdle]; n != 1 {
		t.Errorf("%d ended for idleness", n)
	}
}

func TestSessionOutlivesItsClient(t *testing.T) {
	t.Parallel()
	s := newServer(t, Config{SSHAddr: listen(t, greet)})
	c := ready(t, s)
	c.ws.Close()
	eventually(t, func() bool { return s.Stats().OpenChannels == 0 })
	ctx, cancel := context.WithTimeout(t.Context(), 20*time.Millisecond)
	defer cancel()
	if err := s.WaitIdle(ctx); !errors.Is(err, context.DeadlineExceeded) || !strings.Contains(err.Error(), s.OpenSessions()[0]) {
		t.Errorf("WaitIdle: %v", err)
	}
}
