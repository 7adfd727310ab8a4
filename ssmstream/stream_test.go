package ssmstream

import (
	"context"
	"errors"
	"io"
	"net"
	"os"
	"slices"
	"strings"
	"sync/atomic"
	"testing"
	"testing/synctest"
	"time"
)

func scripts(s ...func(*peer)) []func(*peer) { return s }

func TestDialAnswersTheHandshake(t *testing.T) {
	var response, opened string
	inBubble(t, scripts(func(p *peer) {
		p.send(Message{Type: OutputStreamData, PayloadType: PayloadHandshakeRequest,
			Payload: []byte(`{"RequestedClientActions":[{"ActionType":"SessionType","ActionParameters":{"SessionType":"Port","Properties":{}}}]}`)})
		m, _ := p.nextData()
		response, opened = string(m.Payload), p.open.TokenValue
		if m.SequenceNumber != 0 || m.PayloadType != PayloadHandshakeResponse || m.Flags != 0 {
			t.Errorf("response is message %d of type %d, flags %d", m.SequenceNumber, m.PayloadType, m.Flags)
		}
		p.acknowledge(m)
		p.send(Message{Type: OutputStreamData, SequenceNumber: 1, PayloadType: PayloadHandshakeComplete, Payload: []byte(`{}`)})
		p.drain()
	}), func(t *testing.T, s *service) {
		s.dial(t).Close()
		const want = `{"ClientVersion":"1.2.896.0","ProcessedClientActions":[{"ActionType":"SessionType","ActionStatus":1,"ActionResult":null,"Error":""}],"Errors":[]}`
		if response != want || opened != grant.Token {
			t.Errorf("response %s\nwant     %s, token %q", response, want, opened)
		}
	})
}

func TestDialGivesUpOnAHandshakeThatNeverCompletes(t *testing.T) {
	inBubble(t, scripts((*peer).drain), func(t *testing.T, s *service) {
		began := time.Now()
		_, err := Dial(t.Context(), grant, s.config())
		if !errors.Is(err, ErrHandshake) || time.Since(began) != 30*time.Second {
			t.Errorf("%v after %v", err, time.Since(began))
		}
	})
}

func TestDialNamesWhatItDoesNotSupport(t *testing.T) {
	inBubble(t, scripts(func(p *peer) {
		p.send(Message{Type: OutputStreamData, PayloadType: PayloadHandshakeRequest,
			Payload: []byte(`{"RequestedClientActions":[{"ActionType":"KMSEncryption","ActionParameters":{"KMSKeyId":"k"}}]}`)})
		m, _ := p.nextData()
		if !strings.Contains(string(m.Payload), `"ActionStatus":3`) {
			t.Errorf("response %s", m.Payload)
		}
		p.acknowledge(m)
		p.closeChannel("handshake failed")
	}), func(t *testing.T, s *service) {
		_, err := Dial(t.Context(), grant, s.config())
		var closed *ClosedError
		if !errors.As(err, &closed) || !strings.Contains(err.Error(), "KMSEncryption") {
			t.Errorf("error %v", err)
		}
	})
}

func TestAnAgentOlderThanTheHandshakeWorks(t *testing.T) {
	inBubble(t, scripts(func(p *peer) {
		p.output(0, "SSH-2.0-old\r\n")
		p.drain()
	}), func(t *testing.T, s *service) {
		stream := s.dial(t)
		got := make([]byte, 100)
		n, err := stream.Read(got)
		if string(got[:n]) != "SSH-2.0-old\r\n" || err != nil {
			t.Errorf("read %q, %v", got[:n], err)
		}
		stream.Close()
	})
}

func TestALoneNewlineStaysOne(t *testing.T) {
	inBubble(t, scripts(func(p *peer) {
		p.handshake()
		m, _ := p.nextData()
		p.told <- string(m.Payload)
		p.drain()
	}), func(t *testing.T, s *service) {
		stream := s.dial(t)
		stream.Write([]byte("\n"))
		if got := <-s.told; got != "\n" {
			t.Errorf("arrived as %q", got)
		}
		stream.Close()
	})
}

func TestTheFirstBytesGoAgainAtTheFirstOutput(t *testing.T) {
	inBubble(t, scripts(func(p *peer) {
		p.handshake()
		first, _ := p.nextData() // lost: the port's connection does not stand
		time.Sleep(50 * time.Millisecond)
		p.output(2, "SSH-2.0-x\r\n")
		began := time.Now()
		again, _ := p.nextData()
		if again.SequenceNumber != first.SequenceNumber || string(again.Payload) != "hello" {
			t.Errorf("got %d %q", again.SequenceNumber, again.Payload)
		}
		p.told <- time.Since(began)
		p.acknowledge(again)
		p.drain()
	}), func(t *testing.T, s *service) {
		stream := s.dial(t)
		stream.Write([]byte("hello"))
		if d := <-s.told; d != time.Duration(0) {
			t.Errorf("after %v", d)
		}
		stream.Close()
	})
}

