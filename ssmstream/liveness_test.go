package ssmstream

import (
	"testing"
	"time"
)

// judgedDead runs the clock until the verdict is deadPeer, answering no ping,
// and returns how long that took and when the first ping went out.
func judgedDead(t *testing.T, l liveness) (dead, pinged time.Duration) {
	t.Helper()
	now := l.checked
	for range 1000 {
		verdict, next := l.judge(now)
		switch verdict {
		case deadPeer:
			return now.Sub(start), pinged
		case askForPong:
			pinged = now.Sub(start)
			continue
		}
		if !next.After(now) {
			t.Fatalf("asked again at once, with the verdict %d", verdict)
		}
		now = next
	}
	t.Fatal("never judged dead")
	return
}

func TestASilentPeerIsFoundDead(t *testing.T) {
	idle := newLiveness(start.Add(-time.Second))
	idle.hear(start) // of the gateway alone
	if dead, pinged := judgedDead(t, idle); dead > 30*time.Second || pinged < 10*time.Second || pinged > 25*time.Second {
		t.Errorf("idle: pinged after %v, dead after %v", pinged, dead)
	}
	spoken := newLiveness(start)
	if dead, pinged := judgedDead(t, spoken); dead > 15*time.Second || pinged > 5*time.Second {
		t.Errorf("after the agent's last word: pinged after %v, dead after %v", pinged, dead)
	}
	waiting := newLiveness(start)
	waiting.wait(true, start)
	if dead, pinged := judgedDead(t, waiting); dead > 15*time.Second || pinged > 5*time.Second {
		t.Errorf("waiting: pinged after %v, dead after %v", pinged, dead)
	}
	slept := newLiveness(start)
	slept.compareClocks(start.Add(clockTick), start.Add(time.Hour))
	if dead, pinged := judgedDead(t, slept); dead > 7*time.Second || pinged > clockTick {
		t.Errorf("after a sleep: pinged after %v, dead after %v", pinged, dead)
	}
}

func TestWritingAfterASilenceStartsTheCountAnew(t *testing.T) {
	l := newLiveness(start)
	now := start.Add(19 * time.Second)
	l.wait(true, now)
	if verdict, _ := l.judge(now); verdict != alive {
		t.Errorf("verdict %d at the moment of writing", verdict)
	}
}

func TestAPeerThatAnswersIsAlive(t *testing.T) {
	l := newLiveness(start)
	now := start
	pings := 0
	for now.Before(start.Add(10 * time.Minute)) {
		verdict, next := l.judge(now)
		switch verdict {
		case askForPong:
			pings++
			l.hear(now.Add(time.Second))
			continue
		case alive:
		default:
			t.Fatalf("verdict %d after %v", verdict, now.Sub(start))
		}
		now = next
	}
	if pings < 25 || pings > 35 {
		t.Errorf("%d pings in 10 minutes", pings)
	}
}

func TestAnAgentThatAcknowledgesNothingIsNoticed(t *testing.T) {
	l := newLiveness(start)
	l.wait(true, start)
	now := start
	for {
		verdict, next := l.judge(now)
		if verdict == agentSilent {
			break
		}
		if verdict == askForPong {
			l.hear(now)
			continue
		}
		if verdict == deadPeer || now.After(start.Add(time.Minute)) {
			t.Fatalf("verdict %d after %v", verdict, now.Sub(start))
		}
		now = next
	}
	if after := now.Sub(start); after != silentAgent {
		t.Errorf("noticed after %v", after)
	}
}

func TestAClockThatKeepsTimeIsNoSleep(t *testing.T) {
	l := newLiveness(start)
	for i := range 100 {
		now := start.Add(time.Duration(i) * clockTick)
		l.compareClocks(now, now)
	}
	if l.suspect {
		t.Error("suspect")
	}
}

func TestAProcessThatWasStoppedAsksBeforeItJudges(t *testing.T) {
	l := newLiveness(start)
	l.wait(true, start)
	now := start.Add(time.Minute)
	l.compareClocks(now, now)
	if verdict, _ := l.judge(now); verdict != askForPong {
		t.Errorf("verdict %d", verdict)
	}
	if verdict, _ := l.judge(now.Add(jumpedDead)); verdict != deadPeer {
		t.Errorf("verdict %d without an answer", verdict)
	}
}
