package main

import (
	"os"
	"regexp"
	"slices"
	"strings"
	"testing"
)

// readmeCommands are the lines of the README's sh blocks.
func readmeCommands(t *testing.T) []string {
	t.Helper()
	text, err := os.ReadFile("README.md")
	if err != nil {
		t.Fatal(err)
	}
	var commands []string
	for _, block := range regexp.MustCompile("(?ms)^```sh\n(.*?)^```$").FindAllSubmatch(text, -1) {
		commands = append(commands, strings.Split(strings.TrimSpace(string(block[1])), "\n")...)
	}
	return commands
}

// TestCIRunsTheReadme is about all commands but those of install.sh, which
// another test runs.
func TestCIRunsTheReadme(t *testing.T) {
	t.Parallel()
	ci, err := os.ReadFile(".ci/run")
	if err != nil {
		t.Fatal(err)
	}
	lines := strings.Split(string(ci), "\n")
	for i, command := range readmeCommands(t) {
		setUp := i < 2 // the two that come first
		if (setUp || !installs(command)) && !slices.Contains(lines, command) {
			t.Errorf(".ci/run does not run %q", command)
		}
	}
}

func installs(command string) bool { return strings.HasPrefix(command, "./install.sh") }

func TestReadmeInstallCommandsWork(t *testing.T) {
	t.Parallel()
	i := newInstallation(t)
	i.write(".ssh/config", "Host a\n", 0o600)
	before := i.tree()
	for _, command := range readmeCommands(t)[2:] {
		if installs(command) {
			i.mustRun(strings.Fields(command)[1:]...)
		}
	}
	i.sameTree("after the last, --uninstall", before)
}

func TestReadmeFlagsAreThoseOfHelp(t *testing.T) {
	t.Parallel()
	bin, err := binary()
	if err != nil {
		t.Fatal(err)
	}
	help := output(t, bin, "--help")
	text, err := os.ReadFile("README.md")
	if err != nil {
		t.Fatal(err)
	}
	_, flags, _ := strings.Cut(help, "\nflags:\n")
	var fromHelp, fromReadme []string
	for _, m := range regexp.MustCompile(`(?m)^  (--?[a-z-]+)`).FindAllStringSubmatch(flags, -1) {
		fromHelp = append(fromHelp, m[1])
	}
	for _, m := range regexp.MustCompile("(?m)^\\| `(--?[a-z-]+)").FindAllStringSubmatch(string(text), -1) {
		fromReadme = append(fromReadme, m[1])
	}
	if len(fromHelp) == 0 || !slices.Equal(fromHelp, fromReadme) {
		t.Errorf("the README has %v, --help %v", fromReadme, fromHelp)
	}
	if block := output(t, bin, "--ssh-config"); !strings.Contains(string(text), "```\n"+block+"```") {
		t.Errorf("the README does not have the block that --ssh-config prints:\n%s", block)
	}
}