func TestTheFirstBytesGoAgainByTimerWhereNoOutputComes(t *testing.T) {
	var intervals []time.Duration
	inBubble(t, scripts(func(p *peer) {
		p.handshake()
		var last time.Time
		for range 4 {
			if _, err := p.nextData(); err != nil {
				break
			}
			if !last.IsZero() {
				intervals = append(intervals, time.Since(last))
			}
			last = time.Now()
		}
		p.told <- true
		p.drain()
	}), func(t *testing.T, s *service) {
		stream := s.dial(t)
		stream.Write([]byte("hello"))
		<-s.told
		for i := range intervals {
			intervals[i] = intervals[i].Round(time.Millisecond)
		}
		if want := []time.Duration{minVariation, 2 * minVariation, 4 * minVariation}; !slices.Equal(intervals, want) {
			t.Errorf("sent again after %v, want %v", intervals, want)
		}
		stream.Close()
	})
}

// handshakeThen completes the handshake and goes on with script.
func handshakeThen(script func(*peer)) func(*peer) {
	return func(p *peer) {
		p.handshake()
		script(p)
	}
}

func TestAfterAPauseWhatIsMissingGoesAgainAtOnce(t *testing.T) {
	inBubble(t, scripts(handshakeThen(func(p *peer) {
		p.nextData()
		p.send(Message{Type: PausePublication})
		time.Sleep(20 * time.Millisecond)
		p.send(Message{Type: StartPublication})
		began := time.Now()
		m, _ := p.nextData()
		p.told <- time.Since(began)
		p.acknowledge(m)
		p.drain()
	})), func(t *testing.T, s *service) {
		stream := s.dial(t)
		stream.Write([]byte("hello"))
		if d := <-s.told; d != time.Duration(0) {
			t.Errorf("after %v", d)
		}
		stream.Close()
	})
}

func TestWhatAnAbsentAgentMissedGoesAgainWhenItIsHeard(t *testing.T) {
	const absence = 4 * time.Second
	inBubble(t, scripts(handshakeThen(func(p *peer) {
		p.output(2, "SSH-2.0-test\r\n")
		began := time.Now()
		back := time.AfterFunc(absence, func() { p.output(3, "x") })
		defer back.Stop()
		for {
			m, err := p.nextData()
			if err != nil {
				return
			}
			if since := time.Since(began); since >= absence {
				p.told <- since
				p.acknowledge(m)
				break
			}
		}
		p.drain()
	})), func(t *testing.T, s *service) {
		stream := s.dial(t)
		if _, err := stream.Write([]byte("missed")); err != nil {
			t.Fatal(err)
		}
		if got := (<-s.told).(time.Duration); got > absence+10*time.Millisecond {
			t.Errorf("sent again %v after the agent was heard", got-absence)
		}
		stream.Close()
	})
}

func TestOnANewConnectionDataWaitsAgainForTheFirstOutput(t *testing.T) {
	inBubble(t, scripts(handshakeThen(func(p *peer) {
		p.nextData() // after a moment, without a greeting; then the connection breaks
	}), func(p *peer) {
		began := time.Now()
		greeting := time.AfterFunc(firstDataAfter/2, func() { p.output(2, "SSH-2.0-test\r\n") })
		defer greeting.Stop()
		if m, err := p.nextData(); err == nil {
			p.told <- time.Since(began)
			p.acknowledge(m)
		}
		p.drain()
	}), func(t *testing.T, s *service) {
		stream := s.dial(t)
		if _, err := stream.Write([]byte("x")); err != nil {
			t.Fatal(err)
		}
		if got := (<-s.told).(time.Duration); got < firstDataAfter/2 || got > firstDataAfter/2+time.Millisecond {
			t.Errorf("data came %v after the reconnect, want %v", got, firstDataAfter/2)
		}
		stream.Close()
	})
}

