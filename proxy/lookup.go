package proxy

import (
	"cmp"
	"context"
	"fmt"
	"net/netip"
	"slices"
	"strings"
	"sync"
	"time"

	"github.com/aws/aws-sdk-go-v2/aws"
	"github.com/aws/aws-sdk-go-v2/service/ssm"
	"github.com/aws/aws-sdk-go-v2/service/ssm/types"
)

// nodesPerPage is the most that DescribeInstanceInformation gives at a time.
const nodesPerPage = 50

// node is a managed node as DescribeInstanceInformation has it.
type node struct {
	types.InstanceInformation
	tagged bool // the name looked for is its Name tag
}

func (n node) id() string { return aws.ToString(n.InstanceId) }

func (n node) online() bool { return n.PingStatus == types.PingStatusOnline }

// noNodeError says that no online node goes by a name.
type noNodeError struct {
	name     string
	searched int    // online nodes
	offline  []node // that have it as their Name tag, all the same
}

func (e *noNodeError) Error() string { return fmt.Sprintf("no online node is called %q", e.name) }

// severalNodesError says that a name is more than one online node's.
type severalNodesError struct {
	name  string
	nodes []node
}

func (e *severalNodesError) Error() string {
	return fmt.Sprintf("%d online nodes are called %q", len(e.nodes), e.name)
}

// findTarget looks up the node that HOST names, where it is no ID.
func (c *client) findTarget(ctx context.Context) error {
	if c.node() != "" {
		return nil
	}
	start := time.Now()
	found, err := c.lookUp(ctx, c.options.Host)
	if err != nil {
		return err
	}
	c.log.Info("node found", "name", c.options.Host, "node", found.id(), took(start))
	c.mu.Lock()
	c.target.id = found.id()
	c.mu.Unlock()
	return nil
}

// lookUp finds the one online node that goes by the name: its Name tag, its
// computer name or its private address. There is a filter for the first one
// only, and it doesn't go with others; for the rest all online nodes are looked
// at. Both at the same time.
func (c *client) lookUp(ctx context.Context, name string) (node, error) {
	ctx, fail := context.WithCancelCause(ctx)
	defer fail(nil)
	var named, online []node
	var both sync.WaitGroup
	search := func(key, value string, found *[]node) {
		both.Go(func() {
			var err error
			if *found, err = c.describe(ctx, key, value); err != nil {
				fail(err) // the other one is of no use
			}
		})
	}
	search("tag:Name", name, &named)
	search("PingStatus", string(types.PingStatusOnline), &online)
	both.Wait()
	if err := context.Cause(ctx); err != nil {
		return node{}, err
	}

	var matches, offline []node
	for _, n := range named {
		n.tagged = true
		if n.online() {
			matches = append(matches, n)
		} else {
			offline = append(offline, n)
		}
	}
	for _, n := range online {
		if goesBy(n, name) {
			matches = append(matches, n)
		}
	}
	byID := func(a, b node) int { return cmp.Compare(a.id(), b.id()) }
	slices.SortStableFunc(matches, byID)
	matches = slices.CompactFunc(matches, func(a, b node) bool { return a.id() == b.id() })
	switch len(matches) {
	case 0:
		return node{}, &noNodeError{name, len(online), offline}
	case 1:
		return matches[0], nil
	}
	return node{}, &severalNodesError{name, matches}
}

// goesBy tells whether name is a node's computer name, with or without its
// domain, or its address.
func goesBy(n node, name string) bool {
	computer := aws.ToString(n.ComputerName)
	short, _, _ := strings.Cut(computer, ".")
	if strings.EqualFold(name, computer) || strings.EqualFold(name, short) {
		return true
	}
	wanted, err := netip.ParseAddr(name)
	if err != nil {
		return false
	}
	addr, err := netip.ParseAddr(aws.ToString(n.IPAddress))
	return err == nil && addr.Unmap() == wanted.Unmap()
}

// describe returns the nodes that a filter lets through, all pages of them.
func (c *client) describe(ctx context.Context, key, value string) ([]node, error) {
	pages := ssm.NewDescribeInstanceInformationPaginator(c.ssm(), &ssm.DescribeInstanceInformationInput{
		Filters:    []types.InstanceInformationStringFilter{{Key: aws.String(key), Values: []string{value}}},
		MaxResults: aws.Int32(nodesPerPage),
	}, func(o *ssm.DescribeInstanceInformationPaginatorOptions) { o.StopOnDuplicateToken = true })
	var nodes []node
	for pages.HasMorePages() {
		err := c.insist(ctx, func(ctx context.Context) error {
			ctx, cancel := context.WithTimeout(ctx, attemptTimeout)
			defer cancel()
			page, err := pages.NextPage(ctx)
			if err != nil {
				return err
			}
			for _, info := range page.InstanceInformationList {
				nodes = append(nodes, node{InstanceInformation: info})
			}
			return nil
		})
		if err != nil {
			return nil, fmt.Errorf("look up nodes by %s: %w", key, err)
		}
	}
	return nodes, nil
}
