package ssmtest

import (
	"bytes"
	"encoding/hex"
	"encoding/json"
	"io"
	"net"
	"strings"
	"testing"
	"time"

	"github.com/gorilla/websocket"

	"ssmproxy/ssmstream"
)

// A handshake response and the acknowledgement that a real agent gives it, made
// by an independent encoder: Python's struct and hashlib, after the table of
// the protocol. The acknowledgement's date and identity are its agent's.
const (
	goldenResponse = "00000074" + "696e7075745f73747265616d5f64617461202020202020202020202020202020" +
		"00000001" + "0000019b76daa800" + "0000000000000000" + "0000000000000000" +
		"8c7d9e0f1a2b3c4d0a1b2c3d4e5f4a6b" + "93a0a4ed5513b65c9027ee6f89630d26c7ab9ab76f22d7c9bb5d12f557d4153c" +
		"00000006" + "00000091" +
		"7b22436c69656e7456657273696f6e223a22312e322e3839362e30222c2250726f636573736564436c69656e74416374696f6e73223a5b7b22416374696f6e54797065223a2253657373696f6e54797065222c22416374696f6e537461747573223a312c22416374696f6e526573756c74223a6e756c6c2c224572726f72223a22227d5d2c224572726f7273223a5b5d7d"
	goldenAck = "00000074" + "61636b6e6f776c65646765202020202020202020202020202020202020202020" +
		"00000001" + "0000000000000000" + "0000000000000000" + "0000000000000003" +
		"00000000000000000000000000000000" + "2285bba671575a9af3b26378dad9e2cf8053a494ce2832489e344b81c8da92f2" +
		"00000000" + "000000af" +
		"7b2241636b6e6f776c65646765644d65737361676554797065223a22696e7075745f73747265616d5f64617461222c2241636b6e6f776c65646765644d6573736167654964223a2230613162326333642d346535662d346136622d386337642d396530663161326233633464222c2241636b6e6f776c65646765644d65737361676553657175656e63654e756d626572223a302c22497353657175656e7469616c4d657373616765223a747275657d"
)

func TestUUIDText(t *testing.T) {
	t.Parallel()
	id := ssmstream.NewUUID()
	if got := string(appendUUID(nil, id)); got != id.String() {
		t.Errorf("%s is not %s", got, id)
	}
}

// open starts a session against s and opens its data channel.
func open(t testing.TB, s *Server) *client {
	t.Helper()
	_, g := s.StartSession(target)
	return dial(t, s, g)
}

// ready is open through handshake and greeting.
func ready(t testing.TB, s *Server) *client {
	t.Helper()
	c := open(t, s)
	c.handshake()
	if got := c.awaitBytes(len(greeting)); got != greeting {
		t.Fatalf("greeting %q", got)
	}
	return c
}

func TestAcknowledgementGolden(t *testing.T) {
	t.Parallel()
	s := newServer(t, Config{SSHAddr: listen(t, greet)})
	c := open(t, s)
	response, err := hex.DecodeString(goldenResponse)
	if err != nil {
		t.Fatal(err)
	}
	if err := c.ws.WriteMessage(websocket.BinaryMessage, response); err != nil {
		t.Fatal(err)
	}
	for {
		_, frame, err := c.ws.ReadMessage()
		if err != nil {
			t.Fatal(err)
		}
		if !bytes.HasPrefix(frame[4:], []byte("acknowledge")) {
			continue
		}
		clear(frame[40:48]) // CreatedDate
		clear(frame[64:80]) // MessageId
		if got := hex.EncodeToString(frame); got != goldenAck {
			t.Errorf("acknowledgement\n%s\nwant\n%s", got, goldenAck)
		}
		return
	}
}

func TestHandshakeRequestIsTheAgentsFirstMessage(t *testing.T) {
	t.Parallel()
	s := newServer(t, Config{})
	m := open(t, s).awaitPayload(ssmstream.PayloadHandshakeRequest)
	if m.SequenceNumber != 0 || m.Flags != ssmstream.FlagSYN {
		t.Errorf("number %d, flags %d", m.SequenceNumber, m.Flags)
	}
	const want = `{"AgentVersion":"3.3.987.0","RequestedClientActions":[{"ActionType":"SessionType","ActionParameters":{"SessionType":"Port","Properties":{"portNumber":"22","type":""}}}]}`
	if string(m.Payload) != want {
		t.Errorf("payload %s", m.Payload)
	}
}

