package ssmstream

import (
	"encoding/binary"
	"testing"
	"time"
)

// FuzzHostileGateway feeds a stream with whatever a gateway that means harm
// may send: any sequence of frames, with any header and payload. Nothing may
// panic or hang, and memory stays bounded.
func FuzzHostileGateway(f *testing.F) {
	handshake := []byte(`{"RequestedClientActions":[{"ActionType":"SessionType","ActionParameters":{"SessionType":"Port"}}]}`)
	f.Add(encodeSteps(
		step{OutputStreamData, 0, PayloadHandshakeRequest, handshake},
		step{Acknowledge, 0, 0, []byte(`{"AcknowledgedMessageSequenceNumber":0}`)},
		step{OutputStreamData, 1, PayloadHandshakeComplete, []byte(`{"CustomerMessage":"x"}`)},
		step{OutputStreamData, 3, PayloadOutput, []byte("early")},
		step{OutputStreamData, 2, PayloadOutput, []byte("now")},
		step{PausePublication, 0, 0, nil},
		step{StartPublication, 0, 0, nil},
		step{ChannelClosed, 0, 0, []byte(`{"Output":"bye"}`)},
	))
	f.Add(encodeSteps(
		step{OutputStreamData, 1 << 62, PayloadOutput, []byte("far")},
		step{OutputStreamData, -1, PayloadOutput, []byte("before")},
		step{Acknowledge, 0, 0, []byte(`{"AcknowledgedMessageSequenceNumber":9223372036854775807}`)},
		step{"no_such_type", 0, 0, nil},
	))
	f.Fuzz(func(t *testing.T, data []byte) {
		s := newStream(grant, Config{}, func() {})
		ch := new(channel)
		s.live = newLiveness(time.Now())
		s.send.push(PayloadOutput, []byte("waits"), time.Now())
		s.send.pop(time.Now())
		var m Message
		for len(data) > 0 {
			var frame []byte
			frame, data = decodeStep(data)
			if m.Decode(frame) == nil {
				s.receive(ch, &m)
			}
			s.recv.check(t)
			s.send.check(t)
			if len(s.acks) > maxAcks {
				t.Fatalf("%d acknowledgements owed", len(s.acks))
			}
		}
	})
}

// step is one frame of a fuzz input: a byte for the type, the number, the
// payload's type and length, the payload.
type step struct {
	messageType MessageType
	seq         int64
	payloadType PayloadType
	payload     []byte
}

var stepTypes = []MessageType{OutputStreamData, Acknowledge, ChannelClosed, StartPublication, PausePublication, InputStreamData, "no_such_type"}

func encodeSteps(steps ...step) (data []byte) {
	for _, s := range steps {
		for i, t := range stepTypes {
			if t == s.messageType {
				data = append(data, byte(i))
			}
		}
		data = binary.BigEndian.AppendUint64(data, uint64(s.seq))
		data = append(data, byte(s.payloadType))
		data = binary.BigEndian.AppendUint16(data, uint16(len(s.payload)))
		data = append(data, s.payload...)
	}
	return data
}

// decodeStep makes a frame of the next step. A type beyond the table takes the
// payload as the raw frame.
func decodeStep(data []byte) (frame, rest []byte) {
	const header = 12
	if len(data) < header {
		return data, nil
	}
	n := min(int(binary.BigEndian.Uint16(data[10:])), len(data)-header)
	payload, rest := data[header:header+n], data[header+n:]
	if int(data[0]) >= len(stepTypes) {
		return payload, rest
	}
	m := Message{
		Type:           stepTypes[data[0]],
		SequenceNumber: int64(binary.BigEndian.Uint64(data[1:])),
		PayloadType:    PayloadType(data[9]),
		Payload:        payload,
	}
	return m.AppendTo(nil), rest
}

func (r *receiver) check(t *testing.T) {
	t.Helper()
	bytes := 0
	for seq, e := range r.early {
		if seq <= r.expected-1 {
			t.Fatalf("message %d is held, %d is expected", seq, r.expected)
		}
		bytes += len(e.payload) + earlyOverhead
	}
	if bytes != r.earlyBytes || bytes > maxEarly || r.unread.Len() > maxUnreadBusy+maxEarly {
		t.Fatalf("%d bytes held, counted as %d; %d unread", bytes, r.earlyBytes, r.unread.Len())
	}
}

// check compares the sender's counts with what it holds.
func (s *sender) check(t *testing.T) {
	t.Helper()
	unacked, flight, queued, fresh := 0, 0, 0, 0
	for seq := s.base; seq < s.next; seq++ {
		sl := s.slot(seq)
		if sl == nil {
			continue
		}
		switch sl.state {
		case slotInFlight:
			flight += len(sl.frame)
			unacked += len(sl.frame)
			if sl.first == sl.last {
				fresh++
			}
		case slotQueued:
			queued++
			unacked += len(sl.frame)
			if seq < s.cursor {
				t.Fatalf("message %d is queued below the cursor, %d", seq, s.cursor)
			}
		case slotWithheld:
			unacked += len(sl.frame)
			if sl != s.turns.withheld {
				t.Fatalf("message %d is withheld for ever", seq)
			}
		}
	}
	if unacked != s.unacked || flight != s.flight.bytes || queued != s.queued || fresh != s.flight.fresh {
		t.Fatalf("holds %d unacknowledged, %d in flight, %d queued, %d fresh; counts %d, %d, %d, %d",
			unacked, flight, queued, fresh, s.unacked, s.flight.bytes, s.queued, s.flight.fresh)
	}
	for seq := range s.doubts.messages {
		if seq >= s.base && s.slot(seq) != nil {
			t.Fatalf("message %d is in doubt and in the ring", seq)
		}
	}
	if n := len(s.doubts.messages); n > maxDoubts+ringSize {
		t.Fatalf("%d in doubt", n)
	}
}

// FuzzSender checks the sender's counts after any sequence of calls.
func FuzzSender(f *testing.F) {
	f.Add([]byte("wwwwwpppppaaaaatttttwprcpwl"))
	f.Fuzz(func(t *testing.T, calls []byte) {
		s := newSender()
		now := start
		for i, call := range calls {
			now = now.Add(time.Duration(call) * time.Millisecond)
			switch call % 10 {
			case 0:
				s.write(make([]byte, 1+int(call)*40), now)
			case 1:
				if s.pop(now) == nil && s.unacked > 0 && s.timerAt.IsZero() && s.turns.due.IsZero() {
					t.Fatal("nothing to do, and no timer")
				}
			case 2:
				s.acknowledge(s.base, now)
			case 3:
				s.acknowledge(s.base+int64(i%16), now)
			case 4:
				if !s.timerAt.IsZero() && !now.Before(s.timerAt) {
					s.timeout(now)
				}
			case 5:
				s.reconnected()
			case 6:
				s.loseAll()
			case 7:
				s.taking = true
			case 8:
				s.acknowledge(s.doubts.number, now)
			case 9:
				s.loseAll()
				s.try(leastTrial)
			}
			s.check(t)
		}
	})
}
