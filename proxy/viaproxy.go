package proxy

import (
	"bufio"
	"context"
	"encoding/base64"
	"errors"
	"fmt"
	"net"
	"net/http"
	"net/url"
	"time"

	"golang.org/x/net/proxy"
)

// proxyError tells that the proxy, not the service, is the trouble.
type proxyError struct {
	addr   string // of the proxy, without its password
	status int    // of its answer to CONNECT, 0 where there was none
	err    error
}

func (e *proxyError) Error() string { return fmt.Sprintf("proxy %s: %v", e.addr, e.err) }
func (e *proxyError) Unwrap() error { return e.err }

// dialVia connects to addr through the proxy that the settings name for it, or
// directly where they name none: HTTPS_PROXY and NO_PROXY, as for https://addr.
func (d *dialer) dialVia(ctx context.Context, network, addr string) (net.Conn, error) {
	if d.proxy == nil {
		return d.dial(ctx, network, addr)
	}
	via, err := d.proxy(&http.Request{URL: &url.URL{Scheme: "https", Host: addr}})
	if err != nil {
		return nil, &proxyError{addr: "HTTPS_PROXY", err: err}
	}
	if via == nil {
		return d.dial(ctx, network, addr)
	}
	var conn net.Conn
	status := 0
	switch via.Scheme {
	case "socks5", "socks5h":
		conn, err = d.dialSOCKS(ctx, network, via, addr)
	case "http", "https":
		conn, status, err = d.dialCONNECT(ctx, network, via, addr)
	default:
		err = fmt.Errorf("scheme %q is none of http, https, socks5, socks5h", via.Scheme)
	}
	if err != nil {
		return nil, &proxyError{addr: via.Host, status: status, err: err}
	}
	return conn, nil
}

// dialCONNECT opens a tunnel (RFC 9110, section 9.3.6). The status is the
// proxy's where it refused.
func (d *dialer) dialCONNECT(ctx context.Context, network string, via *url.URL, addr string) (net.Conn, int, error) {
	port := via.Port()
	if port == "" {
		port = map[string]string{"http": "80", "https": "443"}[via.Scheme]
	}
	conn, err := d.dial(ctx, network, net.JoinHostPort(via.Hostname(), port))
	if err != nil {
		return nil, 0, err
	}
	if via.Scheme == "https" {
		if conn, err = d.handshake(ctx, conn, via.Hostname()); err != nil {
			return nil, 0, err
		}
	}
	stop := context.AfterFunc(ctx, func() { conn.SetDeadline(time.Unix(1, 0)) })
	status, err := connect(conn, via, addr)
	if !stop() && err == nil {
		err = ctx.Err() // the deadline was set, or is about to be
	}
	if err != nil {
		conn.Close()
		return nil, status, errors.Join(ctx.Err(), err)
	}
	return conn, 0, nil
}

func connect(conn net.Conn, via *url.URL, addr string) (status int, err error) {
	r := &http.Request{
		Method: http.MethodConnect,
		URL:    &url.URL{Opaque: addr},
		Host:   addr,
		Header: http.Header{},
	}
	if via.User != nil {
		password, _ := via.User.Password()
		r.Header.Set("Proxy-Authorization", "Basic "+
			base64.StdEncoding.EncodeToString([]byte(via.User.Username()+":"+password)))
	}
	if err := r.Write(conn); err != nil {
		return 0, err
	}
	br := bufio.NewReader(conn)
	resp, err := http.ReadResponse(br, r)
	if err != nil {
		return 0, err
	}
	if resp.StatusCode != http.StatusOK {
		return resp.StatusCode, errors.New(resp.Status)
	}
	if br.Buffered() > 0 { // the tunnel's other end waits for our ClientHello
		return 0, errors.New("the proxy spoke before the tunnel's other end could")
	}
	return 0, nil
}

func (d *dialer) dialSOCKS(ctx context.Context, network string, via *url.URL, addr string) (net.Conn, error) {
	var auth *proxy.Auth
	if via.User != nil {
		password, _ := via.User.Password()
		auth = &proxy.Auth{User: via.User.Username(), Password: password}
	}
	port := via.Port()
	if port == "" {
		port = "1080"
	}
	socks, err := proxy.SOCKS5(network, net.JoinHostPort(via.Hostname(), port), auth, dialFunc(d.dial))
	if err != nil {
		return nil, err
	}
	return socks.(proxy.ContextDialer).DialContext(ctx, network, addr)
}

// dialFunc is what package proxy takes for a dialer.
type dialFunc func(ctx context.Context, network, addr string) (net.Conn, error)

func (f dialFunc) Dial(network, addr string) (net.Conn, error) {
	return f(context.Background(), network, addr)
}

func (f dialFunc) DialContext(ctx context.Context, network, addr string) (net.Conn, error) {
	return f(ctx, network, addr)
}
