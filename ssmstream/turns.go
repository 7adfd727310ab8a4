package ssmstream

import "time"

const (
	// briefConnection is how many messages a connection carries at most that
	// counts as brief.
	briefConnection = 1024

	// shortTrip is up to which round trip turns are worth the wait between
	// them: short, against the 100 ms that a lost answer costs.
	shortTrip = 20 * time.Millisecond

	// fewMessages are sent at any time: a keystroke is one.
	fewMessages = 8

	// answered is how long the agent has said nothing when the server has no
	// more to answer. The agent rests for 1 ms after each read of the port; the
	// server works in between.
	answered = 10 * time.Millisecond

	// fullyAnswered is the same where as much waits as ever went in one round.
	// What ssh writes it writes upon answers, so few can be left.
	fullyAnswered = 3 * time.Millisecond

	// longestTurn ends a turn, whatever is still to be said.
	longestTurn = 300 * time.Millisecond
)

// turns lets the two ends speak one after the other while connections are brief.
//
// What the server says while no client is there costs 100 ms a message, since
// the agent sends only the oldest again, once in that time. And connections
// break while data moves, which is when the server has something to answer. So
// bulk data goes in rounds. The first message of a round is withheld until the
// agent has all the others. It delivers by number: the server has nothing to
// answer while they are sent and connections break. Then the first one goes,
// the server gets the whole round, and the next one waits for its answers.
type turns struct {
	on       bool      // the last connection was brief, and its round trip short
	withheld *slot     // the first message of our turn; nil: it is the server's
	began    time.Time // the turn of now
	most     int       // messages of the largest round
	heard    time.Time // when the agent last said anything
	due      time.Time // when pop may have more to send; zero: no need to look
}

// judgeTurns decides whether to take turns, when a connection has broken.
func (s *sender) judgeTurns() {
	if s.rtt.srtt > 0 { // else it was too brief to tell
		s.turns.on = s.carried() < briefConnection && s.rtt.srtt < shortTrip
	}
}

// brief reports whether connections are brief, and this one may be.
func (s *sender) brief() bool {
	return s.turns.on && s.carried() < briefConnection
}

// takeTurns begins and ends our turns. It reports whether the first of what is
// queued may be sent now.
func (s *sender) takeTurns(now time.Time) bool {
	t := &s.turns
	t.due = time.Time{}
	over := t.began.Add(longestTurn)
	switch {
	case !s.brief() || !s.taking:
		s.release(now)
		return true
	case t.withheld != nil && s.queued+s.flight > 0 && now.Before(over):
		t.due = over
		return true
	case t.withheld != nil:
		if s.flight < s.limit() { // else it would not go, and be withheld again
			s.release(now)
		}
		return true
	case s.queued < fewMessages || s.firstQueued().first != 0:
		return true
	}
	if s.flight == 0 {
		over = earliest(over, t.heard.Add(s.quiet()))
	}
	if now.Before(over) {
		t.due = over
		return false
	}
	s.withhold(s.firstQueued(), now)
	return true
}

// quiet is how long the agent has said nothing when it is our turn.
func (s *sender) quiet() time.Duration {
	most := s.turns.most
	if most > 0 && s.queued >= most-most/16 {
		return fullyAnswered
	}
	return answered
}

func (s *sender) withhold(sl *slot, now time.Time) {
	s.turns.withheld, s.turns.began = sl, now
	sl.state = slotWithheld
	s.queued--
}

func (s *sender) release(now time.Time) {
	sl := s.turns.withheld
	if sl == nil {
		return
	}
	s.turns.withheld, s.turns.began = nil, now
	s.turns.most = max(s.turns.most, int(s.next-sl.seq))
	sl.state = slotQueued
	s.queued++
	s.cursor = min(s.cursor, sl.seq)
}

// keepsFromAgent reports whether the agent can only hold sl, because it lacks
// the withheld message: then it acknowledges sl each time it comes.
func (t *turns) keepsFromAgent(sl *slot) bool {
	return t.withheld != nil && sl.seq > t.withheld.seq
}
