package ssmstream

import (
	"bytes"
	"encoding/binary"
	"encoding/hex"
	"errors"
	"math/rand/v2"
	"slices"
	"strings"
	"testing"
)

// goldenFrame was put together field by field with another language's tools
// from the table in the protocol's description.
const goldenFrame = "00000074" +
	"696e7075745f73747265616d5f64617461202020202020202020202020202020" +
	"00000001" + "00000199a1b2c3d4" + "0000000000000007" + "0000000000000001" +
	"8899aabbccddeeff0011223344556677" + // the UUID 00112233-4455-6677-8899-aabbccddeeff
	"2cf24dba5fb0a30e26e83b2ac5b9e29e1b161e5c1fa7425e73043362938b9824" +
	"00000001" + "00000005" + "68656c6c6f"

func goldenMessage() Message {
	id, _ := ParseUUID("00112233-4455-6677-8899-aabbccddeeff")
	return Message{
		Type: InputStreamData, CreatedDate: 0x199a1b2c3d4, SequenceNumber: 7,
		Flags: FlagSYN, ID: id, PayloadType: PayloadOutput, Payload: []byte("hello"),
	}
}

func TestMessageEncodesTheGoldenFrame(t *testing.T) {
	m := goldenMessage()
	if got := hex.EncodeToString(m.AppendTo(nil)); got != goldenFrame {
		t.Errorf("got  %s\nwant %s", got, goldenFrame)
	}
}

func TestMessageDecodesTheGoldenFrame(t *testing.T) {
	frame, _ := hex.DecodeString(goldenFrame)
	var m Message
	if err := m.Decode(frame); err != nil {
		t.Fatal(err)
	}
	want := goldenMessage()
	if !bytes.Equal(m.Payload, want.Payload) {
		t.Errorf("payload %q", m.Payload)
	}
	m.Payload, want.Payload = nil, nil
	if got := m; got.Type != want.Type || got.ID != want.ID || got.SequenceNumber != want.SequenceNumber ||
		got.Flags != want.Flags || got.CreatedDate != want.CreatedDate || got.PayloadType != want.PayloadType {
		t.Errorf("got %+v, want %+v", got, want)
	}
}

func TestDecodeNamesTheFieldThatIsWrong(t *testing.T) {
	frame, _ := hex.DecodeString(goldenFrame)
	change := func(at int, b ...byte) []byte {
		c := bytes.Clone(frame)
		copy(c[at:], b)
		return c
	}
	for _, test := range []struct {
		name  string
		frame []byte
		field string
	}{
		{"nothing", nil, "HeaderLength"},
		{"cut short", frame[:115], "HeaderLength"},
		{"cut short behind the header", frame[:119], "HeaderLength"},
		{"header longer than the frame", change(0, 0, 0, 1, 0), "HeaderLength"},
		{"header length of 4 GiB", change(0, 255, 255, 255, 255), "HeaderLength"},
		{"header too short", change(0, 0, 0, 0, 111), "HeaderLength"},
		{"header with half a PayloadType", change(0, 0, 0, 0, 115), "HeaderLength"},
		{"payload shorter than declared", frame[:len(frame)-1], "PayloadLength"},
		{"payload longer than declared", append(bytes.Clone(frame), 0), "PayloadLength"},
		{"declared 4 GiB", change(116, 255, 255, 255, 255), "PayloadLength"},
		{"another schema", change(36, 0, 0, 0, 2), "SchemaVersion"},
		{"no type", change(4, make([]byte, 32)...), "MessageType"},
		{"altered payload", change(120, 'j'), "PayloadDigest"},
		{"altered digest", change(80, 0), "PayloadDigest"},
	} {
		t.Run(test.name, func(t *testing.T) {
			var m Message
			var frameError *FrameError
			if err := m.Decode(test.frame); !errors.As(err, &frameError) || frameError.Field != test.field {
				t.Errorf("got %v, want one about %s", err, test.field)
			}
		})
	}
}

