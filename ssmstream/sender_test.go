package ssmstream

import (
	"bytes"
	"slices"
	"testing"
	"time"
)

var start = time.Date(2026, 1, 2, 3, 4, 5, 0, time.UTC)

func newSender() *sender {
	s := new(sender)
	s.window.restart()
	return s
}

// popped returns the numbers of everything that is to be sent at now.
func popped(t *testing.T, s *sender, now time.Time) []int64 {
	t.Helper()
	var numbers []int64
	for {
		frame := s.pop(now)
		if frame == nil {
			return numbers
		}
		var m Message
		if err := m.Decode(frame); err != nil {
			t.Fatal(err)
		}
		numbers = append(numbers, m.SequenceNumber)
	}
}

func write(s *sender, messages int, now time.Time) {
	for range messages {
		s.write([]byte("x"), now)
	}
}

func TestSenderCutsInOrderAtMaxPayload(t *testing.T) {
	s := newSender()
	data := benchmarkPayload()
	data = append(data, data...)[:MaxPayload+10]
	if n := s.write(data, start); n != len(data) {
		t.Fatalf("took %d of %d", n, len(data))
	}
	var got []byte
	for frame := s.pop(start); frame != nil; frame = s.pop(start) {
		var m Message
		if err := m.Decode(frame); err != nil || m.Type != InputStreamData || m.PayloadType != PayloadOutput {
			t.Fatal(m, err)
		}
		if m.Flags != 0 { // the agent alone sets SYN
			t.Errorf("message %d has flags %d", m.SequenceNumber, m.Flags)
		}
		got = append(got, m.Payload...)
	}
	if !bytes.Equal(got, data) {
		t.Error("the payloads are not what was written")
	}
}

func TestSenderStopsAtItsWindow(t *testing.T) {
	s := newSender()
	n := s.write(make([]byte, 1<<20), start)
	if n > initialWindow || n < initialWindow/2 {
		t.Fatalf("admitted %d bytes into a window of %d", n, initialWindow)
	}
	if s.write([]byte("x"), start) != 0 {
		t.Error("admitted more than the window")
	}
	popped(t, s, start)
	s.acknowledge(0, start.Add(time.Millisecond))
	if s.write([]byte("x"), start) == 0 {
		t.Error("an acknowledgement made no room")
	}
}

func TestSenderIgnoresAcknowledgementsOfWhatIsNotThere(t *testing.T) {
	s := newSender()
	write(s, 2, start)
	for _, seq := range []int64{-1, 0, 1, 2, 1 << 62} { // 0 and 1 are not sent yet
		if s.acknowledge(seq, start) {
			t.Errorf("%d counted", seq)
		}
	}
	popped(t, s, start)
	if !s.acknowledge(0, start) || s.acknowledge(0, start) {
		t.Error("the same acknowledgement counts once")
	}
}

func TestThreeLaterAcknowledgementsMeanLost(t *testing.T) {
	s := newSender()
	write(s, 10, start)
	popped(t, s, start)
	now := start.Add(10 * time.Millisecond)
	for _, seq := range []int64{1, 2} {
		s.acknowledge(seq, now)
		if got := popped(t, s, now); got != nil {
			t.Fatalf("sent %v again after %d", got, seq)
		}
	}
	s.acknowledge(3, now)
	if got := popped(t, s, now); !slices.Equal(got, []int64{0}) {
		t.Fatalf("sent %v again, want only what is missing, 0", got)
	}
	for seq := int64(4); seq < 10; seq++ {
		s.acknowledge(seq, now)
	}
	if got := popped(t, s, now); got != nil {
		t.Fatalf("sent %v once more, with no later transmission acknowledged", got)
	}
	write(s, 3, now)
	popped(t, s, now)
	for seq := int64(10); seq < 13; seq++ {
		s.acknowledge(seq, now)
	}
	if got := popped(t, s, now); !slices.Equal(got, []int64{0}) {
		t.Fatalf("sent %v, want 0: the second transmission is lost, too", got)
	}
}

func TestTimeoutSendsAgainFromTheOldestOn(t *testing.T) {
	s := newSender()
	write(s, 3, start)
	popped(t, s, start)
	if want := start.Add(initialRTO); !s.timerAt.Equal(want) {
		t.Fatalf("timer at %v, want %v: RFC 6298 2.1", s.timerAt.Sub(start), initialRTO)
	}
	s.acknowledge(1, start.Add(50*time.Millisecond))
	if want := start.Add(50*time.Millisecond + 50*time.Millisecond + minVariation); !s.timerAt.Equal(want) {
		t.Fatalf("timer at %v, want the round trip's from the last acknowledgement on", s.timerAt.Sub(start))
	}
	now := s.timerAt
	s.timeout(now)
	if got := popped(t, s, now); !slices.Equal(got, []int64{0, 2}) {
		t.Fatalf("sent %v again, want what is unacknowledged, in order", got)
	}
	if want := now.Add(2 * (50*time.Millisecond + minVariation)); !s.timerAt.Equal(want) {
		t.Errorf("timer at %v, want twice as long: RFC 6298 5.5", s.timerAt.Sub(now))
	}
}