func TestADuplicateHasLaterAcknowledgementsRepeatedOnce(t *testing.T) {
	inBubble(t, scripts(handshakeThen(func(p *peer) {
		acknowledged := func(last int64) (numbers []int64) { // up to that of message last
			for !slices.Contains(numbers, last) {
				m, err := p.next()
				if err != nil {
					break
				}
				seq, _ := acknowledgedSequence(m.Payload)
				numbers = append(numbers, seq)
			}
			return numbers
		}
		for seq := int64(2); seq < 6; seq++ {
			p.output(seq, "x")
		}
		acknowledged(5) // as far as the client knows
		time.Sleep(time.Second)
		p.output(2, "x")
		p.told <- acknowledged(5)
		p.output(2, "x")
		p.output(6, "x")
		p.told <- acknowledged(6)
		p.drain()
	})), func(t *testing.T, s *service) {
		stream := s.dial(t)
		for _, want := range [][]int64{{2, 3, 4, 5}, {2, 6}} {
			if got := <-s.told; !slices.Equal(got.([]int64), want) {
				t.Errorf("acknowledged %v, want %v", got, want)
			}
		}
		stream.Close()
	})
}

func TestDataWaitsForTheFirstOutput(t *testing.T) {
	for name, test := range map[string]struct{ output, want time.Duration }{
		"as sshd sends it": {300 * time.Millisecond, 300 * time.Millisecond},
		"for a moment":     {time.Hour, firstDataAfter},
	} {
		t.Run(name, func(t *testing.T) {
			inBubble(t, scripts(handshakeThen(func(p *peer) {
				began := time.Now()
				greeting := time.AfterFunc(test.output, func() { p.output(2, "SSH-2.0-test\r\n") })
				defer greeting.Stop()
				if m, err := p.nextData(); err == nil {
					p.told <- time.Since(began)
					p.acknowledge(m)
				}
				p.drain()
			})), func(t *testing.T, s *service) {
				stream := s.dial(t)
				if _, err := stream.Write([]byte("x")); err != nil {
					t.Fatal(err)
				}
				if got := (<-s.told).(time.Duration); got < test.want || got > test.want+time.Millisecond {
					t.Errorf("data came %v after the handshake, want %v", got, test.want)
				}
				stream.Close()
			})
		})
	}
}

func TestTheEndOfAChannel(t *testing.T) {
	for name, test := range map[string]struct {
		end  func(*peer)
		want string
		is   error
	}{
		"no words":       {func(p *peer) { p.closeChannel("") }, "EOF", io.EOF},
		"words":          {func(p *peer) { p.closeChannel("connection refused") }, "connection refused", nil},
		"output missing": {func(p *peer) { p.output(5, "late"); p.closeChannel("") }, "output missing", io.ErrUnexpectedEOF},
	} {
		t.Run(name, func(t *testing.T) {
			inBubble(t, scripts(handshakeThen(func(p *peer) {
				p.output(2, "tail")
				test.end(p)
				p.drain()
			})), func(t *testing.T, s *service) {
				stream := s.dial(t)
				got, err := io.ReadAll(stream)
				if err == nil {
					err = io.EOF
				}
				if string(got) != "tail" || !strings.Contains(err.Error(), test.want) || test.is != nil && !errors.Is(err, test.is) {
					t.Errorf("%q, then %v", got, err)
				}
				if _, err := stream.Write([]byte("x")); err == nil {
					t.Error("it can still be written")
				}
				stream.Close()
			})
		})
	}
}

func TestTerminateSendsWhatWasWrittenThenTheFlag(t *testing.T) {
	var got []string
	inBubble(t, scripts(handshakeThen(func(p *peer) {
		p.output(2, "greeting, ")
		for {
			m, err := p.nextData()
			if err != nil {
				return
			}
			if m.PayloadType == PayloadFlag {
				got = append(got, "flag "+string('0'+m.Payload[3]))
				p.output(3, "last words")
			} else {
				got = append(got, string(m.Payload))
			}
			p.acknowledge(m)
		}
	})), func(t *testing.T, s *service) {
		stream := s.dial(t)
		synctest.Wait()
		stream.Write([]byte("a"))
		stream.Write([]byte("b"))
		if err := stream.Terminate(t.Context()); err != nil {
			t.Error(err)
		}
		if tail, err := io.ReadAll(stream); string(tail) != "greeting, last words" || err != nil {
			t.Errorf("read %q, %v", tail, err)
		}
		if want := []string{"a", "b", "flag 2"}; !slices.Equal(got, want) {
			t.Errorf("the agent got %q", got)
		}
		if _, err := stream.Write([]byte("x")); !errors.Is(err, net.ErrClosed) {
			t.Errorf("write: %v", err)
		}
		stream.Close()
	})
}

func TestTerminateEndsWithItsContextWhereNobodyAcknowledges(t *testing.T) {
	inBubble(t, scripts(handshakeThen((*peer).swallow)), func(t *testing.T, s *service) {
		stream := s.dial(t)
		ctx, cancel := context.WithTimeout(t.Context(), 3*time.Second)
		defer cancel()
		if err := stream.Terminate(ctx); !errors.Is(err, context.DeadlineExceeded) {
			t.Error(err)
		}
		stream.Close()
	})
}