func TestRefusedHandshakeEndsSession(t *testing.T) {
	t.Parallel()
	for name, test := range map[string]struct {
		cfg     Config
		payload string
		words   string
	}{
		"unsupported": {payload: string(responsePayload(ssmstream.ActionUnsupported)), words: "Encountered error while initiating handshake. SessionType failed on client with status 3 error: "},
		"malformed":   {payload: "{", words: "Encountered error while initiating handshake. unexpected end of JSON input"},
		"no version":  {payload: `{"ClientVersion":"new"}`, words: "Encountered error while initiating handshake. malformed version"},
		"encryption": {
			cfg:     Config{ActionsRequested: []string{ssmstream.ActionKMSEncryption}},
			payload: `{"ClientVersion":"1.2.896.0","ProcessedClientActions":[{"ActionType":"SessionType","ActionStatus":1},{"ActionType":"KMSEncryption","ActionStatus":3,"Error":"no"}]}`,
			words:   "Encountered error while initiating handshake. KMSEncryption failed on client with status 3 error: no",
		},
	} {
		t.Run(name, func(t *testing.T) {
			t.Parallel()
			s := newServer(t, test.cfg)
			c := open(t, s)
			m := c.awaitPayload(ssmstream.PayloadHandshakeRequest)
			for _, action := range test.cfg.ActionsRequested {
				if !strings.Contains(string(m.Payload), `"ActionType":"`+action+`"`) {
					t.Errorf("%s not asked for: %s", action, m.Payload)
				}
			}
			c.send(ssmstream.PayloadHandshakeResponse, []byte(test.payload))
			if got := c.closedWords(); !strings.HasPrefix(got, test.words) {
				t.Errorf("closed with %q", got)
			}
			if n := s.Stats().Ended[CauseHandshake]; n != 1 {
				t.Errorf("%d ended for their handshake", n)
			}
		})
	}
}

// closedWords waits for channel_closed and returns its Output.
func (c *client) closedWords() string {
	c.t.Helper()
	var closed ssmstream.ChannelClosedPayload
	if err := json.Unmarshal(c.await(ssmstream.ChannelClosed).Payload, &closed); err != nil {
		c.t.Fatal(err)
	}
	return closed.Output
}

func TestDataBeforeHandshakeCompleteIsAcknowledgedAndDropped(t *testing.T) {
	t.Parallel()
	s := newServer(t, Config{SSHAddr: listen(t, greet)})
	c := open(t, s)
	c.awaitPayload(ssmstream.PayloadHandshakeRequest)
	c.send(ssmstream.PayloadOutput, []byte("too early"))
	c.awaitAck(0)
	c.send(ssmstream.PayloadHandshakeResponse, responsePayload(ssmstream.ActionSuccess))
	c.awaitPayload(ssmstream.PayloadHandshakeComplete)
	c.awaitBytes(len(greeting))
	c.send(ssmstream.PayloadOutput, []byte("in time"))
	if got := c.awaitBytes(7); got != "in time" {
		t.Errorf("echo %q", got)
	}
	if n := s.Stats().EarlyData; n != 1 {
		t.Errorf("EarlyData %d", n)
	}
}

func TestFirstDataIsLostUntilThePortStands(t *testing.T) {
	t.Parallel()
	s := newServer(t, Config{SSHAddr: listen(t, greet), PortDelay: 200 * time.Millisecond})
	c := open(t, s)
	c.handshake()
	first := input(1, ssmstream.PayloadOutput, []byte("first "))
	c.write(first)
	c.write(input(2, ssmstream.PayloadOutput, []byte("second"))) // ahead of its turn: held and acknowledged
	for {
		m := c.await(ssmstream.Acknowledge)
		if seq := ackedBy(t, m); seq == 1 {
			t.Fatal("acknowledged without a port")
		} else if seq == 2 {
			break
		}
	}
	c.awaitBytes(len(greeting)) // the port stands
	c.write(first)
	if got := c.awaitBytes(len("first second")); got != "first second" {
		t.Errorf("echo %q", got)
	}
	st := s.Stats()
	if st.FirstLost != 1 || st.FirstResends != 1 || st.FirstResend < 0 || st.HeldEarly != 1 {
		t.Errorf("stats %+v", st)
	}
}

