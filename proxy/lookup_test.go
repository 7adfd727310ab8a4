package proxy

import (
	"fmt"
	"strings"
	"testing"

	"github.com/aws/aws-sdk-go-v2/aws"
	"github.com/aws/aws-sdk-go-v2/service/ssm/types"

	"ssmproxy/ssmstream/ssmtest"
)

func TestNodeGoesByItsComputerNameOrAddress(t *testing.T) {
	t.Parallel()
	for _, test := range []struct {
		name, computer, address string
		want                    bool
	}{
		{"web01", "web01", "", true},
		{"web01", "WEB01.corp.example.com", "", true},
		{"web01.corp.example.com", "WEB01.corp.example.com", "", true},
		{"web01.corp", "web01.corp.example.com", "", false},
		{"web01.corp.example.com", "web01", "", false},
		{"web", "web01", "", false},
		{"web", "", "", false},
		{"10.0.0.5", "web01", "10.0.0.5", true},
		{"10.0.0.5", "web01", "10.0.0.50", false},
		{"::ffff:10.0.0.5", "web01", "10.0.0.5", true},
		{"fd00:0:0::5", "web01", "fd00::5", true},
		{"10", "web01", "10.0.0.5", false},
	} {
		n := node{InstanceInformation: types.InstanceInformation{ComputerName: &test.computer, IPAddress: &test.address}}
		if got := goesBy(n, test.name); got != test.want {
			t.Errorf("%q goes by %q, %q: %v", test.name, test.computer, test.address, got)
		}
	}
}

// A name tag and a computer name that belong to one node are one match.
func TestNodeThatMatchesTwiceIsOne(t *testing.T) {
	t.Parallel()
	s, _ := newService(t, ssmtest.Config{Nodes: []ssmtest.Node{
		{InstanceID: instance, ComputerName: "web.corp", Tags: map[string]string{"Name": "web"}},
	}})
	p := start(t, s.Env(), "web")
	p.connects()
	p.stdin.Close()
	p.endsQuietly()
}

func TestLookUpOutlivesFaultsOfTheService(t *testing.T) {
	t.Parallel()
	s, _ := newService(t, ssmtest.Config{Nodes: []ssmtest.Node{{InstanceID: instance, ComputerName: "web"}}})
	s.FailCalls("DescribeInstanceInformation", 2, ssmtest.ErrInternal)
	p := start(t, s.Env(), "web")
	p.connects()
	p.stdin.Close()
	p.endsQuietly()
	if calls := s.Stats().Calls["DescribeInstanceInformation"]; calls < 4 {
		t.Errorf("%d calls, want 4 at least", calls)
	}
}

func TestManyMatchesAreCutShort(t *testing.T) {
	t.Parallel()
	s := situation{options: Options{Host: "web", Profile: "prod"}, region: "eu-west-1"}
	found := &severalNodesError{name: "web"}
	for i := range maxListed + 3 {
		found.nodes = append(found.nodes, node{tagged: true, InstanceInformation: types.InstanceInformation{
			InstanceId: aws.String(fmt.Sprintf("i-%017d", i)), IPAddress: aws.String("10.0.0.1"), PlatformType: types.PlatformTypeLinux,
		}})
	}
	explained := s.explain(fmt.Errorf("look up: %w", found)).(*hintedError)
	if want := `23 nodes called "web" are online in eu-west-1 of profile prod`; explained.text != want {
		t.Errorf("got %q, want %q", explained.text, want)
	}
	if n := len(explained.hints); n != maxListed+2 || explained.hints[n-1] != "and 3 more" || explained.hints[1] != "i-00000000000000000  web  10.0.0.1  Linux" {
		t.Errorf("hints %q", explained.hints)
	}
}

func TestNoMatchHintsAtWhatMayBeMeant(t *testing.T) {
	t.Parallel()
	sleeping := []node{{tagged: true, InstanceInformation: types.InstanceInformation{InstanceId: aws.String(instance)}}}
	for _, test := range []struct {
		name    string
		offline []node
		wait    bool
		want    string
		not     string
	}{
		{name: "web", want: "%n in place of %h", not: "hexadecimal"},
		{name: "Web", not: "%n in place of %h"},
		{name: "10.0.0.5", not: "%n in place of %h"},
		{name: "i-web", want: "an instance ID is i- and 8 to 17 hexadecimal digits"},
		{name: "web", offline: sleeping, want: "not online: " + instance + "  web", not: "%n in place of %h"},
		{name: "web", offline: sleeping, want: "--wait 2m waits"},
	} {
		s := situation{options: Options{Host: test.name}, region: "eu-west-1"}
		explained := s.explain(&noNodeError{test.name, 3, test.offline}).(*hintedError)
		hints := strings.Join(explained.hints, "\n")
		if !strings.Contains(hints, test.want) || test.not != "" && strings.Contains(hints, test.not) {
			t.Errorf("%s: hints %q", test.name, explained.hints)
		}
	}
}

func TestErrorsNameTheNodeAsItWasGiven(t *testing.T) {
	t.Parallel()
	for _, test := range []struct{ host, id, want string }{
		{"web", "", "web"},
		{"web", instance, "web (" + instance + ")"},
		{instance, instance, instance},
		{strings.ToUpper(instance), instance, instance},
		{"", instance, instance},
	} {
		if got := (situation{options: Options{Host: test.host}, target: target{id: test.id}}).node(); got != test.want {
			t.Errorf("got %q, want %q", got, test.want)
		}
	}
}
