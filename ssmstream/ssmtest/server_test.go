package ssmtest

import (
	"os"
	"strings"
	"testing"
	"time"

	"github.com/aws/aws-sdk-go-v2/aws"
	"github.com/aws/aws-sdk-go-v2/service/ssm"
	"github.com/aws/aws-sdk-go-v2/service/ssm/types"
)

func TestEnvPointsAtFilesThatCloseRemoves(t *testing.T) {
	t.Parallel()
	s := NewServer(Config{})
	files := 0
	var paths []string
	for _, setting := range s.Env() {
		name, value, _ := strings.Cut(setting, "=")
		if value == "" {
			t.Errorf("%s is empty", name)
		}
		if strings.HasPrefix(value, os.TempDir()) {
			files++
			paths = append(paths, value)
			if _, err := os.Stat(value); err != nil {
				t.Error(err)
			}
		}
	}
	if files != 3 {
		t.Errorf("%d files in %v", files, s.Env())
	}
	s.Close()
	s.Close()
	for _, path := range paths {
		if _, err := os.Stat(path); !os.IsNotExist(err) {
			t.Errorf("%s: %v", path, err)
		}
	}
}

func TestCloseEndsWhatIsOpen(t *testing.T) {
	t.Parallel()
	for name, cfg := range map[string]Config{
		"plain":       {},
		"over a link": {Link: Link{RTT: time.Millisecond, Rate: 1 << 20}},
	} {
		t.Run(name, func(t *testing.T) {
			t.Parallel()
			cfg.SSHAddr = listen(t, greet)
			s := newServer(t, cfg)
			c := ready(t, s)
			s.StartSession(target) // never opened
			s.Close()              // returns
			for {
				if _, err := c.receive(); err != nil {
					break
				}
			}
			if open := s.OpenSessions(); len(open) != 0 {
				t.Errorf("open: %v", open)
			}
		})
	}
}

func TestDescribeInstanceInformation(t *testing.T) {
	t.Parallel()
	var nodes []Node
	for i := range 23 {
		n := Node{InstanceID: "i-0000000000000000" + string(rune('a'+i)), IPAddress: "10.0.0.1"}
		switch i {
		case 3:
			n.Tags = map[string]string{"Name": "web", "Stage": "prod"}
		case 17:
			n = Node{InstanceID: "mi-00000000000000001", PingStatus: "ConnectionLost", ComputerName: "build.corp", PlatformType: "Windows", Tags: map[string]string{"Name": "web"}}
		}
		nodes = append(nodes, n)
	}
	s := newServer(t, Config{Nodes: nodes})
	api := sdk(t, s, nil)
	for name, test := range map[string]struct {
		filters []types.InstanceInformationStringFilter
		nodes   int
		pages   int
	}{
		"all":         {nil, 23, 3},
		"by ID":       {[]types.InstanceInformationStringFilter{{Key: aws.String("InstanceIds"), Values: []string{nodes[3].InstanceID, nodes[4].InstanceID}}}, 2, 1},
		"by tag":      {[]types.InstanceInformationStringFilter{{Key: aws.String("tag:Name"), Values: []string{"web"}}}, 2, 1},
		"by tag key":  {[]types.InstanceInformationStringFilter{{Key: aws.String("tag-key"), Values: []string{"Stage"}}}, 1, 1},
		"online":      {[]types.InstanceInformationStringFilter{{Key: aws.String("PingStatus"), Values: []string{"Online"}}}, 22, 3},
		"on premises": {[]types.InstanceInformationStringFilter{{Key: aws.String("ResourceType"), Values: []string{"ManagedInstance"}}}, 1, 1},
		"both": {[]types.InstanceInformationStringFilter{
			{Key: aws.String("PingStatus"), Values: []string{"ConnectionLost"}}, {Key: aws.String("PlatformTypes"), Values: []string{"Windows"}},
		}, 1, 1},
		"both tags": {[]types.InstanceInformationStringFilter{
			{Key: aws.String("tag:Name"), Values: []string{"web"}}, {Key: aws.String("tag:Stage"), Values: []string{"prod", "test"}},
		}, 1, 1},
		"none": {[]types.InstanceInformationStringFilter{{Key: aws.String("tag:Name"), Values: []string{"Web"}}}, 0, 1},
	} {
		found, pages := 0, 0
		pager := ssm.NewDescribeInstanceInformationPaginator(api, &ssm.DescribeInstanceInformationInput{Filters: test.filters})
		for pager.HasMorePages() {
			page, err := pager.NextPage(t.Context())
			if err != nil {
				t.Fatalf("%s: %v", name, err)
			}
			pages++
			found += len(page.InstanceInformationList)
		}
		if found != test.nodes || pages != test.pages {
			t.Errorf("%s: %d nodes on %d pages, want %d on %d", name, found, pages, test.nodes, test.pages)
		}
	}
	for key, code := range map[string]string{"ComputerName": "InvalidFilterKey", "tag:Name": "Tag filters can't be combined"} {
		_, err := api.DescribeInstanceInformation(t.Context(), &ssm.DescribeInstanceInformationInput{
			Filters: []types.InstanceInformationStringFilter{
				{Key: aws.String(key), Values: []string{"x"}}, {Key: aws.String("PingStatus"), Values: []string{"Online"}},
			},
		})
		if err == nil || !strings.Contains(err.Error(), code) {
			t.Errorf("filter by %s: %v, want %s", key, err, code)
		}
	}
}

func TestNodeComesOnline(t *testing.T) {
	t.Parallel()
	s := newServer(t, Config{Nodes: []Node{{InstanceID: target, PingStatus: "Inactive"}}})
	api := sdk(t, s, nil)
	if _, err := api.StartSession(t.Context(), sshInput(target)); err == nil {
		t.Error("started on a node that is not connected")
	}
	s.SetNodes(Node{InstanceID: target})
	if _, err := api.StartSession(t.Context(), sshInput(target)); err != nil {
		t.Error(err)
	}
}
