// Package ssmtest is a Session Manager on loopback for tests and
// demonstrations, in the manner of net/http/httptest: the API calls, the
// gateway with its data channels and an agent that dials a local port. Every
// signature is verified, the habits are those of the real service and agent,
// and faults come on demand.
package ssmtest

import (
	"context"
	"crypto/tls"
	"fmt"
	"log"
	"log/slog"
	"math/rand/v2"
	"net"
	"net/http"
	"os"
	"path/filepath"
	"slices"
	"sync"
)

// Server is a Session Manager. Its methods may be called from any goroutine.
type Server struct {
	cfg       Config
	log       *slog.Logger
	authority *authority
	listener  *listener
	http      *http.Server
	dir       string // what Env points to
	keys      keyring
	mfa       mfaDevice
	signIns   signIns

	webIdentity string // a token of the identity provider
	count       counters
	faults      faults
	failures    failures

	wg   sync.WaitGroup // every goroutine
	done chan struct{}  // closed by Close

	mu       sync.Mutex
	sessions map[string]*session // the ended ones too, by ID
	managed  []Node              // Config.Nodes, until SetNodes
	pushed   []PushedKey
	changed  chan struct{} // closed and replaced when a session opens or ends
	closed   bool
}

// NewServer starts a Session Manager on a port of 127.0.0.1. Like httptest, it
// panics where it cannot.
func NewServer(cfg Config) *Server {
	cfg = cfg.withDefaults()
	if cfg.Seed == 0 {
		cfg.Seed = rand.Uint64()
	}
	s := &Server{
		cfg:      cfg,
		log:      cfg.Logger,
		sessions: make(map[string]*session),
		changed:  make(chan struct{}),
		done:     make(chan struct{}),
	}
	for _, id := range cfg.Targets {
		cfg.Nodes = append(slices.Clip(cfg.Nodes), Node{InstanceID: id})
	}
	s.managed = withNodeDefaults(cfg.Nodes, cfg.AgentVersion)
	s.faults.rng = rand.New(rand.NewPCG(cfg.Seed, cfg.Seed))
	s.failures.rate = newBucket(cfg.StartSessionRate)
	s.keys.renew()
	s.keys.issueUser()
	s.signIns.init()
	s.webIdentity = randomBase64(30) + "." + randomBase64(60) + "." + randomBase64(60)
	if err := s.start(); err != nil {
		panic(fmt.Sprintf("ssmtest: %v", err))
	}
	return s
}

func (s *Server) start() (err error) {
	if s.authority, err = newAuthority(); err != nil {
		return err
	}
	if s.dir, err = os.MkdirTemp("", "ssmtest"); err != nil {
		return err
	}
	for name, content := range map[string][]byte{"ca.pem": s.authority.pem, "config": nil, "credentials": nil} {
		if err := os.WriteFile(filepath.Join(s.dir, name), content, 0o600); err != nil {
			return err
		}
	}
	tcp, err := net.ListenTCP("tcp4", &net.TCPAddr{IP: net.IPv4(127, 0, 0, 1)})
	if err != nil {
		return err
	}
	s.listener = &listener{TCPListener: tcp, srv: s, link: s.cfg.Link, conns: make(map[*linkConn]struct{})}

	mux := http.NewServeMux()
	mux.HandleFunc("POST /{$}", s.serveCall)
	mux.HandleFunc("GET /v1/data-channel/{id}", s.serveDataChannel)
	mux.HandleFunc("GET /federation/credentials", s.serveRoleCredentials)
	mux.HandleFunc("POST /client/register", s.serveOIDC("RegisterClient", (*Server).registerClient))
	mux.HandleFunc("POST /device_authorization", s.serveOIDC("StartDeviceAuthorization", (*Server).startDeviceAuthorization))
	mux.HandleFunc("POST /token", s.serveOIDC("CreateToken", (*Server).createToken))
	s.http = &http.Server{
		Handler:     mux,
		ConnContext: withConn,
		ConnState:   s.trackConn,
		ErrorLog:    log.New(logWriter{s.log}, "", 0),
	}
	config := &tls.Config{Certificates: []tls.Certificate{s.authority.leaf}, NextProtos: []string{"http/1.1"}}
	s.wg.Go(func() { s.http.Serve(tls.NewListener(s.listener, config)) })
	return nil
}

// trackConn counts the goroutines that http.Server starts for connections. A
// hijacked one goes on in its handler, which counts itself.
func (s *Server) trackConn(_ net.Conn, state http.ConnState) {
	switch state {
	case http.StateNew:
		s.wg.Add(1)
	case http.StateHijacked, http.StateClosed:
		s.wg.Done()
	}
}

