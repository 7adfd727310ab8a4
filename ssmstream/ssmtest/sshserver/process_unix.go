//go:build unix

package sshserver

import (
	"os"
	"os/exec"
	"strings"
	"syscall"

	"golang.org/x/sys/unix"
)

// newGroup makes cmd the leader of a process group of its own, as a pty's
// session does anyway.
func newGroup(cmd *exec.Cmd) {
	cmd.SysProcAttr = &syscall.SysProcAttr{Setpgid: true}
}

// running tells whether p has not been waited for yet, so that its number is
// still its own.
func running(p *os.Process) bool { return p.Signal(syscall.Signal(0)) == nil }

// killGroup ends the process and its children, where it has not ended yet.
func killGroup(p *os.Process) {
	if !running(p) {
		return
	}
	syscall.Kill(-p.Pid, syscall.SIGHUP)
	syscall.Kill(-p.Pid, syscall.SIGKILL)
}

// signalGroup sends the signal with the given name, as RFC 4254 section 6.9
// spells it ("TERM"), to the process and its children.
func signalGroup(p *os.Process, name string) bool {
	signal := unix.SignalNum("SIG" + name)
	return signal != 0 && running(p) && syscall.Kill(-p.Pid, signal) == nil
}

// signalName is the name of the signal that ended a process.
func signalName(e *exec.ExitError) string {
	if e == nil {
		return "HUP"
	}
	return strings.TrimPrefix(unix.SignalName(e.Sys().(syscall.WaitStatus).Signal()), "SIG")
}
