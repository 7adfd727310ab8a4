package ssmstream

import "time"

const (
	idlePing   = 20 * time.Second // silence after which an idle connection is asked for a sign of life
	idleDead   = 8 * time.Second  // and how long it has for it
	busyPing   = 4 * time.Second  // the same while something is unacknowledged, or where the agent spoke last
	waitDead   = 12 * time.Second // silence, while something is unacknowledged, that means dead
	jumpedDead = 4 * time.Second  // after a sleep, which the peer seldom survives

	// clockTick is how often the wall clock is compared with the monotonic
	// one, which stands still while a machine sleeps, and clockJump the
	// difference that means that it did.
	clockTick = 2 * time.Second
	clockJump = 5 * time.Second

	// silentAgent is how long a gateway may answer pings while the agent
	// behind it acknowledges nothing, before another connection is tried.
	silentAgent = 30 * time.Second

	// agentAway is a silence of the agent, with something unacknowledged, that
	// is more than a path's slowness.
	agentAway = time.Second
)

// liveness decides when a connection is asked for a sign of life and when it
// counts as dead. Its owner serialises the calls and hands in the time.
type liveness struct {
	heard   time.Time // the last frame of any kind, pongs included
	agent   time.Time // the last message of the agent
	pinged  time.Time // the ping that heard has not answered; zero: none
	waiting time.Time // since when something is unacknowledged; zero: nothing is
	suspect bool      // the machine slept since heard

	checked time.Time // when the clocks were last compared
	wall    time.Time // and the wall clock then, with no monotonic reading
}

func newLiveness(now time.Time) liveness {
	return liveness{heard: now, agent: now, checked: now, wall: now.Round(0)}
}

func (l *liveness) hear(now time.Time) {
	l.heard, l.pinged, l.suspect = now, time.Time{}, false
}

// wait is told whether anything is unacknowledged.
func (l *liveness) wait(unacknowledged bool, now time.Time) {
	if !unacknowledged {
		l.waiting = time.Time{}
	} else if l.waiting.IsZero() {
		l.waiting = now
	}
}

// compareClocks looks for a wall clock that went ahead of the monotonic one:
// the machine slept. Where both went ahead only this process did, stopped by a
// signal: what the peer has said meanwhile is still to be read.
func (l *liveness) compareClocks(now, wall time.Time) {
	if wall.Sub(l.wall)-now.Sub(l.checked) > clockJump {
		l.suspect = true
	}
	if now.Sub(l.checked) > clockTick+clockJump {
		l.hear(now)
		l.agent, l.suspect = now, true
	}
	l.checked, l.wall = now, wall
}

type verdict int

const (
	alive verdict = iota
	askForPong
	deadPeer
	agentSilent
)

// judge says what to do at now, and when to ask again at the latest.
func (l *liveness) judge(now time.Time) (verdict, time.Time) {
	ping, dead := l.heard.Add(idlePing), time.Time{}
	if !l.agent.Before(l.heard) { // what it says next may be swallowed, and ssh may wait for that
		ping = l.heard.Add(busyPing)
	}
	if !l.pinged.IsZero() {
		dead = l.pinged.Add(idleDead)
	}
	if !l.waiting.IsZero() {
		since := latest(l.heard, l.waiting)
		ping, dead = since.Add(busyPing), since.Add(waitDead)
	}
	if l.suspect {
		ping = now
		if soon := l.pinged.Add(jumpedDead); !l.pinged.IsZero() && (dead.IsZero() || soon.Before(dead)) {
			dead = soon
		}
	}
	if !dead.IsZero() && !now.Before(dead) {
		return deadPeer, now
	}
	if l.pinged.IsZero() && !now.Before(ping) {
		l.pinged = now
		return askForPong, now
	}
	next := now.Add(clockTick)
	if !dead.IsZero() {
		next = earliest(next, dead)
	}
	if l.pinged.IsZero() {
		next = earliest(next, ping)
	}
	if !l.waiting.IsZero() {
		silence := latest(l.agent, l.waiting).Add(silentAgent)
		if !now.Before(silence) {
			return agentSilent, now
		}
		next = earliest(next, silence)
	}
	return alive, next
}

func earliest(a, b time.Time) time.Time {
	if b.Before(a) {
		return b
	}
	return a
}

func latest(a, b time.Time) time.Time {
	if b.After(a) {
		return b
	}
	return a
}