type connKey struct{}

func withConn(ctx context.Context, c net.Conn) context.Context {
	return context.WithValue(ctx, connKey{}, c.(*tls.Conn).NetConn())
}

type logWriter struct{ log *slog.Logger }

func (w logWriter) Write(p []byte) (int, error) {
	w.log.Debug("http", "message", string(p))
	return len(p), nil
}

// Close ends every session and connection and returns when the last goroutine
// has ended. It may be called more than once.
func (s *Server) Close() {
	s.mu.Lock()
	already := s.closed
	s.closed = true
	sessions := make([]*session, 0, len(s.sessions))
	for _, sess := range s.sessions {
		sessions = append(sessions, sess)
	}
	s.mu.Unlock()
	if already {
		s.wg.Wait()
		return
	}
	close(s.done)
	s.http.Close()
	for _, sess := range sessions {
		sess.abandon()
	}
	s.listener.shut()
	s.wg.Wait()
	os.RemoveAll(s.dir)
}

// URL is where the API calls go: https://127.0.0.1:PORT.
func (s *Server) URL() string { return "https://" + s.addr() }

func (s *Server) addr() string { return s.listener.Addr().String() }

// Region is the region that Env names.
func (s *Server) Region() string { return s.cfg.Regions[0] }

// Seed is what random faults derive from: a test that fails prints it, and
// Config.Seed repeats it.
func (s *Server) Seed() uint64 { return s.cfg.Seed }

// Env returns environment settings, "NAME=value", that point an AWS client at
// this server and at nothing else. The files that they name exist until Close;
// the credentials are those at the time of the call.
func (s *Server) Env() []string {
	c := s.keys.latest()
	return []string{
		"AWS_ENDPOINT_URL_SSM=" + s.URL(),
		"AWS_ENDPOINT_URL_EC2_INSTANCE_CONNECT=" + s.URL(),
		"AWS_ENDPOINT_URL_STS=" + s.URL(),
		"AWS_ENDPOINT_URL_SSO=" + s.URL(),
		"AWS_ENDPOINT_URL_SSO_OIDC=" + s.URL(),
		"AWS_ENDPOINT_URL_SSMMESSAGES=" + s.URL(), // so that nobody guesses the real host
		"AWS_CA_BUNDLE=" + filepath.Join(s.dir, "ca.pem"),
		"AWS_ACCESS_KEY_ID=" + c.AccessKeyID,
		"AWS_SECRET_ACCESS_KEY=" + c.SecretAccessKey,
		"AWS_SESSION_TOKEN=" + c.SessionToken,
		"AWS_REGION=" + s.Region(),
		"AWS_EC2_METADATA_DISABLED=true",
		"AWS_CONFIG_FILE=" + filepath.Join(s.dir, "config"),
		"AWS_SHARED_CREDENTIALS_FILE=" + filepath.Join(s.dir, "credentials"),
	}
}

// OpenSessions returns the IDs of the sessions that the service counts as
// open, sorted.
func (s *Server) OpenSessions() []string {
	s.mu.Lock()
	defer s.mu.Unlock()
	return s.openLocked()
}

func (s *Server) openLocked() []string {
	var open []string
	for id, sess := range s.sessions {
		if !sess.isEnded() {
			open = append(open, id)
		}
	}
	slices.Sort(open)
	return open
}

// WaitIdle returns when no session is open, or with ctx's error.
func (s *Server) WaitIdle(ctx context.Context) error {
	for {
		s.mu.Lock()
		open, changed := s.openLocked(), s.changed
		s.mu.Unlock()
		if len(open) == 0 {
			return nil
		}
		select {
		case <-changed:
		case <-ctx.Done():
			return fmt.Errorf("sessions still open: %v: %w", open, ctx.Err())
		}
	}
}

func (s *Server) notify() {
	s.mu.Lock()
	defer s.mu.Unlock()
	close(s.changed)
	s.changed = make(chan struct{})
}

func (s *Server) session(id string) *session {
	s.mu.Lock()
	defer s.mu.Unlock()
	return s.sessions[id]
}

// channels returns the data channels that stand.
func (s *Server) channels() []*channel {
	s.mu.Lock()
	defer s.mu.Unlock()
	var all []*channel
	for _, sess := range s.sessions {
		if c := sess.current(); c != nil {
			all = append(all, c)
		}
	}
	return all
}
