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

	// fullyAnswered is the same where nearly as much waits as ever went in one
	// round. What ssh writes it writes upon answers, so few can be left.
	fullyAnswered = 3 * time.Millisecond

	// hardlyAnswered is the same where less than a third of that waits. The server
	// has most of the round then, and has stopped in it for more than answered.
	hardlyAnswered = 20 * time.Millisecond

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
// the server gets the whole round, and the next one waits for its answers. A
// round ends where a connection begins, if it can: the next break is far then.
type turns struct {
	on       bool      // the last connection was brief, and its round trip short
	withheld *slot     // the first message of our turn; nil: it is the server's
	ending   bool      // our turn is over with what was sent on earlier connections
	began    time.Time // the turn of now
	most     int       // messages of the largest round
	heard    time.Time // when the agent last said anything
	due      time.Time // when pop may have more to send; zero: no need to look
}

// judgeTurns decides, when a connection has broken, whether to take turns, and
// whether enough of our turn's messages are sent to end it with them.
func (s *sender) judgeTurns() {
	t := &s.turns
	if s.rtt.srtt > 0 { // else it was too brief to tell
		t.on = s.carried() < briefConnection && s.rtt.srtt < shortTrip
	}
	if t.withheld != nil && t.most > 0 {
		t.ending = s.sentOfRound() >= t.nearlyMost()
	}
}

// sentOfRound is how many messages in a row from the withheld one on are sent,
// were it sent itself.
func (s *sender) sentOfRound() int {
	first := s.turns.withheld.seq
	for seq := first + 1; seq < s.next; seq++ {
		if sl := s.slot(seq); sl != nil && sl.first == 0 {
			return int(seq - first)
		}
	}
	return int(s.next - first)
}

// nearlyMost is how many messages count as a whole round.
func (t *turns) nearlyMost() int { return t.most - t.most/8 }

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
	case t.withheld != nil && !s.roundSent() && now.Before(over):
		t.due = over
		return !(t.ending && s.nextIsNew())
	case t.withheld != nil:
		if s.flight.bytes < s.limit() { // else it would not go, and be withheld again
			s.release(now)
		}
		return true
	case s.queued < fewMessages || !s.nextIsNew():
		return true
	}
	if s.flight.oldest == nil {
		over = earliest(over, t.heard.Add(s.quiet()))
	}
	if now.Before(over) {
		t.due = over
		return false
	}
	s.withhold(s.firstQueued(), now)
	return true
}

// roundSent reports whether the agent has all of the round that it is to have
// before the withheld message.
func (s *sender) roundSent() bool {
	return s.flight.oldest == nil && (s.queued == 0 || s.turns.ending && s.nextIsNew())
}

// nextIsNew reports whether the first of what is queued was never sent.
func (s *sender) nextIsNew() bool { return s.queued > 0 && s.firstQueued().first == 0 }

// quiet is how long the agent has said nothing when it is our turn.
func (s *sender) quiet() time.Duration {
	t := &s.turns
	switch {
	case t.most > 0 && s.queued >= t.nearlyMost():
		return fullyAnswered
	case s.queued < t.most/3:
		return hardlyAnswered
	}
	return answered
}

func (s *sender) withhold(sl *slot, now time.Time) {
	s.turns.withheld, s.turns.began, s.turns.ending = sl, now, false
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
