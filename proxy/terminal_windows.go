package proxy

import (
	"os"
	"os/exec"
)

// openTerminal opens the console of the process.
func openTerminal() (*terminal, error) {
	in, err := os.OpenFile("CONIN$", os.O_RDWR, 0)
	if err != nil {
		return nil, err
	}
	out, err := os.OpenFile("CONOUT$", os.O_RDWR, 0)
	if err != nil {
		in.Close()
		return nil, err
	}
	return &terminal{in, out}, nil
}

// detach is not needed: rundll32 is gone as soon as it has told the browser.
func detach(*exec.Cmd) {}
