//go:build !unix

package sshserver

import (
	"os"
	"os/exec"
)

func newGroup(*exec.Cmd) {}

func killGroup(p *os.Process) { p.Kill() }

func signalGroup(*os.Process, string) bool { return false }

func signalName(*exec.ExitError) string { return "KILL" }
