//go:build unix

package main

import (
	"os/exec"
	"syscall"
)

// withoutTerminal takes the terminal away that controls the process.
func withoutTerminal(cmd *exec.Cmd) { cmd.SysProcAttr = &syscall.SysProcAttr{Setsid: true} }
