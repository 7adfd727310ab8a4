package proxy

import (
	"bufio"
	"context"
	"crypto/tls"
	"encoding/binary"
	"errors"
	"io"
	"log/slog"
	"net"
	"net/http"
	"net/http/httptest"
	"net/url"
	"strings"
	"sync"
	"testing"
	"time"

	"github.com/aws/aws-sdk-go-v2/aws"
	awshttp "github.com/aws/aws-sdk-go-v2/aws/transport/http"
)

// echoTLS is a TLS server that sends everything back. Its certificate is good
// for example.com and 127.0.0.1.
type echoTLS struct {
	*httptest.Server // for its certificate
	addr             string
	accepted         chan struct{} // one for each connection
}

func newEchoTLS(t *testing.T) *echoTLS {
	t.Helper()
	certs := httptest.NewTLSServer(nil)
	t.Cleanup(certs.Close)
	l, err := tls.Listen("tcp", "127.0.0.1:0", certs.TLS)
	if err != nil {
		t.Fatal(err)
	}
	e := &echoTLS{certs, l.Addr().String(), make(chan struct{}, 100)}
	serve(t, l, func(c net.Conn) {
		e.accepted <- struct{}{}
		io.Copy(c, c)
	})
	return e
}

// serve handles each connection in a goroutine; the test's end ends them all.
func serve(t *testing.T, l net.Listener, handle func(net.Conn)) {
	var wg sync.WaitGroup
	var mu sync.Mutex
	conns := map[net.Conn]bool{}
	closed := false
	wg.Go(func() {
		for {
			c, err := l.Accept()
			if err != nil {
				return
			}
			mu.Lock()
			conns[c] = true
			if closed {
				c.Close()
			}
			mu.Unlock()
			wg.Go(func() {
				defer c.Close()
				handle(c)
			})
		}
	})
	t.Cleanup(func() {
		l.Close()
		mu.Lock()
		closed = true
		for c := range conns {
			c.Close()
		}
		mu.Unlock()
		wg.Wait()
	})
}

// newTestDialer trusts e and goes through via, where that is not empty.
func newTestDialer(e *echoTLS, via string) *dialer {
	d := &dialer{
		dial:             (&net.Dialer{}).DialContext,
		tls:              e.Client().Transport.(*http.Transport).TLSClientConfig.Clone(),
		handshakeTimeout: 10 * time.Second,
		log:              slog.New(slog.DiscardHandler),
	}
	if via != "" {
		d.proxy = func(*http.Request) (*url.URL, error) { return url.Parse(via) }
	}
	return d
}

func checkEcho(t *testing.T, c net.Conn, err error) {
	t.Helper()
	if err != nil {
		t.Fatal(err)
	}
	defer c.Close()
	if _, err := io.WriteString(c, "ping"); err != nil {
		t.Fatal(err)
	}
	got := make([]byte, 4)
	if _, err := io.ReadFull(c, got); err != nil || string(got) != "ping" {
		t.Fatalf("got %q, %v", got, err)
	}
}

// connectProxy answers CONNECT as long as the Proxy-Authorization is right.
// Every host is 127.0.0.1 to it.
func connectProxy(t *testing.T, l net.Listener, authorization string) (asked chan *http.Request) {
	asked = make(chan *http.Request, 10)
	serve(t, l, func(c net.Conn) {
		br := bufio.NewReader(c)
		r, err := http.ReadRequest(br)
		if err != nil {
			return
		}
		asked <- r
		if r.Header.Get("Proxy-Authorization") != authorization {
			io.WriteString(c, "HTTP/1.1 407 Proxy Authentication Required\r\nContent-Length: 0\r\n\r\n")
			return
		}
		_, port, _ := net.SplitHostPort(r.Host)
		tunnel(c, br, port, "HTTP/1.1 200 Connection established\r\n\r\n")
	})
	return asked
}

func tunnel(c net.Conn, r io.Reader, port, greeting string) {
	far, err := net.Dial("tcp", net.JoinHostPort("127.0.0.1", port))
	if err != nil {
		return
	}
	defer far.Close()
	io.WriteString(c, greeting)
	go func() { // ends with either connection
		io.Copy(far, r)
		far.Close()
	}()
	io.Copy(c, far)
}

func listen(t *testing.T) net.Listener {
	t.Helper()
	l, err := net.Listen("tcp", "127.0.0.1:0")
	if err != nil {
		t.Fatal(err)
	}
	return l
}

func portOf(addr string) string {
	_, port, _ := net.SplitHostPort(addr)
	return port
}

const basicAuth = "Basic dXNlcjpwOnc=" // user, p:w

func TestDialThroughCONNECTProxyWithPassword(t *testing.T) {
	t.Parallel()
	e, l := newEchoTLS(t), listen(t)
	asked := connectProxy(t, l, basicAuth)
	d := newTestDialer(e, "http://user:p%3Aw@"+l.Addr().String())
	far := net.JoinHostPort("example.com", portOf(e.addr)) // the proxy's to look up
	c, err := d.DialTLS(t.Context(), "tcp", far)
	checkEcho(t, c, err)
	if r := <-asked; r.Method != "CONNECT" || r.Host != far || r.RequestURI != far {
		t.Errorf("the proxy was asked: %s %s, Host %s, want %s", r.Method, r.RequestURI, r.Host, far)
	}
}

