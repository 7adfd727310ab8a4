package ssmtest

import (
	"time"

	"ssmproxy/ssmstream"
)

// CutAll resets the TCP connection of every data channel, now.
func (s *Server) CutAll() {
	for _, c := range s.channels() {
		c.cut()
	}
}

// RefuseConnections resets the next n TCP connections as soon as they are
// accepted.
func (s *Server) RefuseConnections(n int) {
	s.listener.mu.Lock()
	defer s.listener.mu.Unlock()
	s.listener.refuse = n
}

// RejectTokens lets the next n data channels that are opened with the right
// token find it expired: the websocket is closed, and the token is of no use
// any more. Openings with a wrong one do not count; 0 ends it.
func (s *Server) RejectTokens(n int) {
	s.faults.mu.Lock()
	defer s.faults.mu.Unlock()
	s.faults.expired = n
}

// Outage cuts every connection and resets new ones for the duration; 0 ends an
// outage.
func (s *Server) Outage(d time.Duration) {
	s.listener.mu.Lock()
	s.listener.until = time.Now().Add(d)
	s.listener.mu.Unlock()
	if d == 0 {
		return
	}
	s.CutAll()
	for _, c := range s.listener.all() {
		c.cut()
	}
}

// Blackhole swallows whatever moves on the TCP connections that stand, in both
// directions, while the connections stay up: as after a sleep or on a changed
// network. With newToo, new connections are accepted and swallowed as well.
// A connection that has lost bytes this way never carries any again; Heal is
// for the others.
func (s *Server) Blackhole(newToo bool) {
	l := s.listener
	l.mu.Lock()
	defer l.mu.Unlock()
	l.hole, l.holeNew = true, newToo
	for c := range l.conns {
		c.hole.Store(true)
	}
}

// BlackholeFor is Blackhole, and Heal after d.
func (s *Server) BlackholeFor(d time.Duration, newToo bool) {
	s.Blackhole(newToo)
	s.after(d, s.Heal)
}

// Heal ends a blackhole for new connections and for those that have not lost
// anything to it.
func (s *Server) Heal() {
	l := s.listener
	l.mu.Lock()
	defer l.mu.Unlock()
	l.hole, l.holeNew = false, false
	for c := range l.conns {
		c.hole.Store(false)
	}
}

// after calls f in d, unless the server is closed first.
func (s *Server) after(d time.Duration, f func()) {
	s.wg.Go(func() {
		timer := time.NewTimer(d)
		defer timer.Stop()
		select {
		case <-timer.C:
			f()
		case <-s.done:
		}
	})
}

// SetLink changes the path of new connections, and of those that were made with
// an RTT or Rate.
func (s *Server) SetLink(link Link) {
	l := s.listener
	l.mu.Lock()
	defer l.mu.Unlock()
	l.link = link
	for c := range l.conns {
		if c.path != nil {
			c.path.in.setLink(link)
			c.path.out.setLink(link)
		}
	}
}

// CloseSessions ends every open session; its client gets channel_closed with
// words as Output.
func (s *Server) CloseSessions(words string) {
	for _, sess := range s.open() {
		sess.end(CauseFault, words)
	}
}

// PausePublication sends pause_publication to every agent, as the gateway does
// when a client is away.
func (s *Server) PausePublication() {
	for _, sess := range s.open() {
		sess.agent.in.putNow(sess.publicationFrame(ssmstream.PausePublication))
	}
}

// AgentsAway breaks the agents' own connections: what is sent to them or by
// them is lost, and the clients get pause_publication. The agents keep their
// state and their port connections, as a session worker does while the agent
// restarts.
func (s *Server) AgentsAway() {
	for _, sess := range s.open() {
		if sess.agentAway.Swap(true) {
			continue
		}
		if c := sess.current(); c != nil {
			c.out.putNow(sess.publicationFrame(ssmstream.PausePublication))
		}
	}
}

// AgentsBack ends AgentsAway: both ends get start_publication.
func (s *Server) AgentsBack() {
	for _, sess := range s.open() {
		if !sess.agentAway.Swap(false) {
			continue
		}
		start := sess.publicationFrame(ssmstream.StartPublication)
		sess.agent.in.putNow(start)
		if c := sess.current(); c != nil {
			c.out.putNow(start)
		}
	}
}

// RestartAgents is AgentsAway for the duration and then AgentsBack.
func (s *Server) RestartAgents(d time.Duration) {
	s.AgentsAway()
	s.after(d, s.AgentsBack)
}

// VanishAgents makes every agent vanish without a word to anyone: nothing is
// acknowledged any longer and the sessions stay open.
func (s *Server) VanishAgents() {
	for _, sess := range s.open() {
		sess.agentAway.Store(true)
	}
}

func (s *Server) open() []*session {
	s.mu.Lock()
	defer s.mu.Unlock()
	var open []*session
	for _, sess := range s.sessions {
		if !sess.isEnded() {
			open = append(open, sess)
		}
	}
	return open
}
