package ssmstream

import (
	"errors"
	"fmt"
	"slices"
	"strings"
	"sync/atomic"
	"testing"
	"testing/synctest"
	"time"
)

func TestABlackholeIsFoundWithin15SecondsWhileDataWaits(t *testing.T) {
	inBubble(t, scripts(handshakeThen(func(p *peer) {
		p.ws.SetPingHandler(func(string) error { return nil })
		p.swallow()
	}), func(p *peer) {
		m, _ := p.nextData()
		p.told <- string(m.Payload)
		p.acknowledge(m)
		p.drain()
	}), func(t *testing.T, s *service) {
		stream := s.dial(t)
		began := time.Now()
		stream.Write([]byte("precious"))
		got := <-s.told
		if took := time.Since(began); got != "precious" || took > 15*time.Second {
			t.Errorf("%q after %v", got, took)
		}
		stream.Close()
	})
}

func TestABlackholeIsFoundWithin15SecondsOfTheAgentsLastWord(t *testing.T) {
	inBubble(t, scripts(handshakeThen(func(p *peer) {
		p.ws.SetPingHandler(func(string) error { return nil })
		p.swallow()
	}), func(p *peer) {
		p.told <- true
		p.drain()
	}), func(t *testing.T, s *service) {
		stream := s.dial(t)
		began := time.Now()
		<-s.told
		if took := time.Since(began); took > 15*time.Second {
			t.Errorf("after %v", took)
		}
		stream.Close()
	})
}

func TestABlackholeIsFoundWithin30SecondsWhileIdle(t *testing.T) {
	inBubble(t, scripts(handshakeThen(func(p *peer) {
		pong := p.ws.PingHandler()
		p.ws.SetPingHandler(func(data string) error {
			p.ws.SetPingHandler(func(string) error { return nil })
			p.told <- time.Now()
			return pong(data)
		})
		p.swallow()
	}), func(p *peer) {
		p.told <- time.Now()
		p.drain()
	}), func(t *testing.T, s *service) {
		stream := s.dial(t)
		heard := (<-s.told).(time.Time)
		if took := (<-s.told).(time.Time).Sub(heard); took > 30*time.Second {
			t.Errorf("after %v", took)
		}
		stream.Close()
	})
}

func TestALossOfOverTwoSecondsIsTold(t *testing.T) {
	inBubble(t, scripts(handshakeThen(func(p *peer) {}), func(p *peer) {
		p.told <- true
		p.drain()
	}), func(t *testing.T, s *service) {
		s.dialErr = func(n int) error {
			if n > 1 && n < 8 {
				return errors.New("network is unreachable")
			}
			return nil
		}
		stream := s.dial(t)
		<-s.told
		synctest.Wait()
		if got, want := s.noticed(), []Notice{NoticeLost, NoticeResumed}; !slices.Equal(got, want) {
			t.Errorf("notices %v, want %v", got, want)
		}
		stream.Close()
	})
}

func TestAShortLossIsNotTold(t *testing.T) {
	inBubble(t, scripts(handshakeThen(func(p *peer) {}), func(p *peer) {
		p.told <- true
		p.drain()
	}), func(t *testing.T, s *service) {
		stream := s.dial(t)
		<-s.told
		time.Sleep(time.Minute)
		if len(s.noticed()) != 0 || s.resumed() != 1 {
			t.Errorf("notices %v, %d resumes", s.noticed(), s.resumed())
		}
		stream.Close()
	})
}

func TestTheAgentIsToldAgainThatTheClientIsBack(t *testing.T) {
	inBubble(t, scripts(handshakeThen(func(p *peer) {
		p.ws.SetReadDeadline(time.Now().Add(time.Second))
		p.drain()
	}), func(p *peer) {
		began := time.Now()
		for {
			m, err := p.next()
			if err != nil {
				break
			}
			seq, err := acknowledgedSequence(m.Payload)
			if m.Type != Acknowledge || err != nil {
				t.Errorf("%s, %v", m.Type, err)
			}
			p.told <- fmt.Sprintf("%d after %v", seq, time.Since(began))
		}
		close(p.told)
	}), func(t *testing.T, s *service) {
		stream := s.dial(t)
		time.Sleep(5 * time.Minute)
		stream.Close()
		var told []any
		for at := range s.told {
			told = append(told, at)
		}
		want := []any{"0 after 0s", "1 after 0s", "1 after 500ms", "1 after 1.5s", "1 after 3.5s",
			"1 after 7.5s", "1 after 15.5s", "1 after 31.5s", "1 after 1m3.5s"}
		if !slices.Equal(told, want) {
			t.Errorf("acknowledged %q, want %q", told, want)
		}
	})
}

func TestAConnectionThatFollowsAnotherMayHaveNothingToRepeat(t *testing.T) {
	inBubble(t, scripts(func(p *peer) {}, func(p *peer) {
		time.Sleep(10 * time.Second) // passes only while the client sleeps too
		p.handshake()
		p.drain()
	}), func(t *testing.T, s *service) {
		s.dial(t)
	})
}

func TestRetriesSlowDownAndEndAfter15Minutes(t *testing.T) {
	inBubble(t, scripts(handshakeThen(func(p *peer) {})), func(t *testing.T, s *service) {
		s.resumeBy = func(int) (Grant, error) { return Grant{}, errors.New("ThrottlingException") }
		stream := s.dial(t)
		began := time.Now()
		_, err := stream.Read(make([]byte, 1))
		took := time.Since(began)
		if err == nil || !strings.Contains(err.Error(), "not resumed within 15m0s") || !strings.Contains(err.Error(), "Throttling") {
			t.Errorf("error %v", err)
		}
		if took < 15*time.Minute || took > 15*time.Minute+10*time.Second {
			t.Errorf("after %v", took)
		}
		if s.resumed() < 200 || s.resumed() > 500 {
			t.Errorf("%d retries in 15 minutes", s.resumed())
		}
		stream.Close()
	})
}

