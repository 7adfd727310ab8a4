package main

import (
	"bytes"
	"errors"
	"fmt"
	"io/fs"
	"maps"
	"os"
	"os/exec"
	"path/filepath"
	"slices"
	"strings"
	"sync"
	"testing"
)

// goEnv is what a Go command needs to find its caches when HOME is another one.
var goEnv = sync.OnceValues(func() ([]string, error) {
	var env []string
	for _, name := range []string{"GOMODCACHE", "GOCACHE", "GOPATH", "GOFLAGS", "GOPROXY", "GOSUMDB", "GOTOOLCHAIN"} {
		value, err := exec.Command("go", "env", name).Output()
		if err != nil {
			return nil, err
		}
		env = append(env, name+"="+strings.TrimSpace(string(value)))
	}
	return env, nil
})

// installation is a home directory for install.sh to work in.
type installation struct {
	t      *testing.T
	home   string
	script string
	env    []string
}

func newInstallation(t *testing.T) *installation {
	t.Helper()
	need(t, "sh", "go")
	env, err := goEnv()
	if err != nil {
		t.Fatal(err)
	}
	script, err := filepath.Abs("install.sh")
	if err != nil {
		t.Fatal(err)
	}
	home := filepath.Join(t.TempDir(), "a home") // its space must not matter
	if err := os.Mkdir(home, 0o700); err != nil {
		t.Fatal(err)
	}
	i := &installation{t: t, home: home, script: script}
	i.env = append(env, "HOME="+home, "PATH="+os.Getenv("PATH"), "TMPDIR="+t.TempDir())
	return i
}

// run runs install.sh from the home directory and returns what it says and its
// exit status. It must leave nothing in its temporary directory.
func (i *installation) run(args ...string) (said string, status int) {
	i.t.Helper()
	cmd := exec.Command(i.script, args...)
	cmd.Env, cmd.Dir = i.env, i.home
	out, err := cmd.CombinedOutput()
	if exit := (*exec.ExitError)(nil); err != nil && !errors.As(err, &exit) {
		i.t.Fatal(err)
	}
	for _, v := range i.env {
		if dir, ok := strings.CutPrefix(v, "TMPDIR="); ok {
			left, err := filepath.Glob(filepath.Join(dir, "ssmproxy*"))
			if err != nil || len(left) > 0 {
				i.t.Errorf("left behind: %v, %v", left, err)
			}
		}
	}
	return string(out), cmd.ProcessState.ExitCode()
}

func (i *installation) mustRun(args ...string) string {
	i.t.Helper()
	said, status := i.run(args...)
	if status != 0 {
		i.t.Fatalf("install.sh %v ended with %d:\n%s", args, status, said)
	}
	return said
}

func (i *installation) path(name string) string { return filepath.Join(i.home, name) }

func (i *installation) write(name, content string, mode os.FileMode) {
	i.t.Helper()
	path := i.path(name)
	if err := os.MkdirAll(filepath.Dir(path), 0o700); err != nil {
		i.t.Fatal(err)
	}
	if err := os.WriteFile(path, []byte(content), 0o600); err != nil {
		i.t.Fatal(err)
	}
	if err := os.Chmod(path, mode); err != nil { // whatever the umask
		i.t.Fatal(err)
	}
}

func (i *installation) read(name string) string {
	i.t.Helper()
	data, err := os.ReadFile(i.path(name))
	if err != nil {
		i.t.Fatal(err)
	}
	return string(data)
}

// tree describes every file below .ssh and dotfiles. (The Go command keeps files
// of its own in the home directory.)
func (i *installation) tree() map[string]string {
	i.t.Helper()
	files := make(map[string]string)
	err := filepath.WalkDir(i.home, func(path string, d fs.DirEntry, err error) error {
		if err != nil {
			return err
		}
		name, err := filepath.Rel(i.home, path)
		if err != nil {
			return err
		}
		if top, _, _ := strings.Cut(name, string(filepath.Separator)); top != ".ssh" && top != "dotfiles" {
			if d.IsDir() && name != "." {
				return fs.SkipDir
			}
			return nil
		}
		info, err := d.Info()
		if err != nil {
			return err
		}
		content := ""
		switch {
		case info.Mode().IsRegular():
			data, err := os.ReadFile(path)
			if err != nil {
				return err
			}
			content = string(data)
		case info.Mode()&fs.ModeSymlink != 0:
			if content, err = os.Readlink(path); err != nil {
				return err
			}
		}
		files[name] = fmt.Sprintf("%v %q", info.Mode(), content)
		return nil
	})
	if err != nil {
		i.t.Fatal(err)
	}
	return files
}

func (i *installation) sameTree(what string, want map[string]string) {
	i.t.Helper()
	got := i.tree()
	if maps.Equal(got, want) {
		return
	}
	names := slices.Sorted(maps.Keys(got))
	names = append(names, slices.Sorted(maps.Keys(want))...)
	for _, name := range slices.Compact(names) {
		if got[name] != want[name] {
			i.t.Errorf("%s: %s is %s, want %s", what, name, got[name], want[name])
		}
	}
}