func TestTheTimerStopsWhenNothingIsUnacknowledged(t *testing.T) {
	s := newSender()
	write(s, 1, start)
	popped(t, s, start)
	s.acknowledge(0, start.Add(time.Millisecond))
	if !s.timerAt.IsZero() {
		t.Error("it runs")
	}
}

func TestKarnTakesNoSampleOfWhatWasSentTwice(t *testing.T) {
	s := newSender()
	write(s, 1, start)
	popped(t, s, start)
	s.timeout(start.Add(time.Second))
	popped(t, s, start.Add(time.Second))
	s.acknowledge(0, start.Add(time.Second+time.Millisecond))
	if s.rtt.srtt != 0 || s.rtt.backoff != 1 {
		t.Errorf("sampled %v, backoff %d: the timeout stays doubled until a fresh sample", s.rtt.srtt, s.rtt.backoff)
	}
	write(s, 1, start)
	popped(t, s, start)
	s.acknowledge(1, start.Add(time.Millisecond))
	if s.rtt.backoff != 0 {
		t.Error("a fresh sample left the backoff")
	}
}

func TestAfterAReconnectEverythingUnacknowledgedGoesAgainAsTheWindowAllows(t *testing.T) {
	s := newSender()
	s.window.size = maxWindow
	for range 128 {
		s.write(make([]byte, MaxPayload), start)
	}
	popped(t, s, start)
	s.acknowledge(1, start)
	s.reconnected()
	got := popped(t, s, start)
	if len(got) < 10 || got[0] != 0 || got[1] != 2 {
		t.Fatalf("sent %v", got)
	}
	if s.flight.bytes < initialWindow || s.flight.bytes > initialWindow+MaxPayload+payloadOffset {
		t.Errorf("%d bytes at once, the window is %d", s.flight.bytes, initialWindow)
	}
	seen := map[int64]bool{1: true}
	for len(got) > 0 {
		for _, seq := range got {
			if seen[seq] {
				t.Fatalf("%d sent twice", seq)
			}
			seen[seq] = true
			s.acknowledge(seq, start.Add(time.Millisecond))
		}
		got = popped(t, s, start)
	}
	if s.base != s.next || s.unacked != 0 || s.flight.bytes != 0 || s.queued != 0 || len(seen) != 128 {
		t.Errorf("left: base %d next %d unacked %d flight %d queued %d", s.base, s.next, s.unacked, s.flight.bytes, s.queued)
	}
}

func TestRTTFollowsRFC6298(t *testing.T) {
	var e rttEstimator
	e.sample(100 * time.Millisecond)
	if e.rto() != 300*time.Millisecond { // 2.2: srtt + 4 * srtt/2
		t.Errorf("first timeout %v", e.rto())
	}
	e.sample(200 * time.Millisecond) // 2.3: rttvar = 3/4*50 + 1/4*100, srtt = 7/8*100 + 1/8*200
	if e.rttvar != 62500*time.Microsecond || e.srtt != 112500*time.Microsecond {
		t.Errorf("srtt %v rttvar %v", e.srtt, e.rttvar)
	}
	steady := rttEstimator{}
	for range 100 {
		steady.sample(300 * time.Millisecond)
	}
	if steady.rto() != 500*time.Millisecond {
		t.Errorf("a steady path times out after %v", steady.rto())
	}
	e.backoff = 30
	if e.rto() != maxRTO {
		t.Errorf("timeout %v after 30 of them", e.rto())
	}
}

// path is a pipe of a rate and a delay that acknowledges what has crossed it.
type path struct {
	s           *sender
	rate        float64 // bytes/s
	rtt         time.Duration
	free        time.Time // when the pipe has carried all that it holds
	acks        []pathAck
	worst       time.Duration // the longest queue, after settling
	transferred int
}

type pathAck struct {
	at  time.Time
	seq int64
}

func (p *path) run(t *testing.T, total time.Duration, settle time.Duration) {
	now := start
	p.free = now
	payload := make([]byte, 32<<10)
	for now.Before(start.Add(total)) {
		p.s.write(payload, now)
		for frame := p.s.pop(now); frame != nil; frame = p.s.pop(now) {
			var m Message
			if err := m.Decode(frame); err != nil {
				t.Fatal(err)
			}
			p.free = latest(p.free, now).Add(time.Duration(float64(len(frame)) / p.rate * 1e9))
			if queue := p.free.Sub(now); now.Sub(start) > settle && queue > p.worst {
				p.worst = queue
			}
			p.acks = append(p.acks, pathAck{p.free.Add(p.rtt), m.SequenceNumber})
		}
		if at := p.s.timerAt; !at.IsZero() && len(p.acks) > 0 && at.Before(p.acks[0].at) {
			p.s.timeout(at)
			now = at
			continue
		}
		now = p.acks[0].at
		if p.s.acknowledge(p.acks[0].seq, now) && now.Sub(start) > settle {
			p.transferred += MaxPayload
		}
		p.acks = p.acks[1:]
	}
}

