package sshserver

import (
	"bufio"
	"bytes"
	"encoding/binary"
	"errors"
	"fmt"
	"io"
	"net"
	"os"
	"path/filepath"
	"regexp"
	"strings"
	"testing"

	"github.com/pkg/sftp"
	"go.uber.org/goleak"
	"golang.org/x/crypto/ssh"
)

func TestMain(m *testing.M) { goleak.VerifyTestMain(m) }

// servers are both kinds of server, so that the in-process one is held to what
// sshd does.
var servers = map[string]func(t *testing.T, config Config) *Server{
	"in-process": func(t *testing.T, config Config) *Server {
		s, err := Listen(config)
		if err != nil {
			t.Fatal(err)
		}
		return s
	},
	"sshd": func(t *testing.T, config Config) *Server {
		if _, err := FindSSHD(); err != nil {
			if os.Getenv("SSMPROXY_REQUIRE_SSHD") != "" {
				t.Fatal(err)
			}
			t.Skip(err)
		}
		s, err := StartSSHD(config, t.TempDir())
		if err != nil {
			t.Fatal(err)
		}
		return s
	},
}

// onBoth runs a test against either server, with a client that is logged in.
func onBoth(t *testing.T, test func(t *testing.T, client *ssh.Client, home string)) {
	for name, start := range servers {
		t.Run(name, func(t *testing.T) {
			t.Parallel()
			dir := t.TempDir()
			signer := newSigner(t, dir)
			home := filepath.Join(dir, "home")
			if err := os.Mkdir(home, 0o700); err != nil {
				t.Fatal(err)
			}
			s := start(t, Config{AuthorizedKey: signer.PublicKey(), Dir: home, Env: []string{"FLAVOUR=one two"}})
			client, err := dial(s, signer)
			if err != nil {
				s.Close()
				t.Fatal(err)
			}
			t.Cleanup(func() {
				client.Close()
				if err := s.Close(); err != nil {
					t.Error(err)
				}
			})
			test(t, client, home)
		})
	}
}

func newSigner(t *testing.T, dir string) ssh.Signer {
	t.Helper()
	path := filepath.Join(dir, "id_ed25519")
	if _, err := WriteKey(path); err != nil {
		t.Fatal(err)
	}
	data, err := os.ReadFile(path)
	if err != nil {
		t.Fatal(err)
	}
	signer, err := ssh.ParsePrivateKey(data)
	if err != nil {
		t.Fatal(err)
	}
	return signer
}

func dial(s *Server, signer ssh.Signer) (*ssh.Client, error) {
	return ssh.Dial("tcp", s.Addr, &ssh.ClientConfig{
		User:            s.User,
		Auth:            []ssh.AuthMethod{ssh.PublicKeys(signer)},
		HostKeyCallback: ssh.FixedHostKey(s.HostKey),
	})
}

func newSession(t *testing.T, client *ssh.Client) *ssh.Session {
	t.Helper()
	s, err := client.NewSession()
	if err != nil {
		t.Fatal(err)
	}
	return s
}

func TestExecKeepsStreamsAndStatusApart(t *testing.T) {
	t.Parallel()
	onBoth(t, func(t *testing.T, client *ssh.Client, home string) {
		s := newSession(t, client)
		var stdout, stderr bytes.Buffer
		s.Stdin, s.Stdout, s.Stderr = strings.NewReader("in"), &stdout, &stderr
		err := s.Run(`cat; echo " $FLAVOUR $HOME"; echo err >&2; exit 7`)
		var exit *ssh.ExitError
		if !errors.As(err, &exit) || exit.ExitStatus() != 7 {
			t.Errorf("ended with %v, want status 7", err)
		}
		if want := "in one two " + home + "\n"; stdout.String() != want || stderr.String() != "err\n" {
			t.Errorf("stdout %q, stderr %q; want %q and %q", &stdout, &stderr, want, "err\n")
		}
	})
}

