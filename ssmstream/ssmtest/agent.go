package ssmtest

import (
	"encoding/binary"
	"encoding/json"
	"errors"
	"fmt"
	"io"
	"net"
	"strconv"
	"sync"
	"sync/atomic"
	"time"

	"ssmproxy/ssmstream"
)

// The agent's constants, from its session/config package.
const (
	agentPayload      = 1024                   // StreamDataPayloadSize
	agentRest         = time.Millisecond       // after each read from the port
	agentEarly        = 100_000                // IncomingMessageBufferCapacity
	agentOutgoing     = 100_000                // OutgoingMessageBufferCapacity
	agentResend       = 100 * time.Millisecond // ResendSleepInterval
	agentHandshake    = 15 * time.Second       // handshakeTimeout
	agentLastMessages = 2 * time.Second        // for output to be acknowledged at the end
)

// agent is the instance's end of one session: what
// session/datachannel and session/plugins/port of amazon-ssm-agent do.
//
// Three goroutines: read handles what comes, one message after another, and
// writes to the port itself, so that a blocked port blocks acknowledgements
// too; run goes through handshake, dialling, and reading the port; resend
// sends again.
type agent struct {
	sess *session
	cfg  *Config
	in   *mailbox // frames from the gateway

	receiver // belongs to read

	answered  chan handshakeAnswer // to run, once
	cancelled chan struct{}        // closed by a TerminateSession flag
	cancel    func()

	frame []byte // belongs to run: the frame being sent

	firstOutput atomic.Int64 // when the first output left, in ns since 1970

	mu       sync.Mutex // guards what follows
	changed  sync.Cond
	paused   bool
	complete bool // data is taken: after HandshakeComplete, or from the start
	port     net.Conn
	ending   bool // the port is not to be read any longer
	stopped  bool // the session has ended
	out      outgoing
}

type handshakeAnswer struct {
	response ssmstream.HandshakeResponse
	err      error
}

func newAgent(sess *session) *agent {
	a := &agent{
		sess:      sess,
		cfg:       &sess.srv.cfg,
		in:        newMailbox(toAgentBuffer),
		answered:  make(chan handshakeAnswer, 1),
		cancelled: make(chan struct{}),
	}
	a.cancel = sync.OnceFunc(func() {
		close(a.cancelled)
		a.endPort()
	})
	a.changed.L = &a.mu
	a.out.timeout = 200 * time.Millisecond
	a.out.rtt = 100 * time.Millisecond
	a.complete = a.cfg.Handshakeless
	return a
}

func (a *agent) start() {
	a.sess.srv.wg.Go(a.read)
	a.sess.srv.wg.Go(a.run)
	a.sess.srv.wg.Go(a.resend)
}

// stop is the service's word that the session has ended.
func (a *agent) stop() {
	a.mu.Lock()
	a.stopped = true
	a.mu.Unlock()
	a.endPort()
	a.in.close()
}

// endPort ends the reading of the port, now or as soon as there is one.
func (a *agent) endPort() {
	a.mu.Lock()
	a.ending = true
	a.changed.Broadcast()
	a.mu.Unlock()
	a.closePort()
}

func (a *agent) closePort() {
	a.mu.Lock()
	defer a.mu.Unlock()
	if a.port != nil {
		a.port.Close()
	}
}

// run is a session's life on the instance.
func (a *agent) run() {
	if !a.cfg.Handshakeless {
		if err := a.handshake(); err != nil {
			a.sess.end(CauseHandshake, "Encountered error while initiating handshake. "+err.Error())
			return
		}
	}
	port, err := a.dial()
	if err != nil {
		a.sess.end(CauseDial, "Unable to connect to specified port: "+err.Error())
		return
	}
	a.pump(port)
	port.Close()
	a.drain()
	select {
	case <-a.cancelled:
		a.sess.end(CauseFlag, "")
	default:
		a.sess.end(CausePortClosed, "")
	}
}

var errSessionGone = errors.New("the session has ended")

