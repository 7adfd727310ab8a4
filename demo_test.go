package main

import (
	"io"
	"os"
	"os/exec"
	"regexp"
	"strings"
	"syscall"
	"testing"
)

func TestDemoServesAnotherTerminalUntilInterrupted(t *testing.T) {
	t.Parallel()
	need(t, "ssh", "scp", "sftp")
	i := newInstallation(t)
	temp := t.TempDir()
	cmd := exec.Command(i.script, "--demo", "--serve")
	cmd.Env, cmd.Dir = append(i.env, "TMPDIR="+temp), i.home
	k := talk(t, cmd)
	defer k.Process.Kill() // where the test fails

	// It prints how to connect, alone on a line, when all has been shown.
	var said strings.Builder
	connect := ""
	for hint := regexp.MustCompile(`^ +(ssh -F \S+ \S+)$`); connect == ""; {
		line, err := k.out.ReadString('\n')
		if err != nil {
			k.Wait()
			t.Fatalf("%v after\n%s%s", err, &said, &k.stderr)
		}
		said.WriteString(line)
		if m := hint.FindStringSubmatch(strings.TrimRight(line, "\n")); m != nil {
			connect = m[1]
		}
	}
	for _, want := range []string{"the same on both sides, byte for byte", "none is left open", "ProxyCommand ssmproxy %h %p"} {
		if !strings.Contains(said.String(), want) {
			t.Errorf("it does not say %q:\n%s", want, &said)
		}
	}

	other := exec.Command("sh", "-c", connect+` 'echo "hello from $INSTANCE"'`)
	other.Env = []string{"PATH=" + os.Getenv("PATH"), "HOME=" + i.home, "AWS_PROFILE=mine"}
	if got := run(t, other); !strings.HasPrefix(got, "hello from i-") {
		t.Errorf("the other terminal got %q", got)
	}

	k.Process.Signal(syscall.SIGINT)
	rest, _ := io.ReadAll(k.out)
	if err := k.Wait(); err != nil {
		t.Errorf("ended with %v: %s%s", err, rest, &k.stderr)
	}
	left, err := os.ReadDir(temp)
	if err != nil || len(left) > 0 {
		t.Errorf("left behind: %v, %v", left, err)
	}
}