func TestExecEndsWhileStdinIsOpen(t *testing.T) {
	t.Parallel()
	onBoth(t, func(t *testing.T, client *ssh.Client, _ string) {
		s := newSession(t, client)
		if _, err := s.StdinPipe(); err != nil { // and never close it
			t.Fatal(err)
		}
		if err := s.Run("true"); err != nil {
			t.Error(err)
		}
	})
}

func TestExecReportsSignal(t *testing.T) {
	t.Parallel()
	onBoth(t, func(t *testing.T, client *ssh.Client, _ string) {
		err := newSession(t, client).Run("kill -TERM $$")
		var exit *ssh.ExitError
		if !errors.As(err, &exit) || exit.Signal() != "TERM" {
			t.Errorf("ended with %v, want signal TERM", err)
		}
	})
}

func TestShellOnPTYFollowsWindowChanges(t *testing.T) {
	t.Parallel()
	onBoth(t, func(t *testing.T, client *ssh.Client, _ string) {
		s := newSession(t, client)
		if err := s.RequestPty("vt100", 24, 80, nil); err != nil {
			t.Fatal(err)
		}
		in, _ := s.StdinPipe()
		out, _ := s.StdoutPipe()
		if err := s.Shell(); err != nil {
			t.Fatal(err)
		}
		lines := bufio.NewReader(out)
		// ask runs a command and returns the first line that matches: its echo
		// must not.
		ask := func(command string, match *regexp.Regexp) string {
			t.Helper()
			io.WriteString(in, command+"\n")
			for {
				line, err := lines.ReadString('\n')
				if m := match.FindString(line); m != "" {
					return m
				}
				if err != nil {
					t.Fatalf("%v after %q", err, line)
				}
			}
		}
		if got := ask("echo $TERM $((40+2))", regexp.MustCompile(`vt100 \d+`)); got != "vt100 42" {
			t.Errorf("the terminal is %s, want vt100 42", got)
		}
		size := regexp.MustCompile(`\d+ \d+`)
		if got := ask("stty size", size); got != "24 80" {
			t.Errorf("the size is %s, want 24 80", got)
		}
		if err := s.WindowChange(50, 132); err != nil {
			t.Fatal(err)
		}
		// The change is a request, which the server may handle after the input
		// that follows it.
		for ask("stty size", size) != "50 132" {
		}
		io.WriteString(in, "exit 3\n")
		io.Copy(io.Discard, lines)
		var exit *ssh.ExitError
		if err := s.Wait(); !errors.As(err, &exit) || exit.ExitStatus() != 3 {
			t.Errorf("ended with %v, want status 3", err)
		}
	})
}

func TestSFTPStartsInHome(t *testing.T) {
	t.Parallel()
	onBoth(t, func(t *testing.T, client *ssh.Client, home string) {
		files, err := sftp.NewClient(client)
		if err != nil {
			t.Fatal(err)
		}
		defer files.Close()
		want := bytes.Repeat([]byte("every byte\n"), 20000)
		f, err := files.Create("copy")
		if err != nil {
			t.Fatal(err)
		}
		if _, err := f.Write(want); err != nil {
			t.Fatal(err)
		}
		if err := f.Close(); err != nil {
			t.Fatal(err)
		}
		if got, err := os.ReadFile(filepath.Join(home, "copy")); err != nil || !bytes.Equal(got, want) {
			t.Errorf("%d bytes, %v; want the %d that were sent", len(got), err, len(want))
		}
	})
}

func TestSFTPEndsWithAStatus(t *testing.T) {
	t.Parallel()
	onBoth(t, func(t *testing.T, client *ssh.Client, _ string) {
		channel, requests, err := client.OpenChannel("session", nil)
		if err != nil {
			t.Fatal(err)
		}
		ok, err := channel.SendRequest("subsystem", true, ssh.Marshal(struct{ Name string }{"sftp"}))
		if err != nil || !ok {
			t.Fatal(ok, err)
		}
		channel.CloseWrite()
		io.Copy(io.Discard, channel)
		status := "none"
		for r := range requests {
			if r.Type == "exit-status" {
				status = fmt.Sprint(binary.BigEndian.Uint32(r.Payload))
			}
		}
		if status != "0" {
			t.Errorf("exit status %s, want 0", status)
		}
	})
}

