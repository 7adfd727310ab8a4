//go:build !windows

package proxy

import (
	"os"
	"os/exec"
	"os/signal"
	"syscall"

	"golang.org/x/sys/unix"
)

// openTerminal opens the terminal that controls the process.
func openTerminal() (*terminal, error) {
	f, err := os.OpenFile("/dev/tty", os.O_RDWR, 0)
	if err != nil {
		return nil, err
	}
	return &terminal{f, f}, nil
}

// echoOff lets a terminal take a line without showing it.
func echoOff(f *os.File) (restore func(), err error) {
	raw, err := f.SyscallConn() // File.Fd would make its reads ones that can't be ended
	if err != nil {
		return nil, err
	}
	var before *unix.Termios
	controlErr := raw.Control(func(fd uintptr) {
		if before, err = unix.IoctlGetTermios(int(fd), getTermios); err != nil {
			return
		}
		quiet := *before
		quiet.Lflag &^= unix.ECHO
		quiet.Lflag |= unix.ICANON | unix.ISIG
		quiet.Iflag |= unix.ICRNL
		err = unix.IoctlSetTermios(int(fd), setTermios, &quiet)
	})
	if controlErr != nil {
		return nil, controlErr
	}
	return func() {
		raw.Control(func(fd uintptr) { unix.IoctlSetTermios(int(fd), setTermios, before) })
	}, err
}

// notifyResumed tells when the process goes on that was stopped.
func notifyResumed(c chan<- os.Signal) { signal.Notify(c, syscall.SIGCONT) }

// detach lets a program live on when a Ctrl-C ends this one.
func detach(cmd *exec.Cmd) { cmd.SysProcAttr = &syscall.SysProcAttr{Setsid: true} }