func TestDecodeTakesAPublicationByItsTypeAlone(t *testing.T) {
	for _, kind := range []MessageType{StartPublication, PausePublication} {
		frame := make([]byte, 116)
		copy(frame[offType:], kind)
		got := goldenMessage()
		if err := got.Decode(frame); err != nil || got.Type != kind || got.Payload != nil {
			t.Errorf("%s: got %+v, %v", kind, got, err)
		}
	}
}

func TestDecodeTrimsSpacesAndNULs(t *testing.T) {
	m := goldenMessage()
	frame := m.AppendTo(nil)
	clear(frame[offType+len(m.Type)+3 : offSchemaVersion])
	var got Message
	if err := got.Decode(frame); err != nil || got.Type != InputStreamData {
		t.Errorf("got %q, %v", got.Type, err)
	}
}

func TestDecodeFindsThePayloadBehindALongerHeader(t *testing.T) {
	m := goldenMessage()
	frame := m.AppendTo(nil)
	longer := append(bytes.Clone(frame[:headerLength]), 1, 2, 3, 4)
	longer = append(longer, frame[headerLength:]...)
	binary.BigEndian.PutUint32(longer, headerLength+4)
	var got Message
	if err := got.Decode(longer); err != nil || string(got.Payload) != "hello" {
		t.Errorf("got %q, %v", got.Payload, err)
	}
}

// The service's own messages have no PayloadType, and NULs for padding.
func TestDecodeTakesAHeaderWithoutPayloadType(t *testing.T) {
	want := Message{Type: ChannelClosed, CreatedDate: 1, PayloadType: 1, Payload: []byte(`{"Output":""}`)}
	frame := want.AppendTo(nil)
	clear(frame[offType+len(want.Type) : offSchemaVersion])
	frame = slices.Delete(frame, offPayloadType, headerLength)
	binary.BigEndian.PutUint32(frame, shortHeaderLength)
	got := Message{PayloadType: PayloadOutput} // of the message before
	if err := got.Decode(frame); err != nil || got.Type != ChannelClosed || got.PayloadType != 0 || !bytes.Equal(got.Payload, want.Payload) {
		t.Errorf("got %+v, %v", got, err)
	}
}

func TestCodecAllocatesNothing(t *testing.T) {
	payload := make([]byte, MaxPayload)
	buffer := make([]byte, 0, 4096)
	scratch := make([]byte, 0, 512)
	var m Message
	for name, f := range map[string]func(){
		"encode": func() {
			m := Message{Type: InputStreamData, ID: NewUUID(), Payload: payload}
			buffer = m.AppendTo(buffer[:0])
		},
		"decode": func() {
			if err := m.Decode(buffer); err != nil {
				t.Fatal(err)
			}
		},
		"encode acknowledgement": func() {
			buffer = appendAcknowledge(buffer[:0], scratch, 1, OutputStreamData, UUID{}, 12345)
		},
		"decode acknowledgement": func() {
			if err := m.Decode(buffer); err != nil {
				t.Fatal(err)
			}
			if seq, err := acknowledgedSequence(m.Payload); seq != 12345 || err != nil {
				t.Fatal(seq, err)
			}
		},
	} {
		if name == "decode" {
			buffer = (&Message{Type: OutputStreamData, Payload: payload}).AppendTo(buffer[:0])
		}
		if name == "decode acknowledgement" {
			buffer = appendAcknowledge(buffer[:0], scratch, 1, OutputStreamData, UUID{}, 12345)
		}
		if n := testing.AllocsPerRun(100, f); n != 0 {
			t.Errorf("%s: %v allocations", name, n)
		}
	}
}

