//go:build unix

package main

import (
	"encoding/json"
	"fmt"
	"os"
	"os/exec"
	"os/signal"
	"path/filepath"
	"syscall"
	"testing"
	"time"
)

// usage is what a process has used when it has ended.
type usage struct {
	CPU time.Duration
	RSS int // peak, in KiB
}

// meterVariable makes this test binary run the command line that follows as
// ssmproxy's ProxyCommand and write its usage to the file that the variable
// names: only the parent of a process learns it.
const meterVariable = "SSMPROXY_TEST_METER"

func init() {
	if file := os.Getenv(meterVariable); file != "" {
		os.Exit(meter(file, os.Args[1:]))
	}
}

func meter(file string, args []string) int {
	cmd := exec.Command(args[0], args[1:]...)
	cmd.Env = append(os.Environ(), meterVariable+"=")
	cmd.Stdin, cmd.Stdout, cmd.Stderr = os.Stdin, os.Stdout, os.Stderr
	signals := make(chan os.Signal, 1)
	signal.Notify(signals, syscall.SIGHUP, syscall.SIGTERM)
	if err := cmd.Start(); err != nil {
		fmt.Fprintln(os.Stderr, err)
		return 1
	}
	// The pipes are the child's alone: it has to see them end.
	os.Stdin.Close()
	os.Stdout.Close()
	go func() {
		for s := range signals {
			cmd.Process.Signal(s)
		}
	}()
	cmd.Wait()
	state := cmd.ProcessState
	text, err := json.Marshal(usage{
		CPU: state.UserTime() + state.SystemTime(),
		RSS: int(state.SysUsage().(*syscall.Rusage).Maxrss),
	})
	if err == nil {
		err = os.WriteFile(file+".part", text, 0o600)
	}
	if err == nil {
		err = os.Rename(file+".part", file)
	}
	if err != nil {
		fmt.Fprintln(os.Stderr, err)
	}
	return state.ExitCode()
}

// metered returns an ssh option that makes ssmproxy's usage known, and a
// function that waits for it.
func (w *world) metered(t testing.TB) (option string, used func() usage) {
	t.Helper()
	self, err := os.Executable()
	if err != nil {
		t.Fatal(err)
	}
	dir, err := os.MkdirTemp(w.home, "usage") // clients may run side by side
	if err != nil {
		t.Fatal(err)
	}
	file := filepath.Join(dir, "usage")
	option = fmt.Sprintf("-oProxyCommand=env %s=%s %s ssmproxy %%h %%p", meterVariable, file, self)
	return option, func() (u usage) {
		t.Helper()
		for deadline := time.Now().Add(10 * time.Second); ; {
			text, err := os.ReadFile(file)
			if err == nil {
				if err := json.Unmarshal(text, &u); err != nil {
					t.Fatal(err)
				}
				return u
			}
			if time.Now().After(deadline) {
				t.Fatal("ssmproxy has not ended")
			}
			time.Sleep(5 * time.Millisecond)
		}
	}
}
