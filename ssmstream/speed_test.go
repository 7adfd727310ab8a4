package ssmstream_test

import (
	"context"
	"crypto/tls"
	"crypto/x509"
	"io"
	"net"
	"net/http"
	"net/http/httptest"
	"runtime"
	"testing"
	"time"

	"ssmproxy/ssmstream"
	"ssmproxy/ssmstream/ssmtest"

	"github.com/gorilla/websocket"
)

// The benchmarks move this much at a time.
const benchmarkSize = 16 << 20

// port is a TCP service on an instance that greets and then hands the
// connection to serve.
func port(tb testing.TB, serve func(net.Conn)) (addr string) {
	tb.Helper()
	l, err := net.Listen("tcp", "127.0.0.1:0")
	if err != nil {
		tb.Fatal(err)
	}
	tb.Cleanup(func() { l.Close() })
	go func() { // ends with the listener
		for {
			c, err := l.Accept()
			if err != nil {
				return
			}
			go func() { // ends with the connection
				defer c.Close()
				io.WriteString(c, greeting)
				serve(c)
			}()
		}
	}()
	return l.Addr().String()
}

const greeting = "SSH-2.0-test\r\n"

// dial opens a stream through srv and reads the greeting.
func dial(tb testing.TB, srv *ssmtest.Server) *ssmstream.Stream {
	tb.Helper()
	id, grant := srv.StartSession("i-0123456789abcdef0")
	stream, err := ssmstream.Dial(tb.Context(), grant, ssmstream.Config{
		DialTLS: srv.DialTLS, Signer: srv.Signer(), Resumer: srv.Resumer(id),
	})
	if err != nil {
		tb.Fatal(err)
	}
	tb.Cleanup(func() { stream.Close() })
	if _, err := io.ReadFull(stream, make([]byte, len(greeting))); err != nil {
		tb.Fatal(err)
	}
	return stream
}

// BenchmarkConnect reports the phases of opening a stream: TCP and TLS, upgrade
// and handshake, and the time until the port's first bytes are there.
func BenchmarkConnect(b *testing.B) {
	for _, rtt := range []time.Duration{0, 50 * time.Millisecond} {
		b.Run(rtt.String(), func(b *testing.B) {
			srv := ssmtest.NewServer(ssmtest.Config{
				SSHAddr: port(b, func(c net.Conn) { io.Copy(io.Discard, c) }),
				Link:    ssmtest.Link{RTT: rtt},
			})
			b.Cleanup(srv.Close)
			var tls, open, greeted time.Duration
			for b.Loop() {
				id, grant := srv.StartSession("i-0123456789abcdef0")
				began := time.Now()
				connected := began
				stream, err := ssmstream.Dial(b.Context(), grant, ssmstream.Config{
					DialTLS: func(ctx context.Context, network, addr string) (net.Conn, error) {
						defer func() { connected = time.Now() }()
						return srv.DialTLS(ctx, network, addr)
					},
					Signer: srv.Signer(), Resumer: srv.Resumer(id),
				})
				if err != nil {
					b.Fatal(err)
				}
				opened := time.Now()
				if _, err := io.ReadFull(stream, make([]byte, len(greeting))); err != nil {
					b.Fatal(err)
				}
				greeted += time.Since(opened)
				tls, open = tls+connected.Sub(began), open+opened.Sub(connected)
				stream.Terminate(b.Context())
				stream.Close()
			}
			ms := func(d time.Duration) float64 { return d.Seconds() * 1000 / float64(b.N) }
			b.ReportMetric(0, "ns/op")
			b.ReportMetric(ms(tls), "ms-tls")
			b.ReportMetric(ms(open), "ms-handshake")
			b.ReportMetric(ms(greeted), "ms-first-bytes")
		})
	}
}