func TestAcknowledgementIsReadInAnyJSONForm(t *testing.T) {
	for payload, want := range map[string]int64{
		`{"AcknowledgedMessageType":"input_stream_data","AcknowledgedMessageId":"x","AcknowledgedMessageSequenceNumber":7,"IsSequentialMessage":true}`:  7,
		`{"AcknowledgedMessageType":"input_stream_data","AcknowledgedMessageId":"x","AcknowledgedMessageSequenceNumber":0,"IsSequentialMessage":false}`: 0,
		`{ "AcknowledgedMessageSequenceNumber" : 8 }`:                                          8,
		`{"IsSequentialMessage":true,"AcknowledgedMessageSequenceNumber":9223372036854775807}`: 1<<63 - 1,
		`{"AcknowledgedMessageSequenceNumber":-1}`:                                             -1,
	} {
		if got, err := acknowledgedSequence([]byte(payload)); got != want || err != nil {
			t.Errorf("%s: got %d, %v", payload, got, err)
		}
	}
	for _, payload := range []string{"", "{}", "null", "7", `{"AcknowledgedMessageSequenceNumber":"7"}`, `{"AcknowledgedMessageSequenceNumber":1e99}`} {
		if got, err := acknowledgedSequence([]byte(payload)); err == nil {
			t.Errorf("%s: got %d, want an error", payload, got)
		}
	}
}

func TestUUIDTextGoesBothWays(t *testing.T) {
	u := NewUUID()
	back, err := ParseUUID(strings.ToUpper(u.String()))
	if err != nil || back != u {
		t.Errorf("%s became %s, %v", u, back, err)
	}
	if u[6]>>4 != 4 || u[8]>>6 != 2 {
		t.Errorf("%s is not of version 4", u)
	}
}

func FuzzDecode(f *testing.F) {
	frame, _ := hex.DecodeString(goldenFrame)
	f.Add(frame)
	f.Add((&Message{Type: StartPublication}).AppendTo(nil))
	f.Fuzz(func(t *testing.T, frame []byte) {
		var m Message
		if m.Decode(frame) != nil {
			return
		}
		if len(m.Payload) > len(frame) {
			t.Fatal("a payload larger than its frame")
		}
		var again Message
		if err := again.Decode(m.AppendTo(nil)); err != nil && len(m.Type) <= 32 {
			t.Fatalf("decoded, but not again once encoded: %v", err)
		}
	})
}

func FuzzAcknowledgement(f *testing.F) {
	f.Add([]byte(ackType + "x" + ackID + "y" + ackSequence + "12" + ackEnd))
	f.Fuzz(func(t *testing.T, payload []byte) { acknowledgedSequence(payload) })
}

func benchmarkPayload() []byte {
	payload := make([]byte, MaxPayload)
	for i := range payload {
		payload[i] = byte(rand.Uint32())
	}
	return payload
}

func BenchmarkEncode(b *testing.B) {
	m := goldenMessage()
	m.Payload = benchmarkPayload()
	var buffer []byte
	b.SetBytes(MaxPayload)
	b.ReportAllocs()
	for b.Loop() {
		buffer = m.AppendTo(buffer[:0])
	}
}

func BenchmarkDecode(b *testing.B) {
	m := goldenMessage()
	m.Payload = benchmarkPayload()
	frame := m.AppendTo(nil)
	b.SetBytes(MaxPayload)
	b.ReportAllocs()
	for b.Loop() {
		if err := m.Decode(frame); err != nil {
			b.Fatal(err)
		}
	}
}

func BenchmarkAcknowledge(b *testing.B) {
	var buffer []byte
	scratch := make([]byte, 0, 512)
	var m Message
	b.ReportAllocs()
	for b.Loop() {
		buffer = appendAcknowledge(buffer[:0], scratch, 1, OutputStreamData, UUID{}, 12345)
		if err := m.Decode(buffer); err != nil {
			b.Fatal(err)
		}
		if _, err := acknowledgedSequence(m.Payload); err != nil {
			b.Fatal(err)
		}
	}
}
