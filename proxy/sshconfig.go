package proxy

import "strings"

const sshConfigBlock = `Host i-* mi-*
    ProxyCommand ssmproxy %h %p
`

// SSHConfig returns the block for ~/.ssh/config. Settings given as flags are
// in its command.
func SSHConfig(o Options) string {
	var flags strings.Builder
	for _, f := range []struct{ name, value, unless string }{
		{"--profile", o.Profile, ""},
		{"--region", o.Region, ""},
		{"--document", o.Document, defaultDocument},
		{"--reason", o.Reason, ""},
		{"--log-file", o.LogFile, ""},
	} {
		if f.value != "" && f.value != f.unless {
			flags.WriteString(" " + f.name + " " + sshConfigQuote(f.value))
		}
	}
	return strings.Replace(sshConfigBlock, "ssmproxy", "ssmproxy"+flags.String(), 1)
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
