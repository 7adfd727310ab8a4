package main

import (
	"bytes"
	"context"
	"crypto/rand"
	"encoding/hex"
	"errors"
	"fmt"
	"os"
	"os/exec"
	"path/filepath"
	"strings"
	"sync"
	"testing"
	"time"

	"ssmproxy/ssmstream/ssmtest"
	"ssmproxy/ssmstream/ssmtest/sshserver"

	"go.uber.org/goleak"
	"golang.org/x/crypto/ssh"
)

// The tests in this package run the real binary under the real ssh client,
// through ssmtest, to the machine's sshd or, where there is none, to the
// in-process SSH server. SSMPROXY_REQUIRE_SSHD=1 (set in CI) makes a missing
// tool a failure.

var scratch string // removed at the end

func TestMain(m *testing.M) {
	var err error
	if scratch, err = os.MkdirTemp("", "ssmproxy-test"); err != nil {
		fmt.Fprintln(os.Stderr, err)
		os.Exit(1)
	}
	goleak.VerifyTestMain(m, goleak.Cleanup(func(code int) {
		os.RemoveAll(scratch)
		os.Exit(code)
	}))
}

// binary builds the product once and returns its path: as install.sh does, or,
// under -race, with the race detector, whose reports no test that looks at
// standard error misses.
var binary = sync.OnceValues(func() (string, error) {
	for _, dir := range []string{".", "proxy", "ssmstream"} {
		os.ReadDir(dir) // so that go test's cache knows what the results depend on
	}
	path := filepath.Join(scratch, "bin", "ssmproxy")
	cmd := exec.Command("go", "build", "-trimpath", "-buildvcs=false", "-ldflags", "-s -w", "-o", path, ".")
	cmd.Env = append(os.Environ(), "CGO_ENABLED=0")
	if raceEnabled {
		cmd = exec.Command("go", "build", "-race", "-o", path, ".")
	}
	if out, err := cmd.CombinedOutput(); err != nil {
		return "", fmt.Errorf("go build: %w\n%s", err, out)
	}
	return path, nil
})

// lacks says why a test cannot run without the tool; empty if it can. In CI
// that is an error.
func lacks(tool string) (string, error) {
	_, err := exec.LookPath(tool)
	if err != nil && os.Getenv("SSMPROXY_REQUIRE_SSHD") != "" {
		return "", err
	}
	if err != nil {
		return tool + " is not installed", nil
	}
	return "", nil
}

func need(t testing.TB, tools ...string) {
	t.Helper()
	for _, tool := range tools {
		if why, err := lacks(tool); err != nil {
			t.Fatal(err)
		} else if why != "" {
			t.Skip(why)
		}
	}
}

// world is a service with one instance, and a client's machine.
type world struct {
	service  *ssmtest.Server
	ssh      *sshserver.Server
	instance string // its ID, unlike any other's
	dest     string // user@instance
	home     string // the client's home directory
	remote   string // the instance's
	config   string // ssh_config: ProxyCommand ssmproxy %h %p
	direct   string // ssh_config that leads to the same sshd without ssmproxy
	env      []string
	nodes    map[string]ssmtest.Node // those that a script has named
	forget   func() error            // makes the instance one that does not know the client's key
}

// newWorld makes a world in dir, an empty directory.
func newWorld(dir string, config ssmtest.Config) (w *world, err error) {
	bin, err := binary()
	if err != nil {
		return nil, err
	}
	id := make([]byte, 8)
	rand.Read(id)
	w = &world{
		instance: "i-0" + hex.EncodeToString(id),
		nodes:    make(map[string]ssmtest.Node),
		home:     filepath.Join(dir, "home"),
		remote:   filepath.Join(dir, "remote"),
	}
	keys := filepath.Join(dir, "ssh")
	plain := filepath.Join(dir, "direct")
	for _, d := range []string{w.home, w.remote, keys, plain} {
		if err := os.MkdirAll(d, 0o700); err != nil {
			return nil, err
		}
	}
	identity := filepath.Join(keys, "id_ed25519")
	key, err := sshserver.WriteKey(identity)
	if err != nil {
		return nil, err
	}
	if err := os.WriteFile(identity+".pub", ssh.MarshalAuthorizedKey(key), 0o600); err != nil {
		return nil, err
	}
	if w.ssh, err = startSSH(sshserver.Config{Dir: w.remote}, keys); err != nil {
		return nil, err
	}
	if w.forget, err = w.ssh.Authorize(key); err != nil {
		return nil, errors.Join(err, w.ssh.Close())
	}
	config.SSHAddr = w.ssh.Addr
	config.KeyPushed = w.keyPushed
	w.service = ssmtest.NewServer(config)
	w.dest = w.ssh.User + "@" + w.instance
	w.env = append([]string{
		"PATH=" + filepath.Dir(bin) + string(os.PathListSeparator) + os.Getenv("PATH"),
		"HOME=" + w.home,
		"TMPDIR=" + os.TempDir(),
		"GIT_CONFIG_NOSYSTEM=1",
	}, w.service.Env()...)
	client := sshserver.Client{
		Host: w.instance, User: w.ssh.User, IdentityFile: identity,
		HostKey: w.ssh.HostKey, ProxyCommand: "ssmproxy %h %p", Addr: w.ssh.Addr,
	}
	if w.config, err = client.WriteConfig(keys); err == nil {
		client.ProxyCommand = ""
		w.direct, err = client.WriteConfig(plain)
	}
	if err != nil {
		return nil, errors.Join(err, w.close())
	}
	return w, nil
}

