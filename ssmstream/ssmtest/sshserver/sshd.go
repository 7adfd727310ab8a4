package sshserver

import (
	"bufio"
	"errors"
	"fmt"
	"net"
	"os"
	"os/exec"
	"os/user"
	"path/filepath"
	"strings"
	"syscall"
	"time"
)

// privilegeSeparation is where an sshd that runs as root insists on finding an
// empty directory.
const privilegeSeparation = "/run/sshd"

// FindSSHD returns the path of the machine's sshd, or an error that says what
// is missing for StartSSHD.
func FindSSHD() (string, error) {
	path := ""
	for _, candidate := range []string{"/usr/sbin/sshd", "/usr/lib/ssh/sshd", "/usr/local/sbin/sshd", "/usr/bin/sshd"} {
		if info, err := os.Stat(candidate); err == nil && !info.IsDir() {
			path = candidate
			break
		}
	}
	if path == "" {
		return "", errors.New("no sshd is installed")
	}
	if os.Geteuid() == 0 {
		if _, err := os.Stat(privilegeSeparation); err != nil {
			return "", fmt.Errorf("%s does not exist, without which sshd does not run as root", privilegeSeparation)
		}
	}
	return path, nil
}

// StartSSHD starts the machine's own sshd on a loopback port, with a host key,
// a configuration and a log in dir, an existing directory. It lets the user of
// this process log in, and nobody else. Where FindSSHD fails, so does it, and
// where Config.Dir has a space: sshd cannot be told to start its sftp server
// there.
func StartSSHD(config Config, dir string) (*Server, error) {
	if err := config.validate(); err != nil {
		return nil, err
	}
	if strings.ContainsAny(config.Dir, " \t") {
		return nil, fmt.Errorf("sshd: white space in %q", config.Dir)
	}
	path, err := FindSSHD()
	if err != nil {
		return nil, err
	}
	me, err := user.Current()
	if err != nil {
		return nil, err
	}
	hostKey, err := WriteKey(filepath.Join(dir, "host_key"))
	if err != nil {
		return nil, err
	}
	authorized, err := config.authorized(filepath.Join(dir, "authorized_keys"))
	if err != nil {
		return nil, err
	}

	// sshd has no port 0, so it is given one that was free a moment ago, and
	// another one where somebody else was faster.
	for try := 1; ; try++ {
		addr, err := freeAddr()
		if err != nil {
			return nil, err
		}
		file := filepath.Join(dir, "sshd_config")
		if err := os.WriteFile(file, []byte(sshdConfig(config, addr, dir)), 0o600); err != nil {
			return nil, err
		}
		name, stop, err := runSSHD(path, file, addr)
		if err == nil {
			return &Server{Addr: addr, HostKey: hostKey, User: me.Username, Name: name, authorized: authorized, close: stop}, nil
		}
		if try == 5 || !errors.Is(err, errPortTaken) {
			return nil, err
		}
	}
}

func sshdConfig(config Config, addr, dir string) string {
	env := []string{quote("HOME=" + config.Dir)}
	for _, v := range config.Env {
		env = append(env, quote(v))
	}
	return strings.Join([]string{
		"ListenAddress " + addr,
		"HostKey " + quote(filepath.Join(dir, "host_key")),
		"AuthorizedKeysFile " + quote(filepath.Join(dir, "authorized_keys")),
		"SetEnv " + strings.Join(env, " "),
		"Subsystem sftp internal-sftp -d " + config.Dir,
		"AuthenticationMethods publickey",
		"StrictModes no", // the temporary directory's parents are world-writable
		"UsePAM no",
		"UseDNS no",
		"PidFile none",
		"PermitUserRC no",
		"PrintMotd no",
		"PrintLastLog no",
		"MaxStartups 100", // of logins under way: tests open many at once
		"MaxSessions 100",
		"",
	}, "\n")
}

var errPortTaken = errors.New("the port is taken")

// runSSHD starts sshd in the foreground and returns when it listens. name is
// its version, as it greets clients.
func runSSHD(path, file, addr string) (name string, stop func() error, err error) {
	cmd := exec.Command(path, "-D", "-e", "-f", file)
	log, err := cmd.StderrPipe()
	if err != nil {
		return "", nil, err
	}
	if err := cmd.Start(); err != nil {
		return "", nil, err
	}
	listening, drained := make(chan bool, 1), make(chan struct{})
	var said strings.Builder // until it listens
	go func() {              // ends when sshd and all its children have
		defer close(drained)
		up := false
		for lines := bufio.NewScanner(log); lines.Scan(); {
			if up {
				continue
			}
			fmt.Fprintln(&said, lines.Text())
			if up = strings.HasPrefix(lines.Text(), "Server listening on"); up {
				listening <- true
			}
		}
		if !up {
			listening <- false
		}
	}()
	stop = func() error {
		cmd.Process.Signal(syscall.SIGTERM) // ends the listener; a connection ends with its client
		defer cmd.Wait()                    // whose error says only that we sent a signal
		select {
		case <-drained:
			return nil
		case <-time.After(10 * time.Second):
			return errors.New("sshd: a client is still connected")
		}
	}
	if !<-listening {
		stop()
		if strings.Contains(said.String(), "Address already in use") {
			return "", nil, errPortTaken
		}
		return "", nil, fmt.Errorf("sshd did not start: %s", strings.TrimSpace(said.String()))
	}
	name, err = greeting(addr)
	if err != nil {
		stop()
		return "", nil, fmt.Errorf("sshd: %w", err)
	}
	return name, stop, nil
}

// greeting reads the software version out of an SSH server's first line
// (RFC 4253 section 4.2).
func greeting(addr string) (string, error) {
	conn, err := net.Dial("tcp", addr)
	if err != nil {
		return "", err
	}
	defer conn.Close()
	line, err := bufio.NewReader(conn).ReadString('\n')
	if err != nil {
		return "", err
	}
	name, _, _ := strings.Cut(strings.TrimPrefix(strings.TrimSpace(line), "SSH-2.0-"), " ")
	return name, nil
}

func freeAddr() (string, error) {
	ln, err := net.Listen("tcp", "127.0.0.1:0")
	if err != nil {
		return "", err
	}
	defer ln.Close()
	return ln.Addr().String(), nil
}

// quote quotes an argument of ssh_config and sshd_config.
func quote(s string) string { return `"` + strings.ReplaceAll(s, `"`, `\"`) + `"` }
