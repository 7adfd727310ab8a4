package main

import (
	"bytes"
	"fmt"
	"os"
	"strconv"
	"strings"
	"testing"

	"ssmproxy/ssmstream/ssmtest"

	"github.com/rogpeppe/go-internal/testscript"
)

type worldKey struct{}

// TestScripts runs testdata/*.txtar. Besides testscript's own commands they have:
//
//	service [HABIT...]   start a service with these habits, an instance and a
//	                     client's machine; sets $SSH_CONFIG, $DEST (user@instance),
//	                     $INSTANCE and $REMOTE (the instance's home directory)
//	random FILE BYTES    write a file of random bytes
//	same FILE FILE       fail unless both are the same, byte for byte
//	node ID FIELD=VALUE...
//	                     the account has this managed node, or it has changed;
//	                     a FIELD is one of ssmtest.Node, or a tag
//	fleet N              the account has N nodes more
//	called ACTION N      fail unless the action was called N times
//	await ACTION N       wait until it was called N times
//	profiles             ~/.aws has a profile for each way to credentials (see
//	                     ssmtest.Server.Profiles), the environment none
//	mfacode FILE         write a new code of the MFA device to a file
//	consent              a person will allow the next sign-in to SSO in a browser
//	port VARIABLE        set a variable to a free port
//	[!] jetbrains SSH_CONFIG COMMAND
//	                     run a command as JetBrains' IDEs do, without a shell or
//	                     OpenSSH's client; its output goes to jetbrains-output
//	absent WORDS FILE... fail where one of the words in file WORDS is in a FILE
//	idle                 fail unless within 5 s no session is open and no ssmproxy runs
//	[tool:NAME]          whether the tool is installed; in CI it has to be
func TestScripts(t *testing.T) {
	t.Parallel()
	need(t, "ssh")
	bin, err := binary()
	if err != nil {
		t.Fatal(err)
	}
	testscript.Run(t, testscript.Params{
		Dir:                 "testdata",
		RequireExplicitExec: true,
		RequireUniqueNames:  true,
		Setup: func(env *testscript.Env) error {
			env.Values[worldKey{}] = new(*world)
			env.Setenv("SSMPROXY", bin)
			return nil
		},
		Condition: func(cond string) (bool, error) {
			tool, ok := strings.CutPrefix(cond, "tool:")
			if !ok {
				return false, fmt.Errorf("unknown condition %s", cond)
			}
			why, err := lacks(tool)
			return why == "", err
		},
		Cmds: map[string]func(ts *testscript.TestScript, neg bool, args []string){
			"service": startService,
			"random":  writeRandom,
			"same":    compare,
			"node":    changeNode,
			"fleet":   addNodes,
			"called":  called,
			"await":   awaitCalls,

			"profiles":  giveProfiles,
			"mfacode":   writeCode,
			"consent":   consent,
			"port":      freePort,
			"jetbrains": jetbrains,
			"absent":    absent,

			"idle": func(ts *testscript.TestScript, _ bool, _ []string) {
				ts.Check((*ts.Value(worldKey{}).(**world)).idle())
			},
		},
	})
}

func startService(ts *testscript.TestScript, _ bool, habits []string) {
	var config ssmtest.Config
	keyUnknown := false
	for _, habit := range habits {
		switch habit {
		case "refuse-unsigned":
			config.RefuseUnsigned = true
		case "refuse-signed":
			config.RefuseSigned = true
		case "handshakeless":
			config.Handshakeless = true
		case "windows-agent":
			config.WindowsAgent = true
		case "key-unknown":
			keyUnknown = true
		case "demand-current-client":
			config.MinClientVersion = "1.2.764.0"
		default:
			if text, ok := strings.CutPrefix(habit, "customer-message="); ok {
				config.CustomerMessage = text
				continue
			}
			if region, ok := strings.CutPrefix(habit, "region="); ok {
				config.Regions = append(config.Regions, region)
				continue
			}
			if action, ok := strings.CutPrefix(habit, "denied="); ok {
				config.Denied = append(config.Denied, action)
				continue
			}
			ts.Fatalf("unknown habit %s", habit)
		}
	}
	w, err := newWorld(ts.MkAbs("."), config)
	ts.Check(err)
	ts.Defer(func() { ts.Check(w.close()) })
	*ts.Value(worldKey{}).(**world) = w
	if keyUnknown {
		ts.Check(w.forget())
	}
	for _, v := range w.env {
		name, value, _ := strings.Cut(v, "=")
		ts.Setenv(name, value)
	}
	ts.Setenv("SSH_CONFIG", w.config)
	ts.Setenv("GIT_SSH_COMMAND", `ssh -F "`+w.config+`"`)
	ts.Setenv("DEST", w.dest)
	ts.Setenv("INSTANCE", w.instance)
	ts.Setenv("REMOTE", w.remote)
}

func writeRandom(ts *testscript.TestScript, _ bool, args []string) {
	if len(args) != 2 {
		ts.Fatalf("usage: random FILE BYTES")
	}
	n, err := strconv.Atoi(args[1])
	ts.Check(err)
	ts.Check(os.WriteFile(ts.MkAbs(args[0]), randomBytes(n), 0o600))
}

func compare(ts *testscript.TestScript, _ bool, args []string) {
	if len(args) != 2 {
		ts.Fatalf("usage: same FILE FILE")
	}
	a, err := os.ReadFile(ts.MkAbs(args[0]))
	ts.Check(err)
	b, err := os.ReadFile(ts.MkAbs(args[1]))
	ts.Check(err)
	if len(a) == 0 || !bytes.Equal(a, b) {
		ts.Fatalf("%s and %s differ, or are empty: %d and %d bytes", args[0], args[1], len(a), len(b))
	}
}
