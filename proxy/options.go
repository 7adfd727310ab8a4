package proxy

import (
	"cmp"
	"fmt"
	"os"
	"strings"
	"time"

	"golang.org/x/term"
)

const (
	defaultDocument = "AWS-StartSSHSession"
	defaultPort     = "22"
	maxReason       = 256 // characters, as StartSession takes them
)

// Options say which session to open, and how. The zero value of every field
// but Host stands for its default.
type Options struct {
	Host string // an instance ID, a managed node ID or a name; .REGION and .PROFILE may follow
	Port string // 1 to 65535; "22" when empty

	Profile  string // AWS profile; what the environment says when empty
	Region   string // AWS region; what the environment or profile says when empty
	Document string // session document; AWS-StartSSHSession when empty
	Reason   string // recorded with the session, 256 characters at most

	SendKey string        // a public key's file, or "agent": to be pushed before connecting
	User    string        // the login name that SendKey is for
	Wait    time.Duration // how long the instance may take to come online

	Verbose bool   // say what happens on standard error
	LogFile string // append the same in full detail to this file

	profileInHost bool // Profile was taken out of Host
}

// A usageError is wrong usage: exit status 2.
type usageError struct{ error }

func (e *usageError) Unwrap() error { return e.error }

func usage(text string, hints ...string) error {
	return &usageError{errorWithHint(nil, text, hints...)}
}

// FlagError words an error of package flag for the person.
func FlagError(err error) error {
	const help = "ssmproxy --help lists the flags"
	text := err.Error()
	if name, ok := strings.CutPrefix(text, "flag provided but not defined: "); ok {
		return usage("unknown flag "+longFlag(name), help)
	}
	if name, ok := strings.CutPrefix(text, "flag needs an argument: "); ok {
		return usage("flag "+longFlag(name)+" needs a value", help)
	}
	if text, ok := strings.CutSuffix(text, " for flag -wait: parse error"); ok {
		return usage("--wait takes a time such as 90s or 2m: "+text, help)
	}
	return usage(text, help)
}

// longFlag spells a flag as the usage text does.
func longFlag(name string) string {
	if name = strings.TrimLeft(name, "-"); len(name) > 1 {
		return "--" + name
	}
	return "-" + name
}

// Positions fills in HOST and PORT from the arguments that follow the flags.
func (o *Options) Positions(args []string) error {
	const order = "the order is: ssmproxy [flags] HOST [PORT]"
	for i, arg := range args {
		if i > 0 && strings.HasPrefix(arg, "-") {
			return usage(fmt.Sprintf("flag %s stands after HOST", arg), order)
		}
	}
	switch len(args) {
	case 0:
		return usage("HOST is missing", order, "ssmproxy --help says more")
	case 1:
		o.Host = args[0]
	case 2:
		o.Host, o.Port = args[0], args[1]
		if o.Port == "" {
			return usage("PORT is empty", order)
		}
	default:
		return usage("too many arguments: "+strings.Join(args[2:], " "), order)
	}
	return nil
}

// validate checks what goes together.
func (o Options) validate() error {
	switch {
	case o.SendKey != "" && o.User == "":
		return usage("--send-key needs --user, the login name on the instance",
			"in ~/.ssh/config: ProxyCommand ssmproxy --send-key FILE --user %r %h %p")
	case o.Wait < 0:
		return usage(fmt.Sprintf("--wait %v is negative", o.Wait))
	}
	return nil
}

// withDefaults fills in what was left out, from HOST where that has it: flags
// win over the host's name, and that over the environment.
func (o Options) withDefaults() Options {
	name, region, profile := splitHost(o.Host)
	o.profileInHost = o.Profile == "" && profile != ""
	o.Host, o.Region, o.Profile = name, cmp.Or(o.Region, region), cmp.Or(o.Profile, profile)
	if o.Port == "" {
		o.Port = defaultPort
	}
	if o.Document == "" {
		o.Document = defaultDocument
	}
	return o
}

// profileName is the profile in use, as a person would name it; empty for the
// default one.
func (o Options) profileName() string {
	if o.Profile != "" {
		return o.Profile
	}
	if p := os.Getenv("AWS_PROFILE"); p != "" {
		return p
	}
	return os.Getenv("AWS_DEFAULT_PROFILE")
}

func isTerminal(f *os.File) bool {
	return term.IsTerminal(int(f.Fd()))
}