// handshake asks, waits for the answer and says that it is complete.
func (a *agent) handshake() error {
	if a.cfg.MuteAgent {
		<-a.sess.gone
		return errSessionGone
	}
	began := time.Now()
	if err := a.sendJSON(ssmstream.PayloadHandshakeRequest, a.handshakeRequest()); err != nil {
		return err
	}
	timeout := time.NewTimer(agentHandshake)
	defer timeout.Stop()
	select {
	case answer := <-a.answered:
		if err := a.judge(answer); err != nil {
			return err
		}
	case <-timeout.C:
		//lint:ignore ST1005 the agent's own words
		return errors.New("Handshake timed out. Please ensure that you have the latest version of the session manager plugin.")
	case <-a.cancelled:
		return errSessionGone
	case <-a.sess.gone:
		return errSessionGone
	}
	a.sess.srv.count.change(func(st *Stats) { st.HandshakesDone++ })
	err := a.sendJSON(ssmstream.PayloadHandshakeComplete, ssmstream.HandshakeComplete{
		HandshakeTimeToComplete: int64(time.Since(began)),
		CustomerMessage:         a.cfg.CustomerMessage,
	})
	// Only now, as in the agent: until then data is acknowledged and dropped,
	// that of a client which is faster than this goroutine, too.
	a.mu.Lock()
	a.complete = true
	a.mu.Unlock()
	return err
}

func (a *agent) handshakeRequest() ssmstream.HandshakeRequest {
	type properties struct {
		PortNumber string `json:"portNumber"`
		Type       string `json:"type"`
	}
	type parameters struct {
		SessionType string
		Properties  properties
	}
	session, _ := json.Marshal(parameters{"Port", properties{PortNumber: a.sess.port}})
	request := ssmstream.HandshakeRequest{
		AgentVersion:           a.cfg.AgentVersion,
		RequestedClientActions: []ssmstream.RequestedClientAction{{ActionType: ssmstream.ActionSessionType, ActionParameters: session}},
	}
	for _, action := range a.cfg.ActionsRequested {
		asked := json.RawMessage("{}")
		if action == ssmstream.ActionKMSEncryption {
			asked = json.RawMessage(`{"KMSKeyId":"arn:aws:kms:` + a.cfg.Regions[0] + `:` + accountID + `:key/0a1b2c3d-1111-2222-3333-444455556666"}`)
		}
		request.RequestedClientActions = append(request.RequestedClientActions,
			ssmstream.RequestedClientAction{ActionType: action, ActionParameters: asked})
	}
	return request
}

// judge accepts the client's answer or says why not, in the agent's words.
func (a *agent) judge(answer handshakeAnswer) error {
	if answer.err != nil {
		return answer.err
	}
	a.sess.srv.count.change(func(st *Stats) { st.ClientVersion = answer.response.ClientVersion })
	for _, action := range answer.response.ProcessedClientActions {
		switch {
		case action.ActionStatus != ssmstream.ActionSuccess:
			return fmt.Errorf("%s failed on client with status %d error: %s", action.ActionType, action.ActionStatus, action.Error)
		case action.ActionType == ssmstream.ActionKMSEncryption:
			//lint:ignore ST1005 the agent's own words
			return errors.New("Fetching data key failed: Unable to retrieve data key, Error when decrypting data key AccessDeniedException")
		}
	}
	// The agent compares it to tell who can multiplex.
	if _, err := parseVersion(answer.response.ClientVersion); err != nil {
		return err
	}
	return nil
}

// dial waits until HandshakeComplete is out and then PortDelay, which nothing
// is to make shorter: what the client sends at once meets an agent that is not
// ready, as in nearly every real session.
func (a *agent) dial() (net.Conn, error) {
	if c := a.sess.current(); c != nil {
		c.out.flush()
	}
	if a.cfg.PortDelay > 0 {
		delay := time.NewTimer(a.cfg.PortDelay)
		defer delay.Stop()
		select {
		case <-delay.C:
		case <-a.sess.gone:
		}
	}
	port, err := net.Dial("tcp", a.cfg.portAddr(a.sess.port))
	if err != nil {
		return nil, a.asLocalhost(err)
	}
	a.mu.Lock()
	defer a.mu.Unlock()
	a.port = port
	if a.ending {
		port.Close()
	}
	a.sess.srv.count.change(func(st *Stats) { st.PortConnections++ })
	return port, nil
}

