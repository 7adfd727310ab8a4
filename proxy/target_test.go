package proxy

import (
	"strings"
	"testing"
	"time"
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
		{"no hexadecimal", "i-0123456789abcdefg", "22", target{"", "22"}, ""},
		{"name", "web", "022", target{"", "22"}, ""},
		{"name like a kind", "mi-", "22", target{"", "22"}, ""},
		{"address", "10.0.0.5", "22", target{"", "22"}, ""},
		{"empty", "", "22", target{}, "HOST is empty"},
		{"long managed node", "mi-0123456789abcdef01", "22", target{}, "is not an instance ID"},
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
		{Options{Wait: 2 * time.Minute}, "ssmproxy --wait 2m %h %p"},
		{Options{SendKey: "~/.ssh/id.pub"}, "ssmproxy --send-key '~/.ssh/id.pub' --user %r %h %p"},
		{Options{SendKey: "agent", User: "%r"}, "ssmproxy --send-key agent --user %r %h %p"},
		{Options{SendKey: "agent", User: "me", Wait: 90 * time.Second}, "ssmproxy --send-key agent --user me --wait 1m30s %h %p"},
	} {
		want := "Host i-* mi-*\n    ProxyCommand " + test.want + "\n"
		if got := SSHConfig(test.options); got != want {
			t.Errorf("got %q, want %q", got, want)
		}
	}
}

func TestSSHConfigForAName(t *testing.T) {
	t.Parallel()
	for host, want := range map[string]string{
		"web":        "Host web\n",
		instance:     "Host i-* mi-*\n",
		"i-0":        "Host i-* mi-*\n",
		"*":          "Host i-* mi-*\n",
		"two words":  "Host i-* mi-*\n",
		"web\nMatch": "Host i-* mi-*\n",
	} {
		if got := SSHConfig(Options{Host: host}); !strings.HasPrefix(got, want) {
			t.Errorf("%q: got %q", host, got)
		}
	}
}

func TestSplitHost(t *testing.T) {
	t.Parallel()
	for _, test := range []struct{ host, name, region, profile string }{
		{"web", "web", "", ""},
		{"i-0123456789abcdef0.eu-west-1", "i-0123456789abcdef0", "eu-west-1", ""},
		{"I-0123456789ABCDEF0.EU-West-1.prod", "I-0123456789ABCDEF0", "eu-west-1", "prod"},
		{"web.eu-west-1.prod", "web", "eu-west-1", "prod"},
		{"web.corp.example.com", "web.corp.example.com", "", ""},
		{"web.corp.example.com.eu-west-1", "web.corp.example.com", "eu-west-1", ""},
		{"web.corp.example.com.eu-west-1.prod", "web.corp.example.com", "eu-west-1", "prod"},
		{"10.0.0.5.us-gov-west-1.audit", "10.0.0.5", "us-gov-west-1", "audit"},
		{"ip-10-0-0-5.eu-west-1.compute.internal", "ip-10-0-0-5.eu-west-1.compute.internal", "", ""},
		{"ip-10-0-0-5.eu-west-1.compute.internal.eu-west-1", "ip-10-0-0-5.eu-west-1.compute.internal", "eu-west-1", ""},
		{"web.eu-west-1.us-east-1", "web.eu-west-1", "us-east-1", ""},
		{"eu-west-1", "eu-west-1", "", ""},
		{"eu-west-1.prod", "eu-west-1.prod", "", ""},
		{".eu-west-1", ".eu-west-1", "", ""},
		{"web.eu-west-1.", "web.eu-west-1.", "", ""},
		{"web.test-west-1", "web.test-west-1", "", ""},
		{"", "", "", ""},
	} {
		if name, region, profile := splitHost(test.host); name != test.name || region != test.region || profile != test.profile {
			t.Errorf("%q: got %q, %q, %q", test.host, name, region, profile)
		}
	}
}

func TestIsRegion(t *testing.T) {
	t.Parallel()
	for _, region := range strings.Fields(`af-south-1 ap-east-1 ap-northeast-3 ap-south-2 ap-southeast-5 ca-central-1 ca-west-1 cn-north-1
		cn-northwest-1 eu-central-2 eu-isoe-west-1 eu-north-1 eusc-de-east-1 il-central-1 me-central-1 me-south-1 mx-central-1 sa-east-1
		us-east-1 us-gov-east-1 us-gov-west-1 us-iso-east-1 us-iso-west-1 us-isob-east-1 us-isof-south-1 us-west-2`) {
		if !isRegion(region) {
			t.Errorf("%s is none", region)
		}
	}
	for _, label := range []string{
		"", "-", "--", "web", "web-1", "us-east", "us-east-0", "us-east-10", "us-east-1a", "us-east-one", "us-web-1", "db-east-1",
		"us-gov-1", "gov-west-1", "eu-gov-west-1", "us--1", "-east-1", "us-east-1-", "aws-global", "us-east-١",
	} {
		if isRegion(label) {
			t.Errorf("%q is one", label)
		}
	}
}

func TestFlagsWinOverTheHostsName(t *testing.T) {
	t.Parallel()
	for _, test := range []struct{ given, want Options }{
		{Options{Host: "web.eu-west-1.prod"}, Options{Host: "web", Region: "eu-west-1", Profile: "prod"}},
		{Options{Host: "web.eu-west-1.prod", Region: "us-east-1"}, Options{Host: "web", Region: "us-east-1", Profile: "prod"}},
		{Options{Host: "web.eu-west-1.prod", Profile: "test"}, Options{Host: "web", Region: "eu-west-1", Profile: "test"}},
		{Options{Host: "web.eu-west-1", Profile: "test"}, Options{Host: "web", Region: "eu-west-1", Profile: "test"}},
	} {
		got := test.given.withDefaults()
		if got.Host != test.want.Host || got.Region != test.want.Region || got.Profile != test.want.Profile {
			t.Errorf("%+v: got %+v", test.given, got)
		}
	}
}