func TestInstallPutsTheBinaryIntoLocalBin(t *testing.T) {
	t.Parallel()
	i := newInstallation(t)
	said := i.mustRun()
	bin := i.path(".local/bin/ssmproxy")
	for _, want := range []string{"installed " + bin, "is not on PATH", `export PATH="` + i.path(".local/bin") + `:$PATH"`, "ProxyCommand"} {
		if !strings.Contains(said, want) {
			t.Errorf("it does not say %q:\n%s", want, said)
		}
	}
	version, err := exec.Command(bin, "--version").Output()
	if err != nil {
		t.Fatal(err)
	}
	if git, err := exec.Command("git", "describe", "--tags", "--always", "--dirty").Output(); err == nil {
		// Not --dirty's word: somebody may be at work here.
		if want := strings.TrimSuffix(strings.TrimSpace(string(git)), "-dirty"); !strings.Contains(string(version), want) {
			t.Errorf("version %q, want git's %q", version, want)
		}
	}

	before, err := os.Stat(bin)
	if err != nil {
		t.Fatal(err)
	}
	i.env = append(i.env, "PATH="+i.path(".local/bin")+":"+os.Getenv("PATH"))
	said = i.mustRun()
	if after, err := os.Stat(bin); err != nil || !os.SameFile(before, after) || !strings.Contains(said, "is up to date") || strings.Contains(said, "PATH") {
		t.Errorf("running it again, with the directory on PATH: %v\n%s", err, said)
	}

	i.mustRun("--uninstall")
	if _, err := os.Lstat(bin); !errors.Is(err, fs.ErrNotExist) {
		t.Errorf("after --uninstall: %v", err)
	}
}

func TestInstallFromATarballIntoPrefix(t *testing.T) {
	t.Parallel()
	i := newInstallation(t)
	source := i.path("a tarball") // no git here
	if err := os.Mkdir(source, 0o700); err != nil {
		t.Fatal(err)
	}
	for _, name := range []string{"install.sh", "main.go", "go.mod", "go.sum", "proxy", "ssmstream"} {
		if out, err := exec.Command("cp", "-R", name, source).CombinedOutput(); err != nil {
			t.Fatalf("%v: %s", err, out)
		}
	}
	i.script = filepath.Join(source, "install.sh")
	i.mustRun("--prefix", "of my own") // relative to where it was called
	bin := i.path("of my own/bin/ssmproxy")
	if out, err := exec.Command(bin, "--version").CombinedOutput(); err != nil || !bytes.HasPrefix(out, []byte("ssmproxy ")) {
		t.Errorf("--version: %q, %v", out, err)
	}
	i.mustRun("--uninstall", "--prefix="+i.path("of my own"))
	if _, err := os.Lstat(bin); !errors.Is(err, fs.ErrNotExist) {
		t.Errorf("after --uninstall: %v", err)
	}
}

const include = "Include ssmproxy.config\n"

func TestSSHConfigIsGivenOneLineAndGetsItBack(t *testing.T) {
	t.Parallel()
	const content = "# mine\nHost *\n\tServerAliveInterval 5\n"
	for name, prepare := range map[string]func(i *installation){
		"no .ssh":          func(i *installation) {},
		"no config":        func(i *installation) { i.write(".ssh/known_hosts", "", 0o644) },
		"empty config":     func(i *installation) { i.write(".ssh/config", "", 0o600) },
		"a config":         func(i *installation) { i.write(".ssh/config", content, 0o640) },
		"no final newline": func(i *installation) { i.write(".ssh/config", "Host *\n  User me", 0o600) },
		"a link": func(i *installation) {
			i.write("dotfiles/ssh config", content, 0o644)
			i.write(".ssh/known_hosts", "", 0o644)
			if err := os.Symlink("../dotfiles/ssh config", i.path(".ssh/config")); err != nil {
				i.t.Fatal(err)
			}
		},
	} {
		t.Run(name, func(t *testing.T) {
			t.Parallel()
			i := newInstallation(t)
			prepare(i)
			before := i.tree()
			had, _ := os.ReadFile(i.path(".ssh/config"))

			i.mustRun("--ssh-config")
			if got := i.read(".ssh/config"); got != include+string(had) {
				t.Errorf("config is %q, want one line more than %q", got, had)
			}
			installed := i.tree()
			for file, state := range before { // modes and links, and every other file
				kind, _, _ := strings.Cut(state, " ")
				if !strings.HasPrefix(installed[file], kind+" ") {
					t.Errorf("%s was %s, is %s", file, state, installed[file])
				}
			}
			if info, err := os.Stat(i.path(".ssh")); err != nil || info.Mode().Perm() != 0o700 {
				t.Errorf(".ssh: %v, %v", info.Mode(), err)
			}
			if before[".ssh/config"] != "" && i.read(".ssh/config.before-ssmproxy") != string(had) {
				t.Error("the backup differs from what there was")
			}

			i.mustRun("--ssh-config")
			i.sameTree("the second time", installed)
			i.mustRun("--uninstall")
			i.sameTree("uninstalled", before)
		})
	}
}