func TestForwardingConnectsToWhereTheClientAsks(t *testing.T) {
	t.Parallel()
	onBoth(t, func(t *testing.T, client *ssh.Client, _ string) {
		ln, err := net.Listen("tcp", "127.0.0.1:0")
		if err != nil {
			t.Fatal(err)
		}
		defer ln.Close()
		go func() { // ends with its one connection
			if c, err := ln.Accept(); err == nil {
				io.Copy(c, c)
				c.Close()
			}
		}()
		conn, err := client.Dial("tcp", ln.Addr().String())
		if err != nil {
			t.Fatal(err)
		}
		defer conn.Close()
		io.WriteString(conn, "there and back")
		conn.(interface{ CloseWrite() error }).CloseWrite()
		if got, err := io.ReadAll(conn); err != nil || string(got) != "there and back" {
			t.Errorf("got %q, %v", got, err)
		}
	})
}

func TestForwardingToAClosedPortIsRefused(t *testing.T) {
	t.Parallel()
	onBoth(t, func(t *testing.T, client *ssh.Client, _ string) {
		addr, err := freeAddr()
		if err != nil {
			t.Fatal(err)
		}
		conn, err := client.Dial("tcp", addr)
		var refused *ssh.OpenChannelError
		if !errors.As(err, &refused) || refused.Reason != ssh.ConnectionFailed {
			t.Errorf("got %v, %v; want a refusal", conn, err)
		}
	})
}

func TestUnknownKeyIsRefused(t *testing.T) {
	t.Parallel()
	for name, start := range servers {
		t.Run(name, func(t *testing.T) {
			t.Parallel()
			known, unknown := newSigner(t, t.TempDir()), newSigner(t, t.TempDir())
			s := start(t, Config{AuthorizedKey: known.PublicKey(), Dir: t.TempDir()})
			defer s.Close()
			if client, err := dial(s, unknown); err == nil {
				client.Close()
				t.Error("logged in")
			}
		})
	}
}

func TestCloseEndsWhatRuns(t *testing.T) {
	t.Parallel()
	signer := newSigner(t, t.TempDir())
	s, err := Listen(Config{AuthorizedKey: signer.PublicKey(), Dir: t.TempDir()})
	if err != nil {
		t.Fatal(err)
	}
	client, err := dial(s, signer)
	if err != nil {
		t.Fatal(err)
	}
	defer client.Close()
	session := newSession(t, client)
	out, err := session.StdoutPipe()
	if err != nil {
		t.Fatal(err)
	}
	if err := session.Start("echo up; exec sleep 1000"); err != nil {
		t.Fatal(err)
	}
	if _, err := io.ReadFull(out, make([]byte, 3)); err != nil {
		t.Fatal(err)
	}
	if err := s.Close(); err != nil { // returns only when sleep has ended
		t.Error(err)
	}
}

func TestAuthorizedLaterMayLogInUntilRevoked(t *testing.T) {
	t.Parallel()
	for name, start := range servers {
		t.Run(name, func(t *testing.T) {
			t.Parallel()
			signer := newSigner(t, t.TempDir())
			s := start(t, Config{Dir: t.TempDir()})
			defer s.Close()
			login := func() error {
				client, err := dial(s, signer)
				if err == nil {
					client.Close()
				}
				return err
			}
			if login() == nil {
				t.Error("logged in before")
			}
			revoke, err := s.Authorize(signer.PublicKey())
			if err != nil {
				t.Fatal(err)
			}
			if err := login(); err != nil {
				t.Error(err)
			}
			if err := revoke(); err != nil {
				t.Fatal(err)
			}
			if login() == nil {
				t.Error("logged in afterwards")
			}
		})
	}
}
