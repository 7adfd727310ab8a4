package ssmstream

import (
	"crypto/sha256"
	"encoding/binary"
	"errors"
	"fmt"
	"math/rand/v2"
)

// MessageType names what a frame is, as the wire spells it without its padding.
type MessageType string

// The message types of a data channel.
const (
	InputStreamData  MessageType = "input_stream_data"  // client to agent
	OutputStreamData MessageType = "output_stream_data" // agent to client
	Acknowledge      MessageType = "acknowledge"
	ChannelClosed    MessageType = "channel_closed"
	StartPublication MessageType = "start_publication"
	PausePublication MessageType = "pause_publication"
)

// PayloadType says what the payload of a stream message is.
type PayloadType uint32

// The payload types of stream messages.
const (
	PayloadNone                 PayloadType = 0
	PayloadOutput               PayloadType = 1 // plain bytes, in both directions
	PayloadError                PayloadType = 2
	PayloadSize                 PayloadType = 3
	PayloadParameter            PayloadType = 4
	PayloadHandshakeRequest     PayloadType = 5
	PayloadHandshakeResponse    PayloadType = 6
	PayloadHandshakeComplete    PayloadType = 7
	PayloadEncChallengeRequest  PayloadType = 8
	PayloadEncChallengeResponse PayloadType = 9
	PayloadFlag                 PayloadType = 10 // a big-endian uint32: see FlagTerminateSession and its like
	PayloadStdErr               PayloadType = 11
	PayloadExitCode             PayloadType = 12
)

// The values of a PayloadFlag payload.
const (
	FlagDisconnectToPort   uint32 = 1
	FlagTerminateSession   uint32 = 2
	FlagConnectToPortError uint32 = 3
)

// The bits of Message.Flags.
const (
	FlagSYN uint64 = 1 << 0
	FlagFIN uint64 = 1 << 1
)

const (
	// MaxPayload is the most payload bytes that are known to be safe in one
	// message: AWS's client sends 1,024, independent ones have sent 1,536 to
	// the live service for years.
	MaxPayload = 1536

	headerLength  = 116 // of whatever the agent and its clients send
	payloadOffset = headerLength + 4
	schemaVersion = 1

	// shortHeaderLength is that of a channel_closed, which the service makes: it
	// ends before PayloadType, says a client that works with the live service
	// (agent_message.go in mmmorris1975/ssm-session-client).
	shortHeaderLength = 112
)

// The offsets of a frame's fields.
const (
	offType          = 4
	offSchemaVersion = 36
	offCreatedDate   = 40
	offSequence      = 48
	offFlags         = 56
	offMessageID     = 64
	offDigest        = 80
	offPayloadType   = 112
)

// UUID is a message's identity, in the usual byte order; on the wire its two
// 8-byte halves are swapped.
type UUID [16]byte

// NewUUID returns a random (version 4) UUID. It only has to be unique, not
// unpredictable: nothing of the protocol's security rests on it.
func NewUUID() UUID {
	var u UUID
	binary.BigEndian.PutUint64(u[:8], rand.Uint64())
	binary.BigEndian.PutUint64(u[8:], rand.Uint64())
	u[6] = u[6]&0x0f | 0x40
	u[8] = u[8]&0x3f | 0x80
	return u
}

// String returns the UUID as 36 characters of lower-case text.
func (u UUID) String() string {
	return string(u.appendText(make([]byte, 0, 36)))
}

func (u UUID) appendText(b []byte) []byte {
	const hexDigits = "0123456789abcdef"
	for i, c := range u {
		if i == 4 || i == 6 || i == 8 || i == 10 {
			b = append(b, '-')
		}
		b = append(b, hexDigits[c>>4], hexDigits[c&15])
	}
	return b
}

// Message is one binary frame of the data channel.
type Message struct {
	Type           MessageType
	CreatedDate    uint64 // milliseconds since 1970
	SequenceNumber int64
	Flags          uint64
	ID             UUID
	PayloadType    PayloadType
	Payload        []byte
}

// AppendTo appends the encoded frame to dst and returns the result. It
// allocates only where dst lacks the capacity, and never fails: a Type of more
// than 32 bytes is cut.
func (m *Message) AppendTo(dst []byte) []byte {
	start := len(dst)
	dst = append(dst, zeroHeader[:]...)
	dst = append(dst, m.Payload...)
	m.putHeader(dst[start:])
	return dst
}

var zeroHeader [payloadOffset]byte

