//go:build !unix

package proxy

import (
	"os"
	"os/exec"
)

func setTerminal(*exec.Cmd, *os.File) {}