func TestDialThroughHTTPSProxy(t *testing.T) {
	t.Parallel()
	e := newEchoTLS(t)
	l := tls.NewListener(listen(t), e.TLS)
	connectProxy(t, l, "")
	d := newTestDialer(e, "https://"+l.Addr().String())
	c, err := d.DialTLS(t.Context(), "tcp", net.JoinHostPort("example.com", portOf(e.addr)))
	checkEcho(t, c, err)
}

func TestDialThroughSOCKSProxyWithPassword(t *testing.T) {
	t.Parallel()
	e, l := newEchoTLS(t), listen(t)
	asked := socksProxy(t, l, "user", "p:w")
	d := newTestDialer(e, "socks5://user:p%3Aw@"+l.Addr().String())
	c, err := d.DialTLS(t.Context(), "tcp", net.JoinHostPort("example.com", portOf(e.addr)))
	checkEcho(t, c, err)
	if host := <-asked; host != "example.com" {
		t.Errorf("the proxy was asked for %q: the name is its to look up", host)
	}
}

// socksProxy is as much of RFC 1928 and RFC 1929 as one client needs.
func socksProxy(t *testing.T, l net.Listener, user, password string) (asked chan string) {
	asked = make(chan string, 10)
	serve(t, l, func(c net.Conn) {
		field := func() string { // a byte of length, and so many
			n := make([]byte, 1)
			io.ReadFull(c, n)
			b := make([]byte, n[0])
			io.ReadFull(c, b)
			return string(b)
		}
		head := make([]byte, 1)
		io.ReadFull(c, head)
		field() // methods
		c.Write([]byte{5, 2})
		io.ReadFull(c, head)
		if field() != user || field() != password {
			c.Write([]byte{1, 1})
			return
		}
		c.Write([]byte{1, 0})
		io.ReadFull(c, make([]byte, 4)) // version, CONNECT, reserved, domain name
		asked <- field()
		port := make([]byte, 2)
		io.ReadFull(c, port)
		tunnel(c, c, portString(port), "\x05\x00\x00\x01\x7f\x00\x00\x01\x00\x00")
	})
	return asked
}

func portString(b []byte) string {
	addr := net.TCPAddr{IP: net.IPv4(127, 0, 0, 1), Port: int(binary.BigEndian.Uint16(b))}
	return portOf(addr.String())
}

func TestProxyThatWantsAPasswordIsExplained(t *testing.T) {
	t.Parallel()
	e, l := newEchoTLS(t), listen(t)
	connectProxy(t, l, basicAuth)
	_, err := newTestDialer(e, "http://me:secret@"+l.Addr().String()).DialTLS(t.Context(), "tcp", e.addr)
	if err == nil {
		t.Fatal("no error")
	}
	explained := situation{}.explain(err)
	if want := "the proxy " + l.Addr().String() + " asks for a user name and password"; explained.Error() != want {
		t.Errorf("got %q, want %q", explained, want)
	}
	if strings.Contains(err.Error(), "secret") {
		t.Errorf("the password is in the error: %v", err)
	}
}

func TestProxyThatNeverAnswersEndsWithTheContext(t *testing.T) {
	t.Parallel()
	e, l := newEchoTLS(t), listen(t)
	ctx, cancel := context.WithCancel(t.Context())
	serve(t, l, func(c net.Conn) {
		http.ReadRequest(bufio.NewReader(c))
		cancel()
		io.Copy(io.Discard, c)
	})
	_, err := newTestDialer(e, "http://"+l.Addr().String()).DialTLS(ctx, "tcp", e.addr)
	if !errors.Is(err, context.Canceled) {
		t.Errorf("got %v", err)
	}
}

func TestDialRefusesAnUnknownCertificate(t *testing.T) {
	t.Parallel()
	e := newEchoTLS(t)
	d := newTestDialer(e, "")
	d.tls.RootCAs = nil
	_, err := d.DialTLS(t.Context(), "tcp", e.addr)
	if !isTLSFailure(err) {
		t.Fatalf("got %v", err)
	}
	if got, want := (situation{}).explain(err).Error(), "the certificate presented for "+e.addr+" is not trusted"; got != want {
		t.Errorf("got %q, want %q", got, want)
	}
}

func TestDialRefusesAnotherHostsCertificate(t *testing.T) {
	t.Parallel()
	e, l := newEchoTLS(t), listen(t)
	connectProxy(t, l, "")
	_, err := newTestDialer(e, "http://"+l.Addr().String()).DialTLS(t.Context(), "tcp", "example.org:"+portOf(e.addr))
	if got, want := (situation{}).explain(err).Error(), "the certificate presented for example.org is for another host"; got != want {
		t.Errorf("got %q, want %q", got, want)
	}
}

func TestAnotherDialResumesTheTLSSession(t *testing.T) {
	t.Parallel()
	e := newEchoTLS(t)
	sdk := awshttp.NewBuildableClient().WithTransportOptions(func(tr *http.Transport) {
		tr.TLSClientConfig.RootCAs = e.Client().Transport.(*http.Transport).TLSClientConfig.RootCAs
	})
	d := newDialer(aws.Config{HTTPClient: sdk}, slog.New(slog.DiscardHandler))
	for _, want := range []bool{false, true} {
		c, err := d.DialTLS(t.Context(), "tcp", e.addr)
		checkEcho(t, c, err)
		if got := c.(*tls.Conn).ConnectionState().DidResume; got != want {
			t.Errorf("resumed: %v, want %v", got, want)
		}
	}
}
