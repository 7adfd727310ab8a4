package main

import (
	"errors"
	"fmt"
	"os"
	"path/filepath"
	"strings"

	"ssmproxy/ssmstream/ssmtest"
	"ssmproxy/ssmstream/ssmtest/sshserver"
)

// instance is the ID that the demo's instance goes by.
const instance = "i-0d3e0f1a5b7c90246"

// stage is what the demo plays on: a service and an instance, and a directory
// with all that an SSH client needs to reach them.
type stage struct {
	binary  string // ssmproxy
	local   string // the person's side: where files are copied from and to
	remote  string // the home directory on the instance
	config  string // ssh_config
	service *ssmtest.Server
	ssh     *sshserver.Server
}

func newStage(dir string) (*stage, error) {
	s := &stage{
		binary: filepath.Join(dir, "ssmproxy"),
		local:  filepath.Join(dir, "local"),
		remote: filepath.Join(dir, "instance"),
	}
	client := filepath.Join(dir, "ssh")
	for _, d := range []string{s.local, s.remote, client} {
		if err := os.Mkdir(d, 0o700); err != nil {
			return nil, err
		}
	}
	identity := filepath.Join(client, "id_ed25519")
	key, err := sshserver.WriteKey(identity)
	if err != nil {
		return nil, err
	}
	s.ssh, err = sshserver.Listen(sshserver.Config{
		AuthorizedKey: key,
		Dir:           s.remote,
		Env:           []string{"INSTANCE=" + instance, `PS1=\u@$INSTANCE:\w\$ `},
	})
	if err != nil {
		return nil, err
	}
	s.service = ssmtest.NewServer(ssmtest.Config{SSHAddr: s.ssh.Addr})
	s.config, err = sshserver.Client{
		Host:         instance,
		User:         s.ssh.User,
		IdentityFile: identity,
		HostKey:      s.ssh.HostKey,
		ProxyCommand: s.proxyCommand(client),
	}.WriteConfig(client)
	if err != nil {
		return nil, errors.Join(err, s.close())
	}
	return s, nil
}

// proxyCommand runs ssmproxy in an environment that leads to the demo's service
// and knows nothing of the person's own AWS settings. It stands in the
// configuration, instead of in the demo's environment, so that it holds in
// another terminal too.
func (s *stage) proxyCommand(home string) string {
	words := []string{"env", "-i", shellQuote("HOME=" + home), shellQuote("PATH=" + os.Getenv("PATH"))}
	for _, v := range s.service.Env() {
		words = append(words, shellQuote(v))
	}
	words = append(words, shellQuote(s.binary))
	return strings.ReplaceAll(strings.Join(words, " "), "%", "%%") + " %h %p"
}

func (s *stage) close() error {
	s.service.Close()
	if err := s.ssh.Close(); err != nil {
		return fmt.Errorf("SSH server: %w", err)
	}
	return nil
}

func shellQuote(s string) string {
	return "'" + strings.ReplaceAll(s, "'", `'\''`) + "'"
}