func TestTerminateLetsAWriteFinish(t *testing.T) {
	total := 0
	inBubble(t, scripts(handshakeThen(func(p *peer) {
		for {
			m, err := p.nextData()
			if err != nil {
				return
			}
			if m.PayloadType == PayloadOutput {
				total += len(m.Payload)
			}
			p.acknowledge(m)
		}
	})), func(t *testing.T, s *service) {
		stream := s.dial(t)
		const size = 300 << 10
		go stream.Write(make([]byte, size))
		synctest.Wait()
		if err := stream.Terminate(t.Context()); err != nil || total != size {
			t.Errorf("%d of %d bytes, %v", total, size, err)
		}
		stream.Close()
	})
}

func TestDeadlines(t *testing.T) {
	inBubble(t, scripts(handshakeThen((*peer).swallow)), func(t *testing.T, s *service) {
		stream := s.dial(t)
		began := time.Now()
		stream.SetReadDeadline(began.Add(time.Second))
		if _, err := stream.Read(make([]byte, 1)); !errors.Is(err, os.ErrDeadlineExceeded) || time.Since(began) != time.Second {
			t.Errorf("read: %v after %v", err, time.Since(began))
		}
		began = time.Now()
		stream.SetWriteDeadline(began.Add(time.Second))
		n, err := stream.Write(make([]byte, 10<<20))
		if !errors.Is(err, os.ErrDeadlineExceeded) || time.Since(began) != time.Second || n < initialWindow/2 {
			t.Errorf("write: %d, %v after %v", n, err, time.Since(began))
		}
		stream.SetDeadline(time.Time{})
		go func() {
			time.Sleep(time.Second)
			stream.SetReadDeadline(time.Now()) // also for a Read that waits already
		}()
		if _, err := stream.Read(make([]byte, 1)); !errors.Is(err, os.ErrDeadlineExceeded) {
			t.Errorf("read: %v", err)
		}
		stream.Close()
	})
}

func TestCloseEndsWhoWaits(t *testing.T) {
	inBubble(t, scripts(handshakeThen((*peer).swallow)), func(t *testing.T, s *service) {
		stream := s.dial(t)
		ended := make(chan error, 2)
		go func() { _, err := stream.Read(make([]byte, 1)); ended <- err }()
		go func() { _, err := stream.Write(make([]byte, 10<<20)); ended <- err }()
		synctest.Wait()
		stream.Close()
		for range 2 {
			if err := <-ended; !errors.Is(err, net.ErrClosed) {
				t.Error(err)
			}
		}
	})
}

func TestAStalledReaderHoldsTheGatewayBack(t *testing.T) {
	var sent atomic.Int64
	inBubble(t, scripts(handshakeThen(func(p *peer) {
		go p.drain()
		payload := strings.Repeat("x", 1024)
		p.ws.SetWriteDeadline(time.Now().Add(time.Minute))
		for seq := int64(2); seq < 4096; seq++ {
			p.output(seq, payload)
			sent.Add(1)
		}
		p.closeChannel("")
	})), func(t *testing.T, s *service) {
		stream := s.dial(t)
		synctest.Wait()
		stream.mu.Lock()
		held := stream.recv.unread.Len()
		stream.mu.Unlock()
		if held < maxUnread || held > maxUnread+4096 {
			t.Errorf("%d bytes held for a reader that does not read", held)
		}
		stalled := sent.Load()
		got, err := io.ReadAll(stream)
		if len(got) != 4094*1024 || err != nil || stalled > 1200 {
			t.Errorf("%d bytes, %v; %d messages were taken before", len(got), err, stalled)
		}
		stream.Close()
	})
}

func TestAcknowledgementsAreTakenBesideAStalledReader(t *testing.T) {
	inBubble(t, scripts(handshakeThen(func(p *peer) {
		payload := strings.Repeat("x", 1024)
		for seq := int64(2); seq < 1500; seq++ { // more than is kept for a reader
			p.output(seq, payload)
			if seq == 10 {
				m, err := p.nextData()
				if err != nil {
					return
				}
				defer p.acknowledge(m)
			}
		}
	})), func(t *testing.T, s *service) {
		stream := s.dial(t)
		stream.Write([]byte("key"))
		synctest.Wait()
		stream.mu.Lock()
		defer stream.mu.Unlock()
		if stream.send.unacked != 0 {
			t.Error("the keystroke is not acknowledged")
		}
		if held := stream.recv.unread.Len(); held > maxUnreadBusy {
			t.Errorf("%d bytes held", held)
		}
	})
}
