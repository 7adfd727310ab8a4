package sshserver

import (
	"errors"
	"io"
	"os"
	"os/exec"
	"strings"
	"sync"

	"github.com/creack/pty"
	"github.com/pkg/sftp"
	"golang.org/x/crypto/ssh"
)

// session is one "session" channel (RFC 4254 section 6). Everything but start's
// goroutines happens in serveSession's loop.
type session struct {
	channel ssh.Channel
	config  Config
	user    string

	env    []string    // from env requests
	term   string      // from pty-req; empty without one
	window pty.Winsize // from pty-req
	tty    *os.File    // our end of the pty, once something runs on it
	proc   *os.Process // what runs, once it does
	wg     sync.WaitGroup

	replied chan struct{} // closed when the client knows that something runs
}

func serveSession(asked ssh.NewChannel, config Config, user string) {
	channel, requests, err := asked.Accept()
	if err != nil {
		return
	}
	s := &session{channel: channel, config: config, user: user, replied: make(chan struct{})}
	started := false
	for request := range requests { // until the channel closes, from either side
		var ok, begins bool
		switch request.Type {
		case "exec", "shell", "subsystem":
			if !started {
				begins = s.start(request)
				ok, started = begins, begins
			}
		default:
			ok = s.set(request)
		}
		if request.WantReply {
			request.Reply(ok, nil)
		}
		if begins {
			close(s.replied)
		}
	}
	if s.proc != nil {
		killGroup(s.proc) // if it still runs: the client has gone
	}
	if s.tty != nil {
		s.tty.Close() // hangs up on what else has the terminal
	}
	channel.Close()
	s.wg.Wait()
}

// set handles the requests that change something about the session. It tells
// whether the request was understood.
func (s *session) set(request *ssh.Request) bool {
	switch request.Type {
	case "env":
		var v struct{ Name, Value string }
		if ssh.Unmarshal(request.Payload, &v) != nil || !(v.Name == "LANG" || strings.HasPrefix(v.Name, "LC_")) {
			return false
		}
		s.env = append(s.env, v.Name+"="+v.Value)
	case "pty-req":
		var v struct {
			Term                         string
			Columns, Rows, Width, Height uint32
			Modes                        string
		}
		if ssh.Unmarshal(request.Payload, &v) != nil {
			return false
		}
		s.term = v.Term
		s.window = pty.Winsize{Rows: uint16(v.Rows), Cols: uint16(v.Columns), X: uint16(v.Width), Y: uint16(v.Height)}
	case "window-change":
		var v struct{ Columns, Rows, Width, Height uint32 }
		if ssh.Unmarshal(request.Payload, &v) != nil || s.tty == nil {
			return false
		}
		w := &pty.Winsize{Rows: uint16(v.Rows), Cols: uint16(v.Columns), X: uint16(v.Width), Y: uint16(v.Height)}
		return pty.Setsize(s.tty, w) == nil
	case "signal":
		var v struct{ Name string }
		if ssh.Unmarshal(request.Payload, &v) != nil || s.proc == nil {
			return false
		}
		return signalGroup(s.proc, v.Name)
	default:
		return false
	}
	return true
}

// start runs what the request asks for. It tells whether that worked.
func (s *session) start(request *ssh.Request) bool {
	var v struct{ Text string } // of exec the command, of subsystem the name
	if request.Type != "shell" && ssh.Unmarshal(request.Payload, &v) != nil {
		return false
	}
	switch {
	case request.Type == "subsystem":
		return v.Text == "sftp" && s.startSFTP()
	case request.Type == "exec":
		return s.startCommand(exec.Command("/bin/sh", "-c", v.Text))
	default:
		return s.startCommand(exec.Command(shell()))
	}
}

// shell is bash for its line editing, else what every Unix has. It is not the
// person's own shell: some of those ask questions in an empty home directory.
func shell() string {
	if path, err := exec.LookPath("bash"); err == nil {
		return path
	}
	return "/bin/sh"
}

func (s *session) startSFTP() bool {
	server, err := sftp.NewServer(keepOpen{s.channel}, sftp.WithServerWorkingDirectory(s.config.Dir))
	if err != nil {
		return false
	}
	s.wg.Go(func() {
		server.Serve()
		s.exit(nil)
	})
	return true
}

// keepOpen keeps the sftp server from closing the channel before the client,
// which wants it, has been told an exit status.
type keepOpen struct{ io.ReadWriter }

func (keepOpen) Close() error { return nil }

func (s *session) startCommand(cmd *exec.Cmd) bool {
	cmd.Dir = s.config.Dir
	cmd.Env = append([]string{
		"PATH=" + os.Getenv("PATH"), "HOME=" + s.config.Dir, "SHELL=" + shell(),
		"USER=" + s.user, "LOGNAME=" + s.user, "BASH_SILENCE_DEPRECATION_WARNING=1",
	}, s.env...)
	cmd.Env = append(cmd.Env, s.config.Env...)
	if s.term != "" {
		cmd.Env = append(cmd.Env, "TERM="+s.term)
		return s.startOnTTY(cmd)
	}

	cmd.Stdout, cmd.Stderr = s.channel, s.channel.Stderr()
	stdin, err := cmd.StdinPipe() // not cmd.Stdin: Wait would wait for the client's EOF
	if err != nil {
		return false
	}
	newGroup(cmd)
	if err := cmd.Start(); err != nil {
		return false
	}
	s.proc = cmd.Process
	s.wg.Go(func() {
		io.Copy(stdin, s.channel)
		stdin.Close()
	})
	s.wg.Go(func() { s.exit(cmd.Wait()) })
	return true
}

func (s *session) startOnTTY(cmd *exec.Cmd) bool {
	tty, err := pty.StartWithSize(cmd, &s.window)
	if err != nil {
		return false
	}
	s.tty, s.proc = tty, cmd.Process
	s.wg.Go(func() { io.Copy(tty, s.channel) })
	s.wg.Go(func() {
		io.Copy(s.channel, tty) // ends with EIO when the last process has closed the terminal
		s.exit(cmd.Wait())
	})
	return true
}

// exit tells the client how the process ended and closes the channel.
func (s *session) exit(err error) {
	<-s.replied // no end before the beginning
	s.channel.CloseWrite()
	var ended *exec.ExitError
	switch {
	case err == nil:
		s.channel.SendRequest("exit-status", false, ssh.Marshal(struct{ Status uint32 }{0}))
	case errors.As(err, &ended) && ended.Exited():
		s.channel.SendRequest("exit-status", false, ssh.Marshal(struct{ Status uint32 }{uint32(ended.ExitCode())}))
	default:
		s.channel.SendRequest("exit-signal", false, ssh.Marshal(struct {
			Name    string
			Core    bool
			Message string
			Lang    string
		}{Name: signalName(ended)}))
	}
	s.channel.Close()
}
