//go:build !unix

package proxy

import (
	"os"
	"syscall"
)

var endSignals = []os.Signal{syscall.SIGTERM, os.Interrupt}

func catchBrokenPipe() {} // there is no SIGPIPE