// asLocalhost gives an error the address that the agent would have dialled.
func (a *agent) asLocalhost(err error) error {
	var op *net.OpError
	if n, convErr := strconv.Atoi(a.sess.port); errors.As(err, &op) && convErr == nil {
		op.Source = nil
		op.Addr = &net.TCPAddr{IP: net.IPv4(127, 0, 0, 1), Port: n}
	}
	return err
}

// pump reads the port and sends what it reads, until the port ends.
func (a *agent) pump(port net.Conn) {
	packet := make([]byte, agentPayload)
	var r io.Reader = port
	for a.waitActive() {
		n, err := r.Read(packet)
		if n > 0 {
			a.send(ssmstream.PayloadOutput, packet[:n])
			a.sess.srv.count.outputBytes.Add(int64(n))
		}
		if err != nil {
			return
		}
		if !a.cfg.NoPacing {
			time.Sleep(agentRest)
		}
	}
}

// waitActive waits while the client is away; false says that the port is not to
// be read any longer.
func (a *agent) waitActive() bool {
	a.mu.Lock()
	defer a.mu.Unlock()
	for a.paused && !a.ending {
		a.changed.Wait()
	}
	return !a.ending
}

func (a *agent) setPaused(paused bool) {
	a.mu.Lock()
	defer a.mu.Unlock()
	if a.paused != paused {
		a.paused = paused
		a.changed.Broadcast()
	}
}

// drain waits for the last output to be acknowledged, for a while.
func (a *agent) drain() {
	giveUp := time.AfterFunc(agentLastMessages, func() {
		a.mu.Lock()
		defer a.mu.Unlock()
		a.out.abandoned = true
		a.changed.Broadcast()
	})
	defer giveUp.Stop()
	a.mu.Lock()
	defer a.mu.Unlock()
	for a.out.count > 0 && !a.stopped && !a.out.abandoned {
		a.changed.Wait()
	}
}

func (a *agent) sendJSON(t ssmstream.PayloadType, v any) error {
	payload, err := json.Marshal(v)
	if err != nil {
		return err
	}
	a.send(t, payload)
	return nil
}

// send numbers one stream message, keeps it until it is acknowledged and,
// unless paused, sends it. Only run calls it.
func (a *agent) send(t ssmstream.PayloadType, payload []byte) {
	now := time.Now()
	a.mu.Lock()
	m := ssmstream.Message{
		Type:           ssmstream.OutputStreamData,
		CreatedDate:    uint64(now.UnixMilli()),
		SequenceNumber: a.out.next,
		ID:             ssmstream.NewUUID(),
		PayloadType:    t,
		Payload:        payload,
	}
	if m.SequenceNumber == 0 {
		m.Flags = ssmstream.FlagSYN
	}
	a.frame = m.AppendTo(a.frame[:0])
	a.out.add(a.frame, now)
	paused := a.paused
	a.mu.Unlock()
	if !paused {
		if t == ssmstream.PayloadOutput {
			a.firstOutput.CompareAndSwap(0, now.UnixNano())
		}
		a.sess.relay(ToClient, a.frame)
	}
}

// resend sends the oldest unacknowledged message again, and only that one.
func (a *agent) resend() {
	tick := time.NewTicker(agentResend)
	defer tick.Stop()
	var frame []byte
	for {
		select {
		case <-tick.C:
		case <-a.sess.gone:
			return
		}
		a.mu.Lock()
		due := false
		if !a.paused {
			frame, due = a.out.oldest(frame[:0], time.Now())
		}
		a.mu.Unlock()
		if due {
			a.sess.srv.count.resends.Add(1)
			a.sess.relay(ToClient, frame)
		}
	}
}

// flagOf reads the payload of a flag message; malformed ones are 0.
func flagOf(payload []byte) uint32 {
	if len(payload) < 4 {
		return 0
	}
	return binary.BigEndian.Uint32(payload)
}