// putHeader fills in the header of a frame whose payload is in place, behind
// payloadOffset. m.Payload is not looked at.
func (m *Message) putHeader(frame []byte) {
	payload := frame[payloadOffset:]
	binary.BigEndian.PutUint32(frame, headerLength)
	n := copy(frame[offType:offSchemaVersion], m.Type)
	for i := offType + n; i < offSchemaVersion; i++ {
		frame[i] = ' '
	}
	binary.BigEndian.PutUint32(frame[offSchemaVersion:], schemaVersion)
	binary.BigEndian.PutUint64(frame[offCreatedDate:], m.CreatedDate)
	binary.BigEndian.PutUint64(frame[offSequence:], uint64(m.SequenceNumber))
	binary.BigEndian.PutUint64(frame[offFlags:], m.Flags)
	copy(frame[offMessageID:], m.ID[8:])
	copy(frame[offMessageID+8:], m.ID[:8])
	digest := sha256.Sum256(payload)
	copy(frame[offDigest:], digest[:])
	binary.BigEndian.PutUint32(frame[offPayloadType:], uint32(m.PayloadType))
	binary.BigEndian.PutUint32(frame[headerLength:], uint32(len(payload)))
}

// FrameError reports a malformed frame.
type FrameError struct {
	Field   string // the field that is wrong, by its name in the protocol
	Problem string
}

func (e *FrameError) Error() string {
	return "malformed frame: " + e.Field + ": " + e.Problem
}

// Decode fills m from one frame; m.Payload aliases it. It allocates nothing for
// the message types named here. A malformed frame gives a *FrameError and
// leaves m undefined. The two publication messages count by their type alone,
// as they do for AWS's own client (Validate in its messageparser.go).
func (m *Message) Decode(frame []byte) error {
	if len(frame) < shortHeaderLength+4 {
		return &FrameError{"HeaderLength", fmt.Sprintf("frame of %d bytes is shorter than a header", len(frame))}
	}
	*m = Message{Type: decodeMessageType(frame[offType:offSchemaVersion])}
	switch m.Type {
	case "":
		return &FrameError{"MessageType", "empty"}
	case StartPublication, PausePublication:
		return nil
	}
	header := uint64(binary.BigEndian.Uint32(frame))
	if header < headerLength && header != shortHeaderLength || header+4 > uint64(len(frame)) {
		return &FrameError{"HeaderLength", fmt.Sprintf("%d does not fit a frame of %d bytes", header, len(frame))}
	}
	m.Payload = frame[header+4:]
	if declared := binary.BigEndian.Uint32(frame[header:]); uint64(declared) != uint64(len(m.Payload)) {
		return &FrameError{"PayloadLength", fmt.Sprintf("declared %d bytes, %d present", declared, len(m.Payload))}
	}
	if v := binary.BigEndian.Uint32(frame[offSchemaVersion:]); v != schemaVersion {
		return &FrameError{"SchemaVersion", fmt.Sprintf("%d is not %d", v, schemaVersion)}
	}
	m.CreatedDate = binary.BigEndian.Uint64(frame[offCreatedDate:])
	m.SequenceNumber = int64(binary.BigEndian.Uint64(frame[offSequence:]))
	m.Flags = binary.BigEndian.Uint64(frame[offFlags:])
	copy(m.ID[8:], frame[offMessageID:])
	copy(m.ID[:8], frame[offMessageID+8:])
	if header >= headerLength {
		m.PayloadType = PayloadType(binary.BigEndian.Uint32(frame[offPayloadType:]))
	}
	if digest := sha256.Sum256(m.Payload); digest != [32]byte(frame[offDigest:offDigest+32]) {
		return &FrameError{"PayloadDigest", "does not match the payload"}
	}
	return nil
}

// decodeMessageType trims padding on both sides and gives the constants
// themselves back, so that known types cost no allocation.
func decodeMessageType(b []byte) MessageType {
	pad := func(c byte) bool { return c == ' ' || c == 0 }
	for len(b) > 0 && pad(b[len(b)-1]) {
		b = b[:len(b)-1]
	}
	for len(b) > 0 && pad(b[0]) {
		b = b[1:]
	}
	switch MessageType(b) { // a comparison that the compiler makes without allocating
	case InputStreamData:
		return InputStreamData
	case OutputStreamData:
		return OutputStreamData
	case Acknowledge:
		return Acknowledge
	case ChannelClosed:
		return ChannelClosed
	case StartPublication:
		return StartPublication
	case PausePublication:
		return PausePublication
	default:
		return MessageType(b)
	}
}

// ParseUUID reads the 36-character text form, in either case.
func ParseUUID(text string) (UUID, error) {
	var u UUID
	if len(text) != 36 || text[8] != '-' || text[13] != '-' || text[18] != '-' || text[23] != '-' {
		return u, errors.New("malformed UUID")
	}
	at := 0
	for i := range u {
		if text[at] == '-' {
			at++
		}
		hi, ok1 := unhex(text[at])
		lo, ok2 := unhex(text[at+1])
		if !ok1 || !ok2 {
			return u, errors.New("malformed UUID")
		}
		u[i] = hi<<4 | lo
		at += 2
	}
	return u, nil
}

func unhex(c byte) (byte, bool) {
	switch {
	case '0' <= c && c <= '9':
		return c - '0', true
	case 'a' <= c && c <= 'f':
		return c - 'a' + 10, true
	case 'A' <= c && c <= 'F':
		return c - 'A' + 10, true
	}
	return 0, false
}
