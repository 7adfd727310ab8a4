package sshserver

import (
	"bytes"
	"os"
	"slices"
	"sync"

	"golang.org/x/crypto/ssh"
)

// authorizedKeys are the keys that may log in.
type authorizedKeys struct {
	path string // sshd's file; empty for the in-process server

	mu   sync.Mutex
	keys []ssh.PublicKey // one that was added twice is in it twice
}

// Authorize lets a key log in, until revoke is called. It may be called from
// any goroutine, and concerns logins to come only.
func (s *Server) Authorize(key ssh.PublicKey) (revoke func() error, err error) {
	if err := s.authorized.add(key); err != nil {
		return nil, err
	}
	return func() error { return s.authorized.remove(key) }, nil
}

func (a *authorizedKeys) add(key ssh.PublicKey) error {
	a.mu.Lock()
	defer a.mu.Unlock()
	a.keys = append(a.keys, key)
	return a.writeLocked()
}

func (a *authorizedKeys) remove(key ssh.PublicKey) error {
	a.mu.Lock()
	defer a.mu.Unlock()
	if i := slices.IndexFunc(a.keys, sameAs(key)); i >= 0 {
		a.keys = slices.Delete(a.keys, i, i+1)
	}
	return a.writeLocked()
}

func (a *authorizedKeys) has(key ssh.PublicKey) bool {
	a.mu.Lock()
	defer a.mu.Unlock()
	return slices.ContainsFunc(a.keys, sameAs(key))
}

// writeLocked replaces sshd's file in one step: a login may be reading it.
func (a *authorizedKeys) writeLocked() error {
	if a.path == "" {
		return nil
	}
	var b bytes.Buffer
	for _, key := range a.keys {
		b.Write(ssh.MarshalAuthorizedKey(key))
	}
	if err := os.WriteFile(a.path+".new", b.Bytes(), 0o600); err != nil {
		return err
	}
	return os.Rename(a.path+".new", a.path)
}

func sameAs(key ssh.PublicKey) func(ssh.PublicKey) bool {
	return func(other ssh.PublicKey) bool { return bytes.Equal(key.Marshal(), other.Marshal()) }
}
