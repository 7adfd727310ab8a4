package ssmstream

import (
	"bytes"
	"encoding/binary"
	"encoding/json"
	"fmt"
	"strconv"
)

// ClientVersion is what the client calls itself when it opens the channel and
// in the handshake. Below 1.2.764.0 the service takes it for one that cannot
// sign its upgrade.
const ClientVersion = "1.2.896.0"

// OpenDataChannel is the one text frame of a data channel, its first.
type OpenDataChannel struct {
	MessageSchemaVersion string // "1.0"
	RequestID            string `json:"RequestId"`
	TokenValue           string // a credential: never logged
	ClientID             string `json:"ClientId"` // the same on every reconnect
	ClientVersion        string
}

// Acknowledgement is the payload of an Acknowledge message. Its number counts,
// the header's does not.
type Acknowledgement struct {
	MessageType         MessageType `json:"AcknowledgedMessageType"`
	MessageID           string      `json:"AcknowledgedMessageId"`
	SequenceNumber      int64       `json:"AcknowledgedMessageSequenceNumber"`
	IsSequentialMessage bool
}

// The pieces of an acknowledgement's payload as every known peer writes it.
const (
	ackType     = `{"AcknowledgedMessageType":"`
	ackID       = `","AcknowledgedMessageId":"`
	ackSequence = `","AcknowledgedMessageSequenceNumber":`
	ackEnd      = `,"IsSequentialMessage":true}`
)

// appendAcknowledge appends a whole acknowledge frame for a message of type t
// with the given identity and number. scratch holds the payload meanwhile.
func appendAcknowledge(dst, scratch []byte, created uint64, t MessageType, id UUID, seq int64) []byte {
	p := append(scratch[:0], ackType...)
	p = append(p, t...)
	p = append(p, ackID...)
	p = id.appendText(p)
	p = append(p, ackSequence...)
	p = strconv.AppendInt(p, seq, 10)
	p = append(p, ackEnd...)
	m := Message{
		Type:        Acknowledge,
		CreatedDate: created,
		Flags:       FlagSYN | FlagFIN, // an agent on Windows rejects anything else
		ID:          NewUUID(),
		Payload:     p,
	}
	return m.AppendTo(dst)
}

// acknowledgedSequence reads the number out of an acknowledgement's payload:
// without allocating where it is written as every known peer does, by way of
// encoding/json otherwise.
func acknowledgedSequence(payload []byte) (int64, error) {
	if rest, ok := bytes.CutPrefix(payload, []byte(ackType)); ok {
		if _, number, ok := bytes.Cut(rest, []byte(ackSequence)); ok {
			if end := bytes.IndexByte(number, ','); end > 0 && end < 20 && string(number[end:]) == ackEnd {
				if n, ok := parseDigits(number[:end]); ok {
					return n, nil
				}
			}
		}
	}
	// A pointer, to tell a missing number from 0.
	var a struct {
		SequenceNumber *int64 `json:"AcknowledgedMessageSequenceNumber"`
	}
	if err := json.Unmarshal(payload, &a); err != nil {
		return 0, fmt.Errorf("malformed acknowledgement: %w", err)
	}
	if a.SequenceNumber == nil {
		return 0, fmt.Errorf("malformed acknowledgement: no AcknowledgedMessageSequenceNumber")
	}
	return *a.SequenceNumber, nil
}

func parseDigits(b []byte) (int64, bool) {
	if len(b) == 0 || len(b) > 18 { // 18 digits cannot overflow
		return 0, false
	}
	var n int64
	for _, c := range b {
		if c < '0' || c > '9' {
			return 0, false
		}
		n = n*10 + int64(c-'0')
	}
	return n, true
}

// The action types of a handshake, and the statuses that answer them.
const (
	ActionSessionType   = "SessionType"
	ActionKMSEncryption = "KMSEncryption"

	ActionSuccess     = 1
	ActionFailed      = 2
	ActionUnsupported = 3
)

// HandshakeRequest is the agent's first message.
type HandshakeRequest struct {
	AgentVersion           string
	RequestedClientActions []RequestedClientAction
}

// RequestedClientAction is one thing that the agent asks of the client.
type RequestedClientAction struct {
	ActionType       string
	ActionParameters json.RawMessage // for SessionType a SessionTypeRequest
}

// SessionTypeRequest is the parameter of the SessionType action.
type SessionTypeRequest struct {
	SessionType string // "Port"
	Properties  json.RawMessage
}

// HandshakeResponse is the client's answer, its message 0.
type HandshakeResponse struct {
	ClientVersion          string
	ProcessedClientActions []ProcessedClientAction
	Errors                 []string
}

// ProcessedClientAction answers one RequestedClientAction. Any ActionStatus but
// ActionSuccess makes the agent end the session.
type ProcessedClientAction struct {
	ActionType   string
	ActionStatus int
	ActionResult any
	Error        string
}

// HandshakeComplete is the agent's word that data may flow.
type HandshakeComplete struct {
	HandshakeTimeToComplete int64  // nanoseconds
	CustomerMessage         string // for the person, never for the stream
}

// ChannelClosedPayload is the payload of a ChannelClosed message.
type ChannelClosedPayload struct {
	MessageType   string
	MessageID     string `json:"MessageId"`
	CreatedDate   string
	DestinationID string `json:"DestinationId"`
	SessionID     string `json:"SessionId"`
	SchemaVersion int
	Output        string // empty, or why the channel was closed
}

// flagPayload encodes the payload of a PayloadFlag message.
func flagPayload(flag uint32) []byte {
	return binary.BigEndian.AppendUint32(nil, flag)
}