func TestDuplicatesOfProcessedMessagesAreDroppedWithoutAWord(t *testing.T) {
	t.Parallel()
	s := newServer(t, Config{SSHAddr: listen(t, greet)})
	c := ready(t, s)
	m := input(1, ssmstream.PayloadOutput, []byte("once"))
	c.write(m)
	c.awaitAck(1)
	c.write(m)
	c.write(input(2, ssmstream.PayloadOutput, []byte(" only")))
	if seq := ackedBy(t, c.await(ssmstream.Acknowledge)); seq != 2 {
		t.Errorf("acknowledged %d, want the next message", seq)
	}
	if got := c.awaitBytes(9); got != "once only" {
		t.Errorf("echo %q", got)
	}
	if n := s.Stats().DuplicatesIn; n != 1 {
		t.Errorf("DuplicatesIn %d", n)
	}
}

func TestDuplicatesOfHeldMessagesAreAcknowledgedAgain(t *testing.T) {
	t.Parallel()
	s := newServer(t, Config{SSHAddr: listen(t, greet)})
	c := ready(t, s)
	m := input(2, ssmstream.PayloadOutput, []byte(" only"))
	for range 3 {
		c.write(m)
		c.awaitAck(2)
	}
	c.write(input(1, ssmstream.PayloadOutput, []byte("once")))
	if got := c.awaitBytes(9); got != "once only" {
		t.Errorf("echo %q", got)
	}
}

func TestAnAgentMayRepeatAcknowledgements(t *testing.T) {
	t.Parallel()
	s := newServer(t, Config{SSHAddr: listen(t, greet), RepeatsAcks: true})
	c := ready(t, s)
	m := input(1, ssmstream.PayloadOutput, []byte("once"))
	for range 3 {
		c.write(m)
		c.awaitAck(1)
	}
	if got := c.awaitBytes(4); got != "once" {
		t.Errorf("echo %q", got)
	}
}

func TestOnlyTheOldestMessageIsSentAgain(t *testing.T) {
	t.Parallel()
	s := newServer(t, Config{SSHAddr: listen(t, greet)})
	c := open(t, s)
	c.send(ssmstream.PayloadHandshakeResponse, responsePayload(ssmstream.ActionSuccess))
	seen := make(map[int64]int)
	for seen[0] < 4 || seen[2] == 0 { // nothing is acknowledged
		m, err := c.receive()
		if err != nil {
			t.Fatal(err)
		}
		if m.Type == ssmstream.OutputStreamData {
			seen[m.SequenceNumber]++
		}
	}
	if seen[1] != 1 || seen[2] != 1 {
		t.Errorf("copies by number: %v", seen)
	}
	if n := s.Stats().Resends; n < 3 {
		t.Errorf("Resends %d", n)
	}
}

func TestPausedAgentKeepsOutputUntilTheClientSpeaks(t *testing.T) {
	t.Parallel()
	speak, spoken := make(chan struct{}), make(chan struct{})
	s := newServer(t, Config{SSHAddr: listen(t, func(c net.Conn) {
		io.WriteString(c, greeting)
		<-speak
		io.WriteString(c, "kept")
		close(spoken)
		io.Copy(io.Discard, c)
	})})
	c := ready(t, s)
	settled(t, s)
	before := s.Stats().FromAgent.Messages[ssmstream.OutputStreamData]
	s.PausePublication()
	s.open()[0].agent.in.flush()
	close(speak)
	<-spoken
	if n := s.Stats().FromAgent.Messages[ssmstream.OutputStreamData]; n != before {
		t.Errorf("%d output messages after %d: sent while paused", n, before)
	}
	c.send(ssmstream.PayloadSize, []byte("{}"))
	if got := c.awaitBytes(4); got != "kept" {
		t.Errorf("output %q", got)
	}
}

