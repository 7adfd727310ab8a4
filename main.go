// Command ssmproxy is an SSH ProxyCommand for AWS Session Manager.
package main

import (
	"context"
	"errors"
	"flag"
	"fmt"
	"io"
	"os"
	"runtime/debug"

	"ssmproxy/proxy"
)

// version is stamped with -ldflags "-X main.version=…".
var version string

func main() {
	var o proxy.Options
	fs := flag.NewFlagSet("ssmproxy", flag.ContinueOnError)
	fs.SetOutput(io.Discard) // proxy words what is wrong
	fs.StringVar(&o.Profile, "profile", "", "")
	fs.StringVar(&o.Region, "region", "", "")
	fs.StringVar(&o.User, "user", "", "")
	fs.StringVar(&o.SendKey, "send-key", "", "")
	fs.StringVar(&o.Document, "document", "", "")
	fs.StringVar(&o.Reason, "reason", "", "")
	fs.DurationVar(&o.Wait, "wait", 0, "")
	fs.BoolVar(&o.Verbose, "v", false, "")
	fs.StringVar(&o.LogFile, "log-file", "", "")
	sshConfig := fs.Bool("ssh-config", false, "")
	showVersion := fs.Bool("version", false, "")

	err := fs.Parse(os.Args[1:])
	switch {
	case errors.Is(err, flag.ErrHelp):
		os.Stdout.WriteString(proxy.Usage)
		return
	case err != nil:
		os.Exit(proxy.Fail(os.Stderr, proxy.FlagError(err)))
	case *showVersion:
		fmt.Println("ssmproxy", buildVersion())
		return
	case *sshConfig:
		os.Stdout.WriteString(proxy.SSHConfig(o))
		return
	}
	if err := o.Positions(fs.Args()); err != nil {
		os.Exit(proxy.Fail(os.Stderr, err))
	}
	os.Exit(proxy.Run(context.Background(), o, os.Stdin, os.Stdout, os.Stderr))
}

// buildVersion is the stamped version, or what Go knows of the build.
func buildVersion() string {
	if version != "" {
		return version
	}
	if info, ok := debug.ReadBuildInfo(); ok && info.Main.Version != "" {
		return info.Main.Version
	}
	return "(devel)"
}
