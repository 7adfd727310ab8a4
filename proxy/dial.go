package proxy

import (
	"context"
	"crypto/tls"
	"fmt"
	"log/slog"
	"net"
	"net/http"
	"net/url"
	"sync"
	"time"

	"github.com/aws/aws-sdk-go-v2/aws"
	awshttp "github.com/aws/aws-sdk-go-v2/aws/transport/http"
)

// dialer connects to the gateway just as the SDK connects to the service: with
// the same certificates, through the same proxy.
type dialer struct {
	proxy            func(*http.Request) (*url.URL, error)
	dial             func(ctx context.Context, network, addr string) (net.Conn, error)
	tls              *tls.Config
	handshakeTimeout time.Duration
	log              *slog.Logger

	mu    sync.Mutex // guards what follows
	ahead *preDial   // taken by the next DialTLS to its address
	last  string     // the address of the last DialTLS
	spare bool       // each DialTLS that succeeds dials the next one ahead
}

// hostError says which host an error is about.
type hostError struct {
	addr, phase string
	err         error
}

func (e *hostError) Error() string { return fmt.Sprintf("%s %s: %v", e.phase, e.addr, e.err) }
func (e *hostError) Unwrap() error { return e.err }

// newDialer takes over what the SDK's HTTP client was configured with.
func newDialer(cfg aws.Config, log *slog.Logger) *dialer {
	sdk, ok := cfg.HTTPClient.(*awshttp.BuildableClient)
	if !ok {
		sdk = awshttp.NewBuildableClient()
	}
	transport := sdk.GetTransport()
	d := &dialer{
		proxy:            transport.Proxy,
		dial:             transport.DialContext,
		tls:              transport.TLSClientConfig,
		handshakeTimeout: transport.TLSHandshakeTimeout,
		log:              log,
	}
	if d.tls == nil {
		d.tls = &tls.Config{}
	}
	d.tls.MinVersion = max(d.tls.MinVersion, tls.VersionTLS12)
	d.tls.NextProtos = []string{"http/1.1"} // websockets have no other
	// A reconnect need not verify the certificates again: the gateway's, a proxy's.
	d.tls.ClientSessionCache = tls.NewLRUClientSessionCache(2)
	// One record a write: what is ready together is to leave together.
	d.tls.DynamicRecordSizingDisabled = true
	return d
}

// DialTLS connects to addr, TLS handshake included, for ssmstream.Config. It
// takes the connection made ahead where that leads to addr.
func (d *dialer) DialTLS(ctx context.Context, network, addr string) (conn net.Conn, err error) {
	d.mu.Lock()
	d.last = addr
	spare := d.spare
	d.mu.Unlock()
	if conn = d.takeAhead(ctx, addr); conn == nil {
		conn, err = d.connect(ctx, network, addr)
	}
	if err == nil && spare {
		d.dialAhead(context.WithoutCancel(ctx), addr)
	}
	return conn, err
}

func (d *dialer) connect(ctx context.Context, network, addr string) (net.Conn, error) {
	start := time.Now()
	host, _, err := net.SplitHostPort(addr)
	if err != nil {
		return nil, err
	}
	raw, err := d.dialVia(ctx, network, addr)
	if err != nil {
		return nil, &hostError{addr, "connect to", err}
	}
	connected := time.Since(start)
	conn, err := d.handshake(ctx, raw, host)
	if err != nil {
		return nil, &hostError{addr, "TLS with", err}
	}
	d.log.Info("connected to the data channel's host", "addr", addr,
		"dial", connected, "tls", time.Since(start)-connected)
	return conn, nil
}

// handshake speaks TLS over raw, which it closes on an error.
func (d *dialer) handshake(ctx context.Context, raw net.Conn, host string) (net.Conn, error) {
	if d.handshakeTimeout > 0 {
		var cancel context.CancelFunc
		ctx, cancel = context.WithTimeout(ctx, d.handshakeTimeout)
		defer cancel()
	}
	cfg := d.tls.Clone()
	if cfg.ServerName == "" {
		cfg.ServerName = host
	}
	conn := tls.Client(raw, cfg)
	if err := conn.HandshakeContext(ctx); err != nil {
		raw.Close()
		return nil, err
	}
	return conn, nil
}