func TestSSHConfigLeadsSSHToTheBinary(t *testing.T) {
	t.Parallel()
	need(t, "ssh")
	i := newInstallation(t)
	prefix := i.path("it's 100% mine")
	i.mustRun("--prefix", prefix, "--ssh-config")
	for host, want := range map[string]string{
		"i-0123456789abcdef0":  "proxycommand " + `'` + strings.NewReplacer("'", `'\''`, "%", "%%").Replace(prefix) + `/bin/ssmproxy'`,
		"mi-0123456789abcdef0": "proxycommand ",
		"example.com":          "",
	} {
		out, err := exec.Command("ssh", "-G", "-F", i.path(".ssh/ssmproxy.config"), host).CombinedOutput()
		if err != nil {
			t.Fatalf("%v: %s", err, out)
		}
		if got := strings.Contains(string(out), "proxycommand "); got != (want != "") || !strings.Contains(string(out), want) {
			t.Errorf("%s: want %q in\n%s", host, want, out)
		}
	}
}

func TestUninstallKeepsWhatThePersonChangedMeanwhile(t *testing.T) {
	t.Parallel()
	i := newInstallation(t)
	i.write(".ssh/config", "Host a\n", 0o600)
	i.mustRun("--ssh-config")
	i.write(".ssh/config", "# above\n"+include+"Host a\nHost b", 0o600)
	said := i.mustRun("--uninstall")
	if got := i.read(".ssh/config"); got != "# above\nHost a\nHost b" {
		t.Errorf("config is %q", got)
	}
	if !strings.Contains(said, "kept "+i.path(".ssh/config.before-ssmproxy")) {
		t.Errorf("it says nothing of the backup:\n%s", said)
	}
}

func TestSSHConfigDoesNotOverwriteAForeignFile(t *testing.T) {
	t.Parallel()
	i := newInstallation(t)
	i.write(".ssh/config", "Host a\n", 0o600)
	i.write(".ssh/ssmproxy.config", "Host of-mine\n", 0o600)
	before := i.tree()
	said, status := i.run("--ssh-config")
	if status != 1 || !strings.Contains(said, "is not from this script") {
		t.Errorf("status %d:\n%s", status, said)
	}
	i.sameTree("afterwards", before)
	i.mustRun("--uninstall")
	i.sameTree("uninstalled", before)
}

// pathWith makes a directory with the tools that install.sh needs, without Go.
func (i *installation) pathWith() string {
	i.t.Helper()
	dir := i.t.TempDir()
	for _, tool := range []string{"sh", "awk", "cat", "sed", "mktemp", "rm", "cmp", "tee", "grep", "git", "mkdir", "head"} {
		need(i.t, tool)
		path, err := exec.LookPath(tool)
		if err != nil {
			i.t.Fatal(err)
		}
		if err := os.Symlink(path, filepath.Join(dir, tool)); err != nil {
			i.t.Fatal(err)
		}
	}
	i.env = append(i.env, "PATH="+dir)
	return dir
}

func TestInstallWithoutGoSaysWhatToInstall(t *testing.T) {
	t.Parallel()
	i := newInstallation(t)
	i.pathWith()
	said, status := i.run()
	if status != 1 || !strings.Contains(said, "there is no go command on PATH") || !strings.Contains(said, "install Go 1.") {
		t.Errorf("status %d:\n%s", status, said)
	}
}

func TestInstallWithAnOldGoSaysWhatToInstall(t *testing.T) {
	t.Parallel()
	for name, script := range map[string]string{
		"before toolchains": `[ "$1 $2" = "env GOVERSION" ] && echo go1.19.8`,
		// From 1.21 on it refuses in the module's directory, and not elsewhere.
		"with toolchains": `[ -e go.mod ] && { echo "go: go.mod requires go >= 1.26.0" >&2; exit 1; }; echo go1.22.4`,
	} {
		t.Run(name, func(t *testing.T) {
			t.Parallel()
			i := newInstallation(t)
			dir := i.pathWith()
			if err := os.WriteFile(filepath.Join(dir, "go"), []byte("#!/bin/sh\n"+script+"\n"), 0o700); err != nil {
				t.Fatal(err)
			}
			// The tree's own directory is where it asks.
			said, status := i.run()
			if status != 1 || !strings.Contains(said, "is too old: go1.") || !strings.Contains(said, "install Go 1.") {
				t.Errorf("status %d:\n%s", status, said)
			}
		})
	}
}

func TestInstallRefusesWhatItDoesNotKnow(t *testing.T) {
	t.Parallel()
	i := newInstallation(t)
	for _, args := range [][]string{{"--bogus"}, {"--prefix"}, {"--serve"}, {"--uninstall", "--ssh-config"}, {"--demo", "--prefix", "x"}} {
		if said, status := i.run(args...); status != 2 || !strings.Contains(said, "usage:") {
			t.Errorf("%v: status %d:\n%s", args, status, said)
		}
	}
}