// beside reports the speed of stream and of bare, run by turns, their ratio in
// time, and the allocations of both a message.
func beside(b *testing.B, stream, bare func()) {
	const messages = benchmarkSize / ssmstream.MaxPayload
	var times [2]time.Duration
	var allocations [2]uint64
	for b.Loop() {
		for i, f := range []func(){stream, bare} {
			var before, after runtime.MemStats
			runtime.ReadMemStats(&before)
			began := time.Now()
			f()
			times[i] += time.Since(began)
			runtime.ReadMemStats(&after)
			allocations[i] += after.Mallocs - before.Mallocs
		}
	}
	mbs := func(d time.Duration) float64 { return float64(b.N) * benchmarkSize / 1e6 / d.Seconds() }
	b.ReportMetric(0, "ns/op")
	b.ReportMetric(mbs(times[0]), "MB/s")
	b.ReportMetric(mbs(times[1]), "bare-MB/s")
	b.ReportMetric(times[0].Seconds()/times[1].Seconds(), "time-ratio")
	b.ReportMetric(float64(allocations[0])/float64(b.N)/messages, "allocs/message")
	b.ReportMetric(float64(allocations[1])/float64(b.N)/messages, "bare-allocs/message")
}

// BenchmarkUpload writes through ssmtest, gateway and agent included, beside a
// bare websocket over TLS that carries the same frames and acknowledgements.
func BenchmarkUpload(b *testing.B) {
	arrived := make(chan struct{})
	srv := ssmtest.NewServer(ssmtest.Config{NoPacing: true, SSHAddr: port(b, func(c net.Conn) {
		for {
			if _, err := io.CopyN(io.Discard, c, benchmarkSize); err != nil {
				return
			}
			arrived <- struct{}{}
		}
	})})
	b.Cleanup(srv.Close)
	stream := dial(b, srv)
	bare := newBare(b)
	data := make([]byte, 32<<10)
	beside(b, func() {
		for range benchmarkSize / len(data) {
			if _, err := stream.Write(data); err != nil {
				b.Fatal(err)
			}
		}
		<-arrived
	}, bare.upload)
	sent := srv.Stats().FromClient
	messages := float64(sent.Messages[ssmstream.InputStreamData])
	b.ReportMetric(float64(sent.Bytes)/messages, "bytes/message") // acknowledgements included
	b.ReportMetric(float64(sent.Payload)/messages, "payload/message")
}

// BenchmarkRecovery uploads while the gateway misbehaves, beside the same upload
// while it does not. Nothing but the stream waits for anything: what an ssh
// above adds is in the tests that are called TestUnder.
func BenchmarkRecovery(b *testing.B) {
	for _, f := range []struct {
		name   string
		faults func(*ssmtest.Server) []ssmtest.Fault
	}{
		{"5% lost each way", func(srv *ssmtest.Server) []ssmtest.Fault {
			return []ssmtest.Fault{
				srv.Random(ssmtest.ToAgent, 0.05, ssmtest.Action{Lose: true}),
				srv.Random(ssmtest.ToClient, 0.05, ssmtest.Action{Lose: true}),
			}
		}},
		{"cut every 300 messages", func(*ssmtest.Server) []ssmtest.Fault {
			return []ssmtest.Fault{ssmtest.When(func(c *ssmtest.Crossing) bool {
				return c.Direction == ssmtest.ToAgent && c.N%300 == 299
			}, ssmtest.Action{Cut: true})}
		}},
	} {
		b.Run(f.name, func(b *testing.B) {
			arrived := make(chan struct{})
			srv := ssmtest.NewServer(ssmtest.Config{SSHAddr: port(b, func(c net.Conn) {
				for {
					if _, err := io.CopyN(io.Discard, c, benchmarkSize); err != nil {
						return
					}
					arrived <- struct{}{}
				}
			})})
			b.Cleanup(srv.Close)
			data := make([]byte, 32<<10)
			upload := func(stream *ssmstream.Stream) time.Duration {
				began := time.Now()
				for range benchmarkSize / len(data) {
					if _, err := stream.Write(data); err != nil {
						b.Fatal(err)
					}
				}
				<-arrived
				return time.Since(began)
			}
			var calm, disturbed time.Duration
			for b.Loop() {
				stream := dial(b, srv)                                          // a new one, for its quick reconnects are limited
				srv.SetFaults(srv.Random(ssmtest.ToAgent, 0, ssmtest.Action{})) // looks at each message all the same
				calm += upload(stream)
				srv.SetFaults(f.faults(srv)...)
				disturbed += upload(stream)
				srv.SetFaults()
				stream.Close()
			}
			b.ReportMetric(0, "ns/op")
			b.ReportMetric(benchmarkSize/1e6*float64(b.N)/disturbed.Seconds(), "MB/s")
			b.ReportMetric(disturbed.Seconds()/calm.Seconds(), "time-ratio")
		})
	}
}

