// Package sshserver gives tests and the demo an SSH server on loopback: one
// that runs in the process, or the machine's own sshd with keys and settings
// that touch no file of the system. It is not for production use.
package sshserver

import (
	"crypto/ed25519"
	"crypto/rand"
	"errors"
	"fmt"
	"net"
	"sync"

	"golang.org/x/crypto/ssh"
)

// Config says who may log in, and what they find.
type Config struct {
	// AuthorizedKey may log in. Without one nobody may, until Server.Authorize.
	AuthorizedKey ssh.PublicKey

	// Dir is the home directory of whoever logs in: an existing, absolute
	// path. Required.
	Dir string

	// Env is added to the environment of commands, shells and the sftp
	// server, as "NAME=value".
	Env []string
}

func (c Config) validate() error {
	if c.Dir == "" {
		return errors.New("sshserver: Dir is required")
	}
	return nil
}

// authorized holds the configuration's key. An sshd reads it from path.
func (c Config) authorized(path string) (*authorizedKeys, error) {
	a := &authorizedKeys{path: path}
	if c.AuthorizedKey == nil {
		return a, a.writeLocked()
	}
	return a, a.add(c.AuthorizedKey)
}

// Server is a running SSH server. Its fields are set before it is returned and
// never change.
type Server struct {
	Addr    string        // "127.0.0.1:PORT"
	HostKey ssh.PublicKey // what it identifies itself with
	User    string        // a login name that it accepts
	Name    string        // what it is, for a person: "OpenSSH_9.2p1", "in-process"

	authorized *authorizedKeys
	close      func() error
}

// Close stops the server and returns when everything that ran for a client has
// ended. The in-process server hangs up on clients that are still connected;
// sshd gives them 10 s to go by themselves, and an error if they do not. It may
// be called once.
func (s *Server) Close() error { return s.close() }

// Listen starts an SSH server inside this process. It accepts any user name
// with an authorized key, and knows exec, shells on a pty, window changes,
// signals, sftp and direct-tcpip (ssh -L, -D and -W). Commands run as the user
// of this process.
func Listen(config Config) (*Server, error) {
	if err := config.validate(); err != nil {
		return nil, err
	}
	_, private, err := ed25519.GenerateKey(rand.Reader)
	if err != nil {
		return nil, err
	}
	hostKey, err := ssh.NewSignerFromKey(private)
	if err != nil {
		return nil, err
	}
	ln, err := net.Listen("tcp", "127.0.0.1:0")
	if err != nil {
		return nil, err
	}
	authorized, err := config.authorized("")
	if err != nil {
		return nil, err
	}
	settings := &ssh.ServerConfig{
		PublicKeyCallback: func(_ ssh.ConnMetadata, key ssh.PublicKey) (*ssh.Permissions, error) {
			if !authorized.has(key) {
				return nil, errors.New("unknown key")
			}
			return nil, nil
		},
	}
	settings.AddHostKey(hostKey)

	l := &listener{config: config, settings: settings, ln: ln, conns: make(map[net.Conn]bool)}
	l.wg.Go(l.accept)
	return &Server{
		Addr:       ln.Addr().String(),
		HostKey:    hostKey.PublicKey(),
		User:       "demo",
		Name:       "in-process SSH server",
		authorized: authorized,
		close:      l.shutdown,
	}, nil
}

// listener is the in-process server.
type listener struct {
	config   Config
	settings *ssh.ServerConfig
	ln       net.Listener
	wg       sync.WaitGroup // accept and every connection

	mu     sync.Mutex
	closed bool              // guarded by mu
	conns  map[net.Conn]bool // guarded by mu
}

func (l *listener) accept() {
	for {
		c, err := l.ln.Accept()
		if err != nil {
			return
		}
		l.mu.Lock()
		if l.closed {
			c.Close()
		} else {
			l.conns[c] = true
			l.wg.Go(func() { l.serve(c) })
		}
		l.mu.Unlock()
	}
}

func (l *listener) shutdown() error {
	err := l.ln.Close()
	l.mu.Lock()
	l.closed = true
	for c := range l.conns {
		c.Close()
	}
	l.mu.Unlock()
	l.wg.Wait()
	return err
}

// serve speaks with one client and returns when the connection and all that
// was started for it have ended.
func (l *listener) serve(c net.Conn) {
	defer func() {
		c.Close()
		l.mu.Lock()
		delete(l.conns, c)
		l.mu.Unlock()
	}()
	conn, channels, requests, err := ssh.NewServerConn(c, l.settings)
	if err != nil {
		return
	}
	defer conn.Close()

	var wg sync.WaitGroup
	defer wg.Wait()
	wg.Go(func() { ssh.DiscardRequests(requests) })
	for channel := range channels {
		switch channel.ChannelType() {
		case "session":
			wg.Go(func() { serveSession(channel, l.config, conn.User()) })
		case "direct-tcpip":
			wg.Go(func() { forward(channel) })
		default:
			channel.Reject(ssh.UnknownChannelType, fmt.Sprintf("no %s here", channel.ChannelType()))
		}
	}
}
