package ssmtest

import (
	"math/rand/v2"
	"slices"
	"sync"
	"sync/atomic"
	"time"

	"ssmproxy/ssmstream"
)

// Direction is a way through the gateway's relay.
type Direction int

// The two directions.
const (
	ToAgent Direction = iota
	ToClient
)

func (d Direction) String() string { return [...]string{"to the agent", "to the client"}[d] }

// Crossing is a message on its way through the gateway's relay.
type Crossing struct {
	Session   string
	Direction Direction
	N         int // how many crossed before it in this direction, in this session
	Total     int // how many crossed before it in either direction, in this session
	Message   *ssmstream.Message
	// Message is valid until the Fault returns. It is what could be decoded of
	// a malformed frame.
}

// Action is what happens to a message at the relay. The zero value lets it
// pass. What is set happens together, in the order of the fields.
type Action struct {
	Stall     time.Duration // the whole direction waits this long, before the message
	Lose      bool          // the message vanishes
	Double    int           // it passes this many more times
	HoldBack  int           // it passes only after that many later ones
	Delay     time.Duration // it passes this much later, others overtake it
	Cut       bool          // the websocket's TCP connection is reset behind it
	Blackhole bool          // as Server.Blackhole, from behind it
	Close     *string       // the session ends behind it, with these words
}

// merge lets a do what b does as well.
func (a Action) merge(b Action) Action {
	a.Stall += b.Stall
	a.Lose = a.Lose || b.Lose
	a.Double += b.Double
	a.HoldBack = max(a.HoldBack, b.HoldBack)
	a.Delay = max(a.Delay, b.Delay)
	a.Cut = a.Cut || b.Cut
	a.Blackhole = a.Blackhole || b.Blackhole
	if a.Close == nil {
		a.Close = b.Close
	}
	return a
}

// A Fault decides what happens to a message. It is called for messages of
// several sessions and directions at once, and must not block.
type Fault func(c *Crossing) Action

// At acts on message n of a direction, from 0, in each session.
func At(d Direction, n int, a Action) Fault {
	return When(func(c *Crossing) bool { return c.Direction == d && c.N == n }, a)
}

// AtTotal acts on message n of a session, from 0, both directions counted.
func AtTotal(n int, a Action) Fault {
	return When(func(c *Crossing) bool { return c.Total == n }, a)
}

// Every acts on each n-th message of a session, both directions counted.
func Every(n int, a Action) Fault {
	return When(func(c *Crossing) bool { return c.Total%n == n-1 }, a)
}

// From acts on message n of a direction and all after it.
func From(d Direction, n int, a Action) Fault {
	return When(func(c *Crossing) bool { return c.Direction == d && c.N >= n }, a)
}

// Times acts on the first n messages that match picks, whatever their session.
func Times(n int, match func(c *Crossing) bool, a Action) Fault {
	var left atomic.Int64
	left.Store(int64(n))
	return When(func(c *Crossing) bool { return match(c) && left.Add(-1) >= 0 }, a)
}

// When acts on the messages that match picks.
func When(match func(c *Crossing) bool, a Action) Fault {
	return func(c *Crossing) Action {
		if match(c) {
			return a
		}
		return Action{}
	}
}

// Payload picks stream messages by their payload type, for When and Times.
func Payload(t ssmstream.PayloadType) func(c *Crossing) bool {
	return func(c *Crossing) bool {
		return c.Message.PayloadType == t &&
			(c.Message.Type == ssmstream.InputStreamData || c.Message.Type == ssmstream.OutputStreamData)
	}
}

// Random acts on messages of a direction with probability p, from the server's
// seed.
func (s *Server) Random(d Direction, p float64, a Action) Fault {
	return When(func(c *Crossing) bool { return c.Direction == d && s.faults.float() < p }, a)
}

// SetFaults makes these the faults at the relay, in place of any before them;
// none heals it. Messages that are held back or delayed stay so, and a call of
// an earlier Fault may still be going on.
func (s *Server) SetFaults(faults ...Fault) {
	if len(faults) == 0 {
		s.faults.current.Store(nil)
		return
	}
	faults = slices.Clone(faults)
	s.faults.current.Store(&faults)
}

type faults struct {
	current atomic.Pointer[[]Fault]

	mu      sync.Mutex // guards what follows
	rng     *rand.Rand
	expired int // tokens that are still to be rejected
}