func TestTheWindowFillsThePathAndNotItsQueue(t *testing.T) {
	for name, p := range map[string]path{
		"0.5 MB/s, 40 ms": {rate: 500e3, rtt: 40 * time.Millisecond},
		"2 MB/s, 40 ms":   {rate: 2e6, rtt: 40 * time.Millisecond},
		"8 MB/s, 200 ms":  {rate: 8e6, rtt: 200 * time.Millisecond},
		"30 MB/s, 50 ms":  {rate: 30e6, rtt: 50 * time.Millisecond},
		"50 MB/s, 1 ms":   {rate: 50e6, rtt: time.Millisecond},
	} {
		t.Run(name, func(t *testing.T) {
			p.s = newSender()
			p.run(t, 20*time.Second, 4*time.Second)
			used := float64(p.transferred) / 16 / p.rate
			t.Logf("used %.2f of the path, queue at most %v, %d sent again", used, p.worst, p.s.resent)
			if used < 0.9*float64(MaxPayload)/(MaxPayload+payloadOffset) {
				t.Errorf("used only %.2f of the path", used)
			}
			if p.worst > 100*time.Millisecond {
				t.Errorf("our own queue adds %v", p.worst)
			}
		})
	}
}

func TestTheWindowOpensOnALongPath(t *testing.T) {
	p := path{s: newSender(), rate: 100e6, rtt: 200 * time.Millisecond}
	p.run(t, 3*time.Second, 2*time.Second)
	if p.s.window.size < maxWindow*9/10 {
		t.Errorf("%d of %d bytes after 3 s", p.s.window.size, maxWindow)
	}
}

func TestThePathMayGrowLonger(t *testing.T) {
	p := path{s: newSender(), rate: 2e6, rtt: 10 * time.Millisecond}
	p.run(t, 5*time.Second, 0)
	p.s.window.base = time.Millisecond // as if the path had been much shorter once
	p.rtt = 300 * time.Millisecond
	p.acks, p.transferred = nil, 0
	p.s.reconnected()
	p.s.window.base = time.Millisecond
	p.run(t, 60*time.Second, 30*time.Second)
	if used := float64(p.transferred) / 30 / p.rate; used < 0.8 {
		t.Errorf("used only %.2f of the longer path", used)
	}
}

// TestTheSteadyStateAllocatesNothing takes a message each way through all of
// the stream but the websocket. (gorilla allocates one messageWriter a frame
// written and one messageReader a frame read.)
func TestTheSteadyStateAllocatesNothing(t *testing.T) {
	s := newStream(grant, Config{}, func() {})
	s.ready, s.greeted = true, true
	ch := new(channel)
	data := benchmarkPayload()
	read := make([]byte, 64<<10)
	scratch := newAckScratch()
	var frame, acknowledgement []byte
	in := Message{Type: OutputStreamData, PayloadType: PayloadOutput, Payload: data[:1024]}
	var m Message
	step := func() {
		if _, err := s.Write(data); err != nil {
			t.Fatal(err)
		}
		for s.send.pop(time.Now()) != nil {
		}
		acknowledgement = appendAcknowledge(acknowledgement[:0], scratch.payload, 1, InputStreamData, UUID{}, s.send.base)
		frame = in.AppendTo(frame[:0])
		in.SequenceNumber++
		for _, f := range [][]byte{acknowledgement, frame} {
			if err := m.Decode(f); err != nil {
				t.Fatal(err)
			}
			s.receive(ch, &m)
		}
		for _, a := range s.acks {
			scratch.frame = appendAcknowledge(scratch.frame[:0], scratch.payload, 1, a.messageType, a.id, a.seq)
		}
		s.acks = s.acks[:0]
		if n, err := s.Read(read); n != 1024 || err != nil {
			t.Fatal(n, err)
		}
	}
	for range 2 * ringSize {
		step()
	}
	if n := testing.AllocsPerRun(1000, step); n != 0 {
		t.Errorf("%v allocations for a message each way", n)
	}
}

func TestAfterATimeoutFewMessagesGoUntilOneIsAcknowledged(t *testing.T) {
	s := newSender()
	s.taking = true
	write(s, 40, start)
	popped(t, s, start)
	now := s.timerAt
	s.timeout(now)
	if got, want := popped(t, s, now), append(numbers(0, leastTrial), 40); !slices.Equal(got, want) { // 40 is a probe
		t.Fatalf("sent %v, want %v", got, want)
	}
	s.acknowledge(0, now)
	if got, want := popped(t, s, now), numbers(leastTrial, 40); !slices.Equal(got, want) {
		t.Errorf("sent %v, want %v", got, want)
	}
}