func TestResumingEndsAtOnceWhereItCannotSucceed(t *testing.T) {
	for _, final := range []error{ErrSessionOver, Permanent(errors.New("access denied"))} {
		t.Run(final.Error(), func(t *testing.T) {
			inBubble(t, scripts(handshakeThen(func(p *peer) {})), func(t *testing.T, s *service) {
				s.resumeBy = func(int) (Grant, error) { return Grant{}, final }
				stream := s.dial(t)
				if _, err := stream.Read(make([]byte, 1)); !errors.Is(err, final) || s.resumed() != 1 {
					t.Errorf("%v after %d calls", err, s.resumed())
				}
				stream.Close()
			})
		})
	}
}

func TestAConnectionThatBreaksAtOnceIsRetriedEverMoreSlowly(t *testing.T) {
	inBubble(t, scripts(handshakeThen(func(p *peer) {}), func(p *peer) {}), func(t *testing.T, s *service) {
		stream := s.dial(t)
		time.Sleep(time.Minute)
		if s.resumed() < 10 || s.resumed() > 40 {
			t.Errorf("%d resumes in a minute", s.resumed())
		}
		stream.Close()
	})
}

func TestConnectionsThatBreakAtOnceAreToldAsOneLoss(t *testing.T) {
	drop := func(*peer) {}
	inBubble(t, scripts(handshakeThen(drop), drop, drop, drop, drop, drop, drop, (*peer).drain), func(t *testing.T, s *service) {
		stream := s.dial(t)
		time.Sleep(time.Minute)
		if got, want := s.noticed(), []Notice{NoticeLost, NoticeResumed}; !slices.Equal(got, want) {
			t.Errorf("notices %v, want %v", got, want)
		}
		stream.Close()
	})
}

func TestASignedUpgradeRefusedAtFirstIsTriedUnsigned(t *testing.T) {
	inBubble(t, scripts(handshakeThen((*peer).drain)), func(t *testing.T, s *service) {
		s.refuse = func(signed bool) bool { return signed }
		s.dial(t).Close()
		if got, want := s.noticed(), []Notice{NoticeUnsigned}; !slices.Equal(got, want) {
			t.Errorf("notices %v, want %v", got, want)
		}
	})
}

func TestASignedUpgradeRefusedLaterIsSignedAfresh(t *testing.T) {
	inBubble(t, scripts(handshakeThen(func(*peer) {}), (*peer).drain), func(t *testing.T, s *service) {
		var signed, unsigned atomic.Int64
		s.refuse = func(isSigned bool) bool {
			if !isSigned {
				unsigned.Add(1)
				return false
			}
			return signed.Add(1) == 2
		}
		stream := s.dial(t)
		time.Sleep(time.Minute)
		if signed.Load() != 3 || unsigned.Load() != 0 || len(s.noticed()) != 0 {
			t.Errorf("%d signed upgrades, %d unsigned, notices %v", signed.Load(), unsigned.Load(), s.noticed())
		}
		stream.Close()
	})
}

func TestAnUpgradeRefusedBothWaysIsFinal(t *testing.T) {
	inBubble(t, scripts((*peer).drain), func(t *testing.T, s *service) {
		s.refuse = func(bool) bool { return true }
		if _, err := Dial(t.Context(), grant, s.config()); !errors.Is(err, ErrUpgradeRefused) || s.resumed() != 0 {
			t.Errorf("%v after %d resumes", err, s.resumed())
		}
	})
}

func TestAnAgentThatVanishesForGoodEndsTheStream(t *testing.T) {
	inBubble(t, scripts(handshakeThen((*peer).swallow), (*peer).swallow), func(t *testing.T, s *service) {
		stream := s.dial(t)
		stream.Write([]byte("hello"))
		began := time.Now()
		_, err := stream.Read(make([]byte, 1))
		if took := time.Since(began); err == nil || took > 17*time.Minute {
			t.Errorf("%v after %v", err, took)
		}
		stream.Close()
	})
}

func TestDialGivesUpOnAServiceThatClosesAtOnce(t *testing.T) {
	inBubble(t, scripts(func(*peer) {}), func(t *testing.T, s *service) {
		began := time.Now()
		_, err := Dial(t.Context(), grant, s.config())
		if err == nil || !strings.Contains(err.Error(), "closes the data channel") || time.Since(began) > 3*time.Second {
			t.Errorf("%v after %v", err, time.Since(began))
		}
		if n := s.noticed(); len(n) != 0 {
			t.Errorf("notices %v of a connection that never was", n)
		}
	})
}

// Where each connection breaks after a few frames, acknowledgements alone must
// not fill it.
func TestANewConnectionGetsFewAcknowledgementsUntilTheAgentIsHeard(t *testing.T) {
	const outputs = 40
	inBubble(t, scripts(handshakeThen(func(p *peer) {
		for seq := range int64(outputs) {
			p.output(2+seq, "x")
		}
		for range outputs / 2 {
			p.next()
		}
	}), func(p *peer) {
		frames := 0
		quiet := time.AfterFunc(time.Second, func() { p.output(2, "x") })
		defer quiet.Stop()
		began := time.Now()
		for ; frames < outputs; frames++ {
			if _, err := p.next(); err != nil || time.Since(began) >= time.Second {
				break
			}
		}
		p.told <- frames
		p.drain()
	}), func(t *testing.T, s *service) {
		stream := s.dial(t)
		if got := (<-s.told).(int); got == 0 || got > outputs/2 {
			t.Errorf("%d acknowledgements, want a few", got)
		}
		stream.Close()
	})
}