// settled waits until the agents have every acknowledgement.
func settled(t testing.TB, s *Server) {
	t.Helper()
	eventually(t, func() bool {
		for _, sess := range s.open() {
			sess.agent.mu.Lock()
			kept := sess.agent.out.count
			sess.agent.mu.Unlock()
			if kept > 0 {
				return false
			}
		}
		return true
	})
}

// eventually waits for a counter that no message announces.
func eventually(t testing.TB, ok func() bool) {
	t.Helper()
	for end := time.Now().Add(patience); !ok(); time.Sleep(time.Millisecond) {
		if time.Now().After(end) {
			t.Fatal("gave up waiting")
		}
	}
}

func TestPortsEndEndsTheSession(t *testing.T) {
	t.Parallel()
	s := newServer(t, Config{SSHAddr: listen(t, func(c net.Conn) { io.WriteString(c, "bye") })})
	c := open(t, s)
	c.handshake()
	if got := c.awaitBytes(3); got != "bye" {
		t.Errorf("output %q", got)
	}
	if words := c.closedWords(); words != "" {
		t.Errorf("closed with %q", words)
	}
	if _, err := c.receive(); !websocket.IsCloseError(err, websocket.CloseNormalClosure) {
		t.Errorf("after channel_closed: %v", err)
	}
	idle(t, s)
}

func TestPortsEndWaitsForAcknowledgements(t *testing.T) {
	t.Parallel()
	s := newServer(t, Config{SSHAddr: listen(t, func(c net.Conn) { io.WriteString(c, "bye") })})
	c := open(t, s)
	c.handshake()
	began := time.Now()
	for {
		m, err := c.receive() // and no acknowledgement
		if err != nil {
			t.Fatal(err)
		}
		if m.Type == ssmstream.ChannelClosed {
			break
		}
	}
	if took := time.Since(began); took < agentLastMessages-agentRest {
		t.Errorf("took only %v", took)
	}
}

func TestDisconnectFlagClosesThePort(t *testing.T) {
	t.Parallel()
	s := newServer(t, Config{SSHAddr: listen(t, greet)})
	c := ready(t, s)
	seq := c.send(ssmstream.PayloadFlag, flag(ssmstream.FlagDisconnectToPort))
	c.awaitAck(seq)
	c.closedWords()
	if n := s.Stats().Ended[CausePortClosed]; n != 1 {
		t.Errorf("stats %+v", s.Stats())
	}
}

func TestRefusedPortClosesWithWords(t *testing.T) {
	t.Parallel()
	l, err := net.Listen("tcp", "127.0.0.1:0")
	if err != nil {
		t.Fatal(err)
	}
	l.Close()
	s := newServer(t, Config{SSHAddr: l.Addr().String()})
	c := open(t, s)
	c.handshake()
	if words := c.closedWords(); words != "Unable to connect to specified port: dial tcp 127.0.0.1:22: connect: connection refused" {
		t.Errorf("closed with %q", words)
	}
}

func TestHandshakelessAgentStartsWithData(t *testing.T) {
	t.Parallel()
	s := newServer(t, Config{SSHAddr: listen(t, greet), Handshakeless: true})
	c := open(t, s)
	m := c.await(ssmstream.OutputStreamData)
	if m.PayloadType != ssmstream.PayloadOutput || string(m.Payload) != greeting || m.Flags != ssmstream.FlagSYN {
		t.Errorf("first message %+v", m)
	}
	c.awaitBytes(len(greeting))
	c.send(ssmstream.PayloadOutput, []byte("x"))
	if got := c.awaitBytes(1); got != "x" {
		t.Errorf("echo %q", got)
	}
}

func TestWindowsAgentRejectsFlags(t *testing.T) {
	t.Parallel()
	s := newServer(t, Config{WindowsAgent: true})
	c := open(t, s)
	for range 2 { // it comes again although it was acknowledged
		m, err := c.receive()
		for err == nil && m.Type != ssmstream.OutputStreamData {
			m, err = c.receive()
		}
		if err != nil {
			t.Fatal(err)
		}
		c.acknowledge(m, 0)
	}
	eventually(t, func() bool { return s.Stats().BadAcks == 2 })
}

