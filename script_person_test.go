package main

import (
	"bytes"
	"context"
	"errors"
	"fmt"
	"io"
	"net"
	"os"
	"os/exec"
	"path/filepath"
	"strings"
	"sync"
	"time"

	"github.com/rogpeppe/go-internal/testscript"
	"golang.org/x/crypto/ssh"
)

// giveProfiles puts a profile for each way to credentials into ~/.aws, and takes
// the access keys out of the environment.
func giveProfiles(ts *testscript.TestScript, _ bool, _ []string) {
	w := *ts.Value(worldKey{}).(**world)
	config, credentials := w.service.Profiles()
	dir := filepath.Join(w.home, ".aws")
	ts.Check(os.MkdirAll(dir, 0o700))
	for name, text := range map[string]string{"config": config, "credentials": credentials} {
		ts.Check(os.WriteFile(filepath.Join(dir, name), []byte(text), 0o600))
	}
	for _, name := range []string{
		"AWS_ACCESS_KEY_ID", "AWS_SECRET_ACCESS_KEY", "AWS_SESSION_TOKEN", "AWS_REGION", "AWS_CONFIG_FILE", "AWS_SHARED_CREDENTIALS_FILE",
	} {
		ts.Setenv(name, "")
	}
}

// writeCode looks at the MFA device.
func writeCode(ts *testscript.TestScript, _ bool, args []string) {
	if len(args) != 1 {
		ts.Fatalf("usage: mfacode FILE")
	}
	w := *ts.Value(worldKey{}).(**world)
	ts.Check(os.WriteFile(ts.MkAbs(args[0]), []byte(w.service.MFACode()+"\n"), 0o600))
}

// consent is a person at a browser, who allows the next sign-in.
func consent(ts *testscript.TestScript, _ bool, _ []string) {
	w := *ts.Value(worldKey{}).(**world)
	ctx, cancel := context.WithCancel(context.Background())
	done := make(chan struct{})
	go func() { // ends with the sign-in, or the script
		defer close(done)
		if code, err := w.service.AwaitSignIn(ctx); err == nil {
			w.service.AnswerSignIn(code, true)
		}
	}()
	ts.Defer(func() {
		cancel()
		<-done
	})
}

// freePort sets a variable to a port of 127.0.0.1 that nobody listens on.
func freePort(ts *testscript.TestScript, _ bool, args []string) {
	if len(args) != 1 {
		ts.Fatalf("usage: port VARIABLE")
	}
	l, err := net.Listen("tcp", "127.0.0.1:0")
	ts.Check(err)
	ts.Setenv(args[0], fmt.Sprint(l.Addr().(*net.TCPAddr).Port))
	ts.Check(l.Close())
}

// jetbrains connects like JetBrains' IDEs: their SSH client is a library in the
// process, which reads ProxyCommand in ssh_config itself, splits it at its
// spaces and starts it without a shell and without a terminal.
func jetbrains(ts *testscript.TestScript, neg bool, args []string) {
	if len(args) != 2 {
		ts.Fatalf("usage: [!] jetbrains SSH_CONFIG COMMAND")
	}
	out, err := (*ts.Value(worldKey{}).(**world)).throughLibrary(ts.MkAbs("."), ts.ReadFile(args[0]), args[1])
	ts.Logf("%s", out)
	if neg != (err != nil) {
		ts.Fatalf("jetbrains: %v", err)
	}
	ts.Check(os.WriteFile(ts.MkAbs("jetbrains-output"), out, 0o600))
}

func (w *world) throughLibrary(dir, config, command string) ([]byte, error) {
	_, line, ok := strings.Cut(config, "ProxyCommand ")
	if !ok {
		return nil, errors.New("no ProxyCommand")
	}
	line, _, _ = strings.Cut(line, "\n")
	argv := strings.Fields(strings.NewReplacer("%h", w.instance, "%p", "22", "%r", w.ssh.User).Replace(line))
	bin, err := binary()
	if err != nil {
		return nil, err
	}
	if argv[0] == "ssmproxy" {
		argv[0] = bin
	}
	cmd := exec.Command(argv[0], argv[1:]...)
	cmd.Env = w.env[:0:0]
	for _, setting := range w.env { // what a desktop gives, not a shell
		if name, _, _ := strings.Cut(setting, "="); !strings.HasPrefix(name, "AWS_") || strings.HasPrefix(name, "AWS_ENDPOINT") || name == "AWS_CA_BUNDLE" {
			cmd.Env = append(cmd.Env, setting)
		}
	}
	cmd.Dir = dir
	withoutTerminal(cmd)
	pipes, err := newPipes(cmd)
	if err != nil {
		return nil, err
	}
	defer pipes.Close()
	key, err := os.ReadFile(filepath.Join(filepath.Dir(w.config), "id_ed25519"))
	if err != nil {
		return nil, err
	}
	signer, err := ssh.ParsePrivateKey(key)
	if err != nil {
		return nil, err
	}
	conn, channels, requests, err := ssh.NewClientConn(pipes, w.instance+":22", &ssh.ClientConfig{
		User: w.ssh.User, Auth: []ssh.AuthMethod{ssh.PublicKeys(signer)}, HostKeyCallback: ssh.FixedHostKey(w.ssh.HostKey),
	})
	if err != nil {
		return nil, err
	}
	client := ssh.NewClient(conn, channels, requests)
	defer client.Close()
	session, err := client.NewSession()
	if err != nil {
		return nil, err
	}
	defer session.Close()
	return session.Output(command)
}

// pipes is a process's standard input and output as a net.Conn. What it says
// beside that nobody sees, as in an IDE.
type pipes struct {
	cmd *exec.Cmd
	io.WriteCloser
	io.Reader

	close sync.Once // the library closes from two goroutines
}

func newPipes(cmd *exec.Cmd) (*pipes, error) {
	in, err := cmd.StdinPipe()
	if err != nil {
		return nil, err
	}
	out, err := cmd.StdoutPipe()
	if err != nil {
		return nil, err
	}
	return &pipes{cmd: cmd, WriteCloser: in, Reader: out}, cmd.Start()
}

func (p *pipes) Close() (err error) {
	p.close.Do(func() {
		err = p.WriteCloser.Close()
		p.cmd.Wait()
	})
	return err
}

func (p *pipes) LocalAddr() net.Addr              { return &net.UnixAddr{Name: "local"} }
func (p *pipes) RemoteAddr() net.Addr             { return &net.UnixAddr{Name: "remote"} }
func (p *pipes) SetDeadline(time.Time) error      { return os.ErrNoDeadline }
func (p *pipes) SetReadDeadline(time.Time) error  { return os.ErrNoDeadline }
func (p *pipes) SetWriteDeadline(time.Time) error { return os.ErrNoDeadline }

// absent fails where a file has one of the words.
func absent(ts *testscript.TestScript, _ bool, args []string) {
	if len(args) < 2 {
		ts.Fatalf("usage: absent FILE-OF-WORDS FILE...")
	}
	for _, name := range args[1:] {
		for word := range strings.FieldsSeq(ts.ReadFile(args[0])) {
			if bytes.Contains([]byte(ts.ReadFile(name)), []byte(word)) {
				ts.Fatalf("%s is in %s", word, name)
			}
		}
	}
}
