// Package proxy leads from a host name to a pipe of bytes: settings,
// credentials, the AWS calls, standard input and output, and what a person is
// told meanwhile.
package proxy

import (
	"errors"
	"io"
	"strings"
	"sync"

	"ssmproxy/ssmstream"
)

// All that a person sees is in this file and in errors.go. The rules:
//
//   - Standard output carries the stream and nothing else. What a person asked
//     to be printed instead of a session (--ssh-config, --version, --help) is
//     the one exception.
//   - Everything else goes to standard error, each line with the prefix
//     "ssmproxy: ", in lower case, without a full stop.
//   - Questions, and nothing else, go to the terminal itself: see prompt.go.
//   - When all is well and -v is not given, nothing is said.
//   - An error is one line. What a person can do about it stands below it, in
//     lines that begin with "ssmproxy: hint: ".
//   - AWS's own words are shown with -v, or where they are meant for the person.
//   - Text from elsewhere loses its control characters first.

const prefix = "ssmproxy: "

// Usage is the text of --help.
const Usage = `usage: ssmproxy [flags] HOST [PORT]

HOST is an instance ID (i-…), a managed node ID (mi-…) or a node's name: its Name
tag, its computer name or its private address; then, optionally, .REGION and
.PROFILE (web.eu-west-1.prod). PORT is the SSH port on the instance (22). ssh
runs this as its ProxyCommand; put into ~/.ssh/config:

` + sshConfigBlock + `
flags:
  --profile NAME       AWS profile
  --region REGION      AWS region
  --user NAME          login name on the instance (%r); goes with --send-key
  --send-key FILE      push this public key with EC2 Instance Connect before
                       connecting; agent stands for the first one of ssh-agent
  --document NAME      session document (` + defaultDocument + `)
  --reason TEXT        recorded with the session in the account's audit trail
  --wait DURATION      wait this long for the instance to come online, like 2m
  --ssh-config         print the ~/.ssh/config block, exit
  -v                   say on standard error what happens and how long it takes
  --log-file FILE      append the same, in full detail, to FILE
  --version            print the version, exit
`

// policyStatement is what a policy needs for a signed data channel, as AWS's
// sample policies for people have it.
const policyStatement = `{"Effect": "Allow", "Action": "ssmmessages:OpenDataChannel", "Resource": "arn:aws:ssm:*:*:session/${aws:userid}-*"}`

// ui writes to the person. Its methods may be called from any goroutine.
type ui struct {
	terminal bool // whether w is one

	mu     sync.Mutex // one line at a time
	w      io.Writer
	status string // on a terminal: what stands below the last line; see setStatus
}

// line writes one line, or several where text has several.
func (u *ui) line(text string) {
	u.mu.Lock()
	defer u.mu.Unlock()
	var b strings.Builder
	b.WriteString(blank(u.status))
	for part := range strings.SplitSeq(strings.TrimRight(text, "\r\n"), "\n") {
		b.WriteString(prefix)
		b.WriteString(printable(part))
		b.WriteByte('\n')
	}
	b.WriteString(u.status)
	io.WriteString(u.w, b.String()) // where nobody reads, nobody misses it
}

// fail writes an error and its hints.
func (u *ui) fail(err error) {
	u.line(oneLine(err.Error()))
	var hinted *hintedError
	if errors.As(err, &hinted) {
		for _, hint := range hinted.hints {
			u.line("hint: " + hint)
		}
	}
}

// notice says what a stream wants its person to know.
func (u *ui) notice(n ssmstream.Notice, text string) {
	switch n {
	case ssmstream.NoticeUnsigned:
		u.line("the signed data channel was refused, an unsigned one accepted; the service will soon stop accepting those")
		u.line("hint: the policy of this user or role lacks the statement " + policyStatement)
	case ssmstream.NoticeLost:
		u.line("connection to the service lost, resuming…")
	case ssmstream.NoticeResumed:
		u.line("connection to the service resumed")
	case ssmstream.NoticeCustomerMessage:
		u.line(text)
	}
}

// byHand is what a person reads who started ssmproxy on a terminal.
func byHand(o Options) error {
	block := strings.Split(strings.TrimRight(SSHConfig(o), "\n"), "\n")
	return &usageError{errorWithHint(nil,
		"this is for ssh to start, as its ProxyCommand: standard input and output carry the SSH protocol",
		append([]string{"put this into ~/.ssh/config, then connect with ssh USER@" + o.Host + ":"}, block...)...)}
}

// Fail tells the person what is wrong on w and returns the exit status that
// goes with it: 2 for a usage error, 1 for any other.
func Fail(w io.Writer, err error) int {
	(&ui{w: w}).fail(err)
	return exitStatus(err)
}

func exitStatus(err error) int {
	if err == nil {
		return 0
	}
	if _, ok := errors.AsType[*usageError](err); ok {
		return 2
	}
	return 1
}

// printable drops control characters: nothing that comes from elsewhere may
// steer the person's terminal.
func printable(s string) string {
	return strings.Map(func(r rune) rune {
		switch {
		case r == '\t':
			return ' '
		case r < ' ', 0x7f <= r && r < 0xa0, // C0, DEL, C1
			r == 0x2028, r == 0x2029, // line and paragraph separators
			0x202a <= r && r <= 0x202e, 0x2066 <= r && r <= 0x2069: // directional overrides
			return -1
		}
		return r
	}, s)
}

// oneLine joins the lines of s.
func oneLine(s string) string {
	return strings.Join(strings.FieldsFunc(s, func(r rune) bool { return r == '\n' || r == '\r' }), " ")
}
