//go:build !windows

package proxy

import (
	"os"
	"os/exec"
	"syscall"
)

// openTerminal opens the terminal that controls the process.
func openTerminal() (*terminal, error) {
	f, err := os.OpenFile("/dev/tty", os.O_RDWR, 0)
	if err != nil {
		return nil, err
	}
	return &terminal{f, f}, nil
}

// detach lets a program live on when a Ctrl-C ends this one.
func detach(cmd *exec.Cmd) { cmd.SysProcAttr = &syscall.SysProcAttr{Setsid: true} }