func (f *faults) float() float64 {
	f.mu.Lock()
	defer f.mu.Unlock()
	return f.rng.Float64()
}

// tokenExpired takes one off RejectTokens.
func (f *faults) tokenExpired() bool {
	f.mu.Lock()
	defer f.mu.Unlock()
	if f.expired == 0 {
		return false
	}
	f.expired--
	return true
}

// relay is one direction of a session's relay.
type relay struct {
	n       atomic.Int64 // messages that have crossed
	holding atomic.Int64 // len(held)

	mu   sync.Mutex // one message at a time while there are faults
	held []heldFrame
}

type heldFrame struct {
	frame []byte
	left  int // later messages to wait for
}

// relay takes one frame through the gateway. It copies what it keeps. It blocks
// while the other end does not keep up.
func (s *session) relay(d Direction, frame []byte) {
	traffic := &s.srv.count.traffic[d]
	if d == ToClient && s.agentAway.Load() {
		traffic.lost.Add(1)
		return
	}
	if traffic.count(frame) {
		s.active.Store(time.Now().UnixNano())
	}
	r := &s.relays[d]
	n, total := r.n.Add(1)-1, s.total.Add(1)-1
	faults := s.srv.faults.current.Load()
	if faults == nil && r.holding.Load() == 0 {
		s.deliver(d, frame)
		return
	}
	crossing := Crossing{
		Session:   s.id,
		Direction: d,
		N:         int(n),
		Total:     int(total),
		Message:   new(ssmstream.Message),
	}
	_ = crossing.Message.Decode(frame) // the agent and the client complain, not the gateway
	var action Action
	if faults != nil {
		for _, f := range *faults {
			action = action.merge(f(&crossing))
		}
	}
	s.act(d, frame, action)
}

func (s *session) act(d Direction, frame []byte, action Action) {
	r, traffic := &s.relays[d], &s.srv.count.traffic[d]
	r.mu.Lock()
	defer r.mu.Unlock()
	if action.Stall > 0 {
		s.sleep(action.Stall)
	}
	later := r.held // those that wait for this message
	r.held = nil
	switch {
	case action.Lose:
		traffic.lost.Add(1)
	case action.HoldBack > 0:
		traffic.heldBack.Add(1)
		r.held = append(r.held, heldFrame{slices.Clone(frame), action.HoldBack})
	case action.Delay > 0:
		traffic.delayed.Add(1)
		s.deliverLater(d, slices.Clone(frame), action.Delay)
	default:
		s.deliver(d, frame)
	}
	for range action.Double {
		traffic.doubled.Add(1)
		s.deliver(d, frame)
	}
	for _, h := range later {
		if h.left--; h.left > 0 {
			r.held = append(r.held, h)
		} else {
			s.deliver(d, h.frame)
		}
	}
	r.holding.Store(int64(len(r.held)))
	s.breakOff(d, action)
}

// breakOff does what an action does to more than its message.
func (s *session) breakOff(d Direction, action Action) {
	c := s.current()
	switch {
	case action.Cut && c != nil && d == ToClient && !action.Lose:
		c.cutWhenSent.Store(true) // so that the message does get out
		c.out.seal()
	case action.Cut && c != nil:
		c.cut()
	}
	if action.Blackhole && c != nil {
		c.conn.hole.Store(true)
	}
	if action.Close != nil {
		s.end(CauseFault, *action.Close)
	}
}

// deliver hands a frame to the other end, if it is there.
func (s *session) deliver(d Direction, frame []byte) {
	delivered := false
	switch d {
	case ToAgent:
		delivered = !s.agentAway.Load() && s.agent.in.put(frame)
	case ToClient:
		c := s.current()
		delivered = c != nil && c.out.put(frame)
	}
	if !delivered {
		s.srv.count.traffic[d].lost.Add(1)
	}
}

// deliverLater starts a goroutine that ends with the session at the latest.
func (s *session) deliverLater(d Direction, frame []byte, delay time.Duration) {
	s.srv.wg.Go(func() {
		if s.sleep(delay) {
			s.deliver(d, frame)
		}
	})
}

// sleep returns false at once when the session ends.
func (s *session) sleep(d time.Duration) bool {
	timer := time.NewTimer(d)
	defer timer.Stop()
	select {
	case <-timer.C:
		return true
	case <-s.gone:
		return false
	}
}
