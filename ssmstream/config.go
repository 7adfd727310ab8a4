package ssmstream

import (
	"context"
	"errors"
	"log/slog"
	"net"
	"net/http"
	"time"
)

// Grant is the right to open a session's data channel, as StartSession and
// ResumeSession give it.
type Grant struct {
	StreamURL string // wss only; dialled exactly as given
	Token     string // a credential: never logged, never part of an error
}

// A Signer signs the websocket's upgrade request in place, with SigV4 for the
// service name ssmmessages, an empty payload and the region of the session. It
// may add headers but must leave the URL as it is. Credentials are taken from
// their source at each call: a reconnect hours later needs those of that hour.
type Signer interface {
	SignUpgrade(ctx context.Context, r *http.Request) error
}

// A Resumer asks the service for a new Grant for the same session. It returns
// ErrSessionOver where the service says that the session has ended, a
// Permanent error where asking again is of no use, and any other error where
// it may be. It is called from one goroutine at a time.
type Resumer interface {
	ResumeSession(ctx context.Context) (Grant, error)
}

// ErrSessionOver is a Resumer's answer when the service knows the session no
// longer; a stream that cannot be resumed for that reason fails with it.
var ErrSessionOver = errors.New("the session has ended")

// ErrUpgradeRefused is in the chain of an error from Dial or of a stream that
// could not reconnect because the service refused the websocket's upgrade with
// 401 or 403, signed and unsigned.
var ErrUpgradeRefused = errors.New("the service refused the data channel")

type permanentError struct{ error }

func (e permanentError) Unwrap() error { return e.error }

// Permanent marks an error of a Resumer or Signer as one that trying again
// cannot mend. It returns nil for nil.
func Permanent(err error) error {
	if err == nil {
		return nil
	}
	return permanentError{err}
}

// IsPermanent tells whether err or an error that it wraps was marked with
// Permanent.
func IsPermanent(err error) bool {
	var p permanentError
	return errors.As(err, &p)
}

// Notice is something that a person at the other end of the stream may want to
// know while it goes on.
type Notice int

// The notices of a stream. The string that goes with NoticeCustomerMessage is
// the account's own words for its users, with NoticeLost what went wrong; it is
// empty with the others.
const (
	// NoticeUnsigned: the signed upgrade was refused with 401 or 403 and an
	// unsigned one accepted; the person's policy lacks
	// ssmmessages:OpenDataChannel. At most once a stream.
	NoticeUnsigned Notice = iota
	// NoticeLost: the connection has been gone for two seconds and is being
	// resumed.
	NoticeLost
	// NoticeResumed: it is back. Follows a NoticeLost, never comes alone.
	NoticeResumed
	// NoticeCustomerMessage: HandshakeComplete carried a message.
	NoticeCustomerMessage
)

// Config says how a stream reaches the service. Dial is required; the zero
// value of everything else is usable.
type Config struct {
	// DialTLS connects to the service's host ("host:port"), TLS handshake
	// included, through whatever proxy stands between. It is called for every
	// connection of the stream's life.
	DialTLS func(ctx context.Context, network, addr string) (net.Conn, error)

	// Signer signs the upgrade; without one it goes unsigned.
	Signer Signer

	// Resumer gives new grants when the connection breaks; without one, or
	// with a presigned StreamURL, that ends the stream.
	Resumer Resumer

	// Notify, if set, is called with notices, in order, from a goroutine of
	// the stream. It must not block for long nor call back into the stream.
	Notify func(n Notice, text string)

	// Logger takes the details; nothing is logged without one.
	Logger *slog.Logger

	// HandshakeTimeout limits the time from Dial to HandshakeComplete. 30 s
	// when zero.
	HandshakeTimeout time.Duration

	// ResumeTimeout limits how long a stream without connection, or without
	// any sign of its agent while data waits, goes on trying. 15 minutes when
	// zero.
	ResumeTimeout time.Duration
}
