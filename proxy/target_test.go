package proxy

import (
	"strings"
	"testing"
)

func TestParseTarget(t *testing.T) {
	t.Parallel()
	for _, test := range []struct {
		name, host, port string
		want             target
		problem          string // in the error, where there is one
	}{
		{"instance", "i-0123456789abcdef0", "22", target{"i-0123456789abcdef0", "22"}, ""},
		{"old instance", "i-01234567", "2222", target{"i-01234567", "2222"}, ""},
		{"managed node", "mi-0123456789abcdef0", "65535", target{"mi-0123456789abcdef0", "65535"}, ""},
		{"upper case", "I-0123456789ABCDEF0", "1", target{"i-0123456789abcdef0", "1"}, ""},
		{"port with zeros", "i-01234567", "0022", target{"i-01234567", "22"}, ""},
		{"short", "i-0123456", "22", target{}, "is not an instance ID"},
		{"long", "i-0123456789abcdef01", "22", target{}, "is not an instance ID"},
		{"short managed node", "mi-01234567", "22", target{}, "is not an instance ID"},
		{"no hexadecimal", "i-0123456789abcdefg", "22", target{}, "is not an instance ID"},
		{"name", "web", "22", target{}, "is not an instance ID"},
		{"empty", "", "22", target{}, "HOST is empty"},
		{"flag", "-oProxyCommand=x", "22", target{}, "looks like a flag"},
		{"port 0", "i-01234567", "0", target{}, "is not a number from 1 to 65535"},
		{"port too high", "i-01234567", "65536", target{}, "is not a number from 1 to 65535"},
		{"port with sign", "i-01234567", "+22", target{}, "is not a number from 1 to 65535"},
		{"port of words", "i-01234567", "ssh", target{}, "is not a number from 1 to 65535"},
	} {
		t.Run(test.name, func(t *testing.T) {
			t.Parallel()
			got, err := parseTarget(test.host, test.port)
			if test.problem == "" {
				if err != nil || got != test.want {
					t.Fatalf("got %v, %v, want %v", got, err, test.want)
				}
				return
			}
			if err == nil || !strings.Contains(err.Error(), test.problem) {
				t.Fatalf("got error %v, want one with %q", err, test.problem)
			}
			if status := exitStatus(err); status != 2 {
				t.Errorf("exit status %d, want 2", status)
			}
		})
	}
}

func TestPositions(t *testing.T) {
	t.Parallel()
	for _, test := range []struct {
		name    string
		args    []string
		want    Options
		problem string
	}{
		{"host", []string{"i-1"}, Options{Host: "i-1"}, ""},
		{"host and port", []string{"i-1", "23"}, Options{Host: "i-1", Port: "23"}, ""},
		{"nothing", nil, Options{}, "HOST is missing"},
		{"empty port", []string{"i-1", ""}, Options{}, "PORT is empty"},
		{"too many", []string{"i-1", "22", "x", "y"}, Options{}, "too many arguments: x y"},
		{"flag after host", []string{"i-1", "--region", "x"}, Options{}, "flag --region stands after HOST"},
		{"flag after port", []string{"i-1", "22", "-v"}, Options{}, "flag -v stands after HOST"},
	} {
		t.Run(test.name, func(t *testing.T) {
			t.Parallel()
			var got Options
			err := got.Positions(test.args)
			if test.problem == "" && (err != nil || got != test.want) {
				t.Fatalf("got %+v, %v", got, err)
			}
			if test.problem != "" && (err == nil || err.Error() != test.problem || exitStatus(err) != 2) {
				t.Fatalf("got error %v, want %q", err, test.problem)
			}
		})
	}
}

func TestSSHConfigRepeatsFlags(t *testing.T) {
	t.Parallel()
	for _, test := range []struct {
		options Options
		want    string
	}{
		{Options{}, "ssmproxy %h %p"},
		{Options{Profile: "prod", Region: "eu-west-1"}, "ssmproxy --profile prod --region eu-west-1 %h %p"},
		{Options{Document: "AWS-StartSSHSession"}, "ssmproxy %h %p"},
		{Options{Reason: "it's 100% me"}, `ssmproxy --reason 'it'\''s 100%% me' %h %p`},
		{Options{LogFile: "/tmp/$(x)"}, `ssmproxy --log-file '/tmp/$(x)' %h %p`},
	} {
		want := "Host i-* mi-*\n    ProxyCommand " + test.want + "\n"
		if got := SSHConfig(test.options); got != want {
			t.Errorf("got %q, want %q", got, want)
		}
	}
}
