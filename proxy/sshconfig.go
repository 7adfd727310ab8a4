package proxy

import "strings"

// idPatterns match IDs, those with .REGION and .PROFILE behind them too.
const idPatterns = "i-* mi-*"

const sshConfigBlock = "Host " + idPatterns + `
    ProxyCommand ssmproxy %h %p
`

// SSHConfig returns the block for ~/.ssh/config. Settings given as flags are
// in its command. It is for IDs, unless HOST is a name.
func SSHConfig(o Options) string {
	var flags strings.Builder
	if o.SendKey != "" {
		user := "%r" // ssh puts in the login name
		if o.User != "" && o.User != user {
			user = sshConfigQuote(o.User)
		}
		flags.WriteString(" --send-key " + sshConfigQuote(o.SendKey) + " --user " + user)
	}
	for _, f := range []struct{ name, value, unless string }{
		{"--profile", o.Profile, ""},
		{"--region", o.Region, ""},
		{"--document", o.Document, defaultDocument},
		{"--reason", o.Reason, ""},
		{"--wait", duration(o.Wait), "0s"},
		{"--log-file", o.LogFile, ""},
	} {
		if f.value != "" && f.value != f.unless {
			flags.WriteString(" " + f.name + " " + sshConfigQuote(f.value))
		}
	}
	block := strings.Replace(sshConfigBlock, "ssmproxy", "ssmproxy"+flags.String(), 1)
	if t, err := parseTarget(o.Host, defaultPort); err == nil && t.id == "" && sshConfigQuote(o.Host) == o.Host {
		block = strings.Replace(block, idPatterns, o.Host, 1)
	}
	return block
}

// sshConfigQuote quotes an argument for the shell that ssh gives its
// ProxyCommand to, and for ssh, to which % begins a token.
func sshConfigQuote(s string) string {
	s = strings.ReplaceAll(s, "%", "%%")
	plain := func(r rune) bool {
		return 'a' <= r && r <= 'z' || 'A' <= r && r <= 'Z' || '0' <= r && r <= '9' || strings.ContainsRune("-_./:@%+=,", r)
	}
	if s != "" && strings.TrimFunc(s, plain) == "" && strings.IndexFunc(s, func(r rune) bool { return !plain(r) }) < 0 {
		return s
	}
	return "'" + strings.ReplaceAll(s, "'", `'\''`) + "'"
}
