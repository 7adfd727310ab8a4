package proxy

import (
	"os"
	"os/exec"

	"golang.org/x/sys/windows"
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

// echoOff lets a console take a line without showing it.
func echoOff(f *os.File) (restore func(), err error) {
	console := windows.Handle(f.Fd())
	var before uint32
	if err := windows.GetConsoleMode(console, &before); err != nil {
		return nil, err
	}
	quiet := before&^windows.ENABLE_ECHO_INPUT | windows.ENABLE_LINE_INPUT | windows.ENABLE_PROCESSED_INPUT
	if err := windows.SetConsoleMode(console, quiet); err != nil {
		return nil, err
	}
	return func() { windows.SetConsoleMode(console, before) }, nil
}

// notifyResumed has nothing to tell: nothing is stopped here.
func notifyResumed(chan<- os.Signal) {}

// detach is not needed: rundll32 is gone as soon as it has told the browser.
func detach(*exec.Cmd) {}