// BenchmarkDownload is BenchmarkUpload the other way.
func BenchmarkDownload(b *testing.B) {
	more := make(chan struct{})
	srv := ssmtest.NewServer(ssmtest.Config{NoPacing: true, SSHAddr: port(b, func(c net.Conn) {
		data := make([]byte, 32<<10)
		for range more {
			for range benchmarkSize / len(data) {
				if _, err := c.Write(data); err != nil {
					return
				}
			}
		}
	})})
	b.Cleanup(srv.Close)
	stream := dial(b, srv)
	defer close(more)
	bare := newBare(b)
	beside(b, func() {
		more <- struct{}{}
		if _, err := io.CopyN(io.Discard, stream, benchmarkSize); err != nil {
			b.Fatal(err)
		}
	}, bare.download)
}

// bare is a websocket over TLS with nothing above it but frames: each stream
// message is answered by an acknowledgement.
type bare struct {
	b         *testing.B
	ws        *websocket.Conn
	data, ack []byte
	messages  int
}

func newBare(b *testing.B) *bare {
	p := &bare{b: b, messages: benchmarkSize / ssmstream.MaxPayload}
	p.data = (&ssmstream.Message{Type: ssmstream.InputStreamData, Payload: make([]byte, ssmstream.MaxPayload)}).AppendTo(nil)
	p.ack = (&ssmstream.Message{Type: ssmstream.Acknowledge, Payload: make([]byte, 180)}).AppendTo(nil)
	server := httptest.NewTLSServer(http.HandlerFunc(p.serve))
	b.Cleanup(server.Close)
	pool := x509.NewCertPool()
	pool.AddCert(server.Certificate())
	dialer := websocket.Dialer{TLSClientConfig: &tls.Config{RootCAs: pool}}
	ws, _, err := dialer.Dial("wss"+server.URL[len("https"):], nil)
	if err != nil {
		b.Fatal(err)
	}
	b.Cleanup(func() { ws.Close() })
	p.ws = ws
	return p
}

// serve answers each data frame with an acknowledgement, and an empty text
// with a download.
func (p *bare) serve(w http.ResponseWriter, r *http.Request) {
	ws, err := (&websocket.Upgrader{}).Upgrade(w, r, nil)
	if err != nil {
		return
	}
	defer ws.Close()
	var m ssmstream.Message
	for {
		kind, frame, err := ws.ReadMessage()
		switch {
		case err != nil:
			return
		case kind == websocket.TextMessage:
			go func() { // ends with the frames sent
				for range p.messages {
					ws.WriteMessage(websocket.BinaryMessage, p.data)
				}
			}()
		case m.Decode(frame) != nil:
			return
		case m.Type == ssmstream.InputStreamData:
			ws.WriteMessage(websocket.BinaryMessage, p.ack)
		}
	}
}

func (p *bare) read() {
	var m ssmstream.Message
	_, frame, err := p.ws.ReadMessage()
	if err == nil {
		err = m.Decode(frame)
	}
	if err != nil {
		p.b.Error(err)
	}
}

func (p *bare) upload() {
	done := make(chan struct{})
	go func() { // ends with the last acknowledgement
		defer close(done)
		for range p.messages {
			p.read()
		}
	}()
	m := ssmstream.Message{Type: ssmstream.InputStreamData, Payload: make([]byte, ssmstream.MaxPayload)}
	var frame []byte
	for range p.messages {
		frame = m.AppendTo(frame[:0])
		if err := p.ws.WriteMessage(websocket.BinaryMessage, frame); err != nil {
			p.b.Error(err)
		}
	}
	<-done
}

func (p *bare) download() {
	p.ws.WriteMessage(websocket.TextMessage, nil)
	for range p.messages {
		p.read()
		if err := p.ws.WriteMessage(websocket.BinaryMessage, p.ack); err != nil {
			p.b.Error(err)
		}
	}
}
