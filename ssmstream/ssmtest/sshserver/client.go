package sshserver

import (
	"crypto/ed25519"
	"crypto/rand"
	"encoding/pem"
	"fmt"
	"os"
	"path/filepath"
	"strings"

	"golang.org/x/crypto/ssh"
)

// WriteKey makes an ed25519 key pair, writes the private half to path, readable
// by its owner only, and returns the public one.
func WriteKey(path string) (ssh.PublicKey, error) {
	public, private, err := ed25519.GenerateKey(rand.Reader)
	if err != nil {
		return nil, err
	}
	block, err := ssh.MarshalPrivateKey(private, "")
	if err != nil {
		return nil, err
	}
	if err := os.WriteFile(path, pem.EncodeToMemory(block), 0o600); err != nil {
		return nil, err
	}
	return ssh.NewPublicKey(public)
}

// Client describes an OpenSSH client's configuration.
type Client struct {
	Host         string // the name that it calls the server by
	User         string
	IdentityFile string        // as WriteKey wrote it
	HostKey      ssh.PublicKey // the server's
	ProxyCommand string        // with ssh's % tokens; empty to connect to Addr
	Addr         string        // "127.0.0.1:PORT"
}

// WriteConfig writes an ssh_config and a known_hosts to dir and returns the
// former's path. A client that is run with -F and that path reads and writes no
// other file of the user's.
func (c Client) WriteConfig(dir string) (string, error) {
	known := filepath.Join(dir, "known_hosts")
	line := c.Host + " " + string(ssh.MarshalAuthorizedKey(c.HostKey))
	if err := os.WriteFile(known, []byte(line), 0o600); err != nil {
		return "", err
	}
	lines := []string{
		"Host " + c.Host,
		"User " + c.User,
		"IdentityFile " + percent(quote(c.IdentityFile)),
		"IdentitiesOnly yes",
		"IdentityAgent none",
		"UserKnownHostsFile " + percent(quote(known)),
		"GlobalKnownHostsFile /dev/null",
		"StrictHostKeyChecking yes",
		"BatchMode yes",
	}
	if c.ProxyCommand != "" {
		lines = append(lines, "ProxyCommand "+c.ProxyCommand)
	} else {
		host, port, ok := strings.Cut(c.Addr, ":")
		if !ok {
			return "", fmt.Errorf("address %q has no port", c.Addr)
		}
		lines = append(lines, "HostName "+host, "Port "+port, "HostKeyAlias "+c.Host)
	}
	path := filepath.Join(dir, "ssh_config")
	return path, os.WriteFile(path, []byte(strings.Join(lines, "\n    ")+"\n"), 0o600)
}

// percent keeps ssh from taking a path's % for a token.
func percent(s string) string { return strings.ReplaceAll(s, "%", "%%") }