func TestCustomerMessage(t *testing.T) {
	t.Parallel()
	s := newServer(t, Config{SSHAddr: listen(t, greet), CustomerMessage: "be careful"})
	c := open(t, s)
	c.send(ssmstream.PayloadHandshakeResponse, responsePayload(ssmstream.ActionSuccess))
	var complete ssmstream.HandshakeComplete
	if err := json.Unmarshal(c.awaitPayload(ssmstream.PayloadHandshakeComplete).Payload, &complete); err != nil {
		t.Fatal(err)
	}
	if complete.CustomerMessage != "be careful" || complete.HandshakeTimeToComplete <= 0 {
		t.Errorf("%+v", complete)
	}
}

func TestMalformedFramesAreIgnored(t *testing.T) {
	t.Parallel()
	s := newServer(t, Config{SSHAddr: listen(t, greet)})
	c := ready(t, s)
	good := input(1, ssmstream.PayloadOutput, []byte("good"))
	digest := input(1, ssmstream.PayloadOutput, []byte("evil")).AppendTo(nil)
	digest[80] ^= 1
	undated := input(1, ssmstream.PayloadOutput, []byte("evil"))
	undated.CreatedDate = 0
	untyped := input(1, ssmstream.PayloadOutput, []byte("evil"))
	untyped.Type = ""
	for _, frame := range [][]byte{digest, undated.AppendTo(nil), untyped.AppendTo(nil), {1, 2, 3}, good.AppendTo(nil)} {
		if err := c.ws.WriteMessage(websocket.BinaryMessage, frame); err != nil {
			t.Fatal(err)
		}
	}
	if got := c.awaitBytes(4); got != "good" {
		t.Errorf("echo %q", got)
	}
	if n := s.Stats().Malformed; n != 4 {
		t.Errorf("Malformed %d", n)
	}
}

func TestOutputComesIn1024BytesAtAPace(t *testing.T) {
	t.Parallel()
	const size = 64 << 10
	s := newServer(t, Config{SSHAddr: listen(t, func(c net.Conn) {
		io.WriteString(c, strings.Repeat("x", size))
		io.Copy(io.Discard, c)
	})})
	c := open(t, s)
	c.handshake()
	began := time.Now()
	c.awaitBytes(size)
	if took := time.Since(began); took < size/agentPayload*agentRest {
		t.Errorf("%d bytes took only %v", size, took)
	}
	if n := s.Stats().FromAgent.MaxPayload; n != agentPayload {
		t.Errorf("MaxPayload %d", n)
	}
}

func TestRetransmissionTimeoutFollowsTheRoundTrip(t *testing.T) {
	t.Parallel()
	o := outgoing{rtt: 100 * time.Millisecond, timeout: 200 * time.Millisecond}
	now := time.Now()
	o.add([]byte("a"), now)
	if _, due := o.oldest(nil, now.Add(200*time.Millisecond)); due {
		t.Error("due after 200 ms")
	}
	frame, due := o.oldest(nil, now.Add(201*time.Millisecond))
	if !due || string(frame) != "a" {
		t.Errorf("%q, %v after 201 ms", frame, due)
	}
	if _, due := o.oldest(nil, now.Add(202*time.Millisecond)); due {
		t.Error("due again at once")
	}
	for range 200 { // at a steady 20 ms
		o.add([]byte("b"), now)
		o.acknowledge(o.next-1, now.Add(20*time.Millisecond))
	}
	if o.timeout < 30*time.Millisecond || o.timeout > 31*time.Millisecond {
		t.Errorf("timeout %v after round trips of 20 ms", o.timeout)
	}
	for range 200 {
		o.add([]byte("b"), now)
		o.acknowledge(o.next-1, now.Add(time.Minute))
	}
	if o.timeout != time.Second {
		t.Errorf("timeout %v after round trips of a minute", o.timeout)
	}
	if o.count != 1 {
		t.Errorf("%d kept", o.count)
	}
}
