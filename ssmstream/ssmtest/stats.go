package ssmtest

import (
	"encoding/binary"
	"maps"
	"sync"
	"sync/atomic"
	"time"

	"ssmproxy/ssmstream"
)

// Stats is what has crossed a Server so far.
type Stats struct {
	Calls      map[string]int // API calls by action, failed ones included
	CallErrors map[string]int // API errors by code

	Connections    int // TCP connections to the service
	Refused        int // of them, reset at once by a fault
	Cuts           int // websockets cut by a fault, by CutAll or by expired credentials
	OpenChannels   int // data channels that stand now
	MaxChannels    int // the most that stood at one time
	Swallowed      int // TCP connections that a blackhole has swallowed bytes of
	SignedUpgrades int // accepted ones
	Unsigned       int // upgrades accepted without a signature
	Presigned      int // upgrades accepted for the signature in their URL
	RefusedSigned  int // signed upgrades refused
	RefusedBare    int // unsigned upgrades refused
	OutdatedURLs   int // upgrades of a StreamUrl that is not the session's latest
	WrongTokens    int // data channels closed for their token
	BadOpenings    int // data channels closed for what else is in their first frame
	Opened         int // data channels whose first frame was accepted
	Resumed        int // of them, those that went on with a session
	Pings          int // websocket pings answered

	FromClient Traffic // as the client sent it, before any fault
	FromAgent  Traffic // as the agent sent it, before any fault

	// What the agent met.
	EarlyData       int // input before HandshakeComplete: acknowledged and dropped
	FirstLost       int // input while the port connection did not stand: dropped
	Malformed       int // frames that the agent ignored
	BadAcks         int // acknowledgements that the agent rejected or could not read
	DuplicatesIn    int // input that the agent had already
	HeldEarly       int // input that came ahead of its turn
	Overflowed      int // input dropped because 100,000 were held
	Resends         int // output that the agent sent again
	InputBytes      int64
	OutputBytes     int64
	ClientVersion   string // of the latest HandshakeResponse
	HandshakesDone  int
	PortConnections int

	// FirstResend is, for the latest session in which the first data was
	// lost, the time between the first output's leaving for the client and the
	// arrival of the lost message's next copy; negative where that came first.
	// It is set when FirstResends is at least 1.
	FirstResend  time.Duration
	FirstResends int

	Sessions int           // ever opened
	Ended    map[Cause]int // why sessions ended
}

// Traffic is what went one way over the data channels.
type Traffic struct {
	Messages   map[ssmstream.MessageType]int
	Bytes      int64 // of whole frames
	Payload    int64 // of stream messages' payloads, handshake and resends included
	MaxPayload int   // the largest of them
	Lost       int   // by a fault, or because the other end was away
	Doubled    int
	HeldBack   int
	Delayed    int
}

// Crossed is how many messages there were, of every type, both ways.
func (s Stats) Crossed() (n int) {
	for _, traffic := range []Traffic{s.FromClient, s.FromAgent} {
		for _, messages := range traffic.Messages {
			n += messages
		}
	}
	return n
}

// Cause says why a session ended.
type Cause string

// The causes of a session's end.
const (
	CauseFlag       Cause = "TerminateSession flag"
	CauseAPI        Cause = "TerminateSession call"
	CausePortClosed Cause = "port closed"
	CauseDial       Cause = "port refused"
	CauseHandshake  Cause = "handshake failed"
	CauseIdle       Cause = "idle"
	CauseFault      Cause = "closed with words"
)

// counters is Stats while it is counted. Everything on the path of a message
// is atomic; the maps and the rest are guarded by mu.
type counters struct {
	traffic [2]trafficCounters // by Direction

	earlyData, firstLost, malformed, badAcks, duplicatesIn  atomic.Int64
	heldEarly, overflowed, resends, inputBytes, outputBytes atomic.Int64
	pings, swallowed                                        atomic.Int64

	mu    sync.Mutex
	stats Stats
}

type trafficCounters struct {
	messages   [len(messageTypes)]atomic.Int64
	other      atomic.Int64
	bytes      atomic.Int64
	payload    atomic.Int64
	maxPayload atomic.Int64
	lost       atomic.Int64
	doubled    atomic.Int64
	heldBack   atomic.Int64
	delayed    atomic.Int64
}

var messageTypes = [...]ssmstream.MessageType{
	ssmstream.InputStreamData, ssmstream.OutputStreamData, ssmstream.Acknowledge,
	ssmstream.ChannelClosed, ssmstream.StartPublication, ssmstream.PausePublication,
}

// count looks only at what it needs of a frame's header: a gateway relays also
// what it could not decode. It reports whether it is a stream message.
func (t *trafficCounters) count(frame []byte) bool {
	t.bytes.Add(int64(len(frame)))
	if len(frame) < 120 {
		t.other.Add(1)
		return false
	}
	for i, name := range messageTypes {
		if string(frame[4:4+len(name)]) != string(name) {
			continue
		}
		t.messages[i].Add(1)
		if i < 2 { // stream messages
			n := int64(binary.BigEndian.Uint32(frame[116:]))
			t.payload.Add(n)
			for m := t.maxPayload.Load(); n > m && !t.maxPayload.CompareAndSwap(m, n); {
				m = t.maxPayload.Load()
			}
		}
		return i < 2
	}
	t.other.Add(1)
	return false
}

func (t *trafficCounters) snapshot() Traffic {
	s := Traffic{
		Messages:   make(map[ssmstream.MessageType]int),
		Bytes:      t.bytes.Load(),
		Payload:    t.payload.Load(),
		MaxPayload: int(t.maxPayload.Load()),
		Lost:       int(t.lost.Load()),
		Doubled:    int(t.doubled.Load()),
		HeldBack:   int(t.heldBack.Load()),
		Delayed:    int(t.delayed.Load()),
	}
	for i, name := range messageTypes {
		if n := int(t.messages[i].Load()); n > 0 {
			s.Messages[name] = n
		}
	}
	if n := int(t.other.Load()); n > 0 {
		s.Messages["other"] = n
	}
	return s
}

// change counts something that is not on the path of a message.
func (c *counters) change(f func(*Stats)) {
	c.mu.Lock()
	defer c.mu.Unlock()
	if c.stats.Calls == nil {
		c.stats.Calls = make(map[string]int)
		c.stats.CallErrors = make(map[string]int)
		c.stats.Ended = make(map[Cause]int)
	}
	f(&c.stats)
}

// Stats returns a copy of the counters. Counters of different kinds may be some
// messages apart while traffic flows.
func (s *Server) Stats() Stats {
	c := &s.count
	var out Stats
	c.change(func(st *Stats) {
		out = *st
		out.Calls = maps.Clone(st.Calls)
		out.CallErrors = maps.Clone(st.CallErrors)
		out.Ended = maps.Clone(st.Ended)
	})
	out.FromClient = c.traffic[ToAgent].snapshot()
	out.FromAgent = c.traffic[ToClient].snapshot()
	out.EarlyData = int(c.earlyData.Load())
	out.FirstLost = int(c.firstLost.Load())
	out.Malformed = int(c.malformed.Load())
	out.BadAcks = int(c.badAcks.Load())
	out.DuplicatesIn = int(c.duplicatesIn.Load())
	out.HeldEarly = int(c.heldEarly.Load())
	out.Overflowed = int(c.overflowed.Load())
	out.Resends = int(c.resends.Load())
	out.InputBytes = c.inputBytes.Load()
	out.OutputBytes = c.outputBytes.Load()
	out.Pings = int(c.pings.Load())
	out.Swallowed = int(c.swallowed.Load())
	return out
}
