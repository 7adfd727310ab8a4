//go:build unix

package proxy

import (
	"os"
	"os/signal"
	"syscall"
)

var endSignals = []os.Signal{syscall.SIGHUP, syscall.SIGTERM, os.Interrupt}

// catchBrokenPipe makes a write that nobody reads an error instead of the
// process's death. Caught, not ignored: programs that are started (a
// credential_process) would inherit that.
func catchBrokenPipe() {
	signal.Notify(make(chan os.Signal, 1), syscall.SIGPIPE)
}