// keyPushed lets a key log in that EC2 Instance Connect was given.
func (w *world) keyPushed(k ssmtest.PushedKey) (expire func()) {
	key, _, _, _, err := ssh.ParseAuthorizedKey([]byte(k.Key))
	if err != nil || k.InstanceID != w.instance || k.User != w.ssh.User {
		return func() {} // good for nothing here
	}
	revoke, err := w.ssh.Authorize(key)
	if err != nil {
		panic(err)
	}
	return func() { revoke() }
}

// startSSH prefers the machine's sshd.
func startSSH(config sshserver.Config, dir string) (*sshserver.Server, error) {
	if _, err := sshserver.FindSSHD(); err == nil {
		return sshserver.StartSSHD(config, dir)
	} else if os.Getenv("SSMPROXY_REQUIRE_SSHD") != "" {
		return nil, err
	}
	return sshserver.Listen(config)
}

func (w *world) close() error {
	w.service.Close()
	return w.ssh.Close()
}

// idle waits until no session is open and no ssmproxy runs, 5 s at most.
func (w *world) idle() error {
	ctx, cancel := context.WithTimeout(context.Background(), 5*time.Second)
	defer cancel()
	if err := w.service.WaitIdle(ctx); err != nil {
		return fmt.Errorf("open after 5 s: %v", w.service.OpenSessions())
	}
	for {
		left, err := w.processes()
		if err != nil || len(left) == 0 {
			return err
		}
		select {
		case <-ctx.Done():
			return fmt.Errorf("running after 5 s: %q", left)
		case <-time.After(20 * time.Millisecond):
		}
	}
}

// processes lists the ssmproxy processes that serve this world.
func (w *world) processes() ([]string, error) {
	out, err := exec.Command("ps", "-A", "-o", "stat=", "-o", "args=").Output()
	if err != nil {
		return nil, fmt.Errorf("ps: %w", err)
	}
	var found []string
	for line := range strings.Lines(string(out)) {
		words := strings.Fields(line)
		if len(words) > 2 && words[0][0] != 'Z' && filepath.Base(words[1]) == "ssmproxy" && strings.Contains(line, w.instance) {
			found = append(found, strings.TrimSpace(line))
		}
	}
	return found, nil
}

// build makes a world for a test, and sees to its end.
func build(t testing.TB, config ssmtest.Config) *world {
	t.Helper()
	need(t, "ssh")
	// Not t.TempDir: sockets in it would have too long a path.
	dir, err := os.MkdirTemp(scratch, "w")
	if err != nil {
		t.Fatal(err)
	}
	w, err := newWorld(dir, config)
	if err != nil {
		t.Fatal(err)
	}
	t.Cleanup(func() {
		if err := w.idle(); err != nil {
			t.Error(err)
		}
		if err := w.close(); err != nil {
			t.Error(err)
		}
		os.RemoveAll(dir)
	})
	return w
}

// command prepares an SSH client's program, such as ssh or scp, with the
// world's configuration and environment.
func (w *world) command(name string, args ...string) *exec.Cmd {
	cmd := exec.Command(name, append([]string{"-F", w.config}, args...)...)
	cmd.Env = w.env
	cmd.Dir = w.home
	return cmd
}

// run runs a command that has to succeed and to keep quiet on standard error,
// and returns its output.
func run(t testing.TB, cmd *exec.Cmd) string {
	t.Helper()
	var stdout, stderr bytes.Buffer
	cmd.Stdout, cmd.Stderr = &stdout, &stderr
	if err := cmd.Run(); err != nil || stderr.Len() > 0 {
		t.Fatalf("%s: %v\nstderr: %s", cmd, err, &stderr)
	}
	return stdout.String()
}

// output runs the program, which has to succeed.
func output(t testing.TB, program string, args ...string) string {
	t.Helper()
	return run(t, exec.Command(program, args...))
}

func randomBytes(n int) []byte {
	b := make([]byte, n)
	rand.Read(b)
	return b
}
