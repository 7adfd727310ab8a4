package ssmtest

import (
	"cmp"
	"fmt"
	"log/slog"
	"net"
	"net/http"
	"slices"
	"time"
)

// Config says what kind of service and agent a Server plays. The zero value has
// the habits of the real ones, the agent's pacing included.
type Config struct {
	// SSHAddr is where the agent's "localhost:PORT" really leads, as
	// "host:port"; the port itself on 127.0.0.1 when empty.
	SSHAddr string

	// Ports overrides SSHAddr for single ports: from "22" to "host:port".
	Ports map[string]string

	// Regions are the regions that requests may be signed for; the first one
	// is in Env. eu-central-1 when empty.
	Regions []string

	// Nodes are the managed nodes of the account, by which StartSession and
	// DescribeInstanceInformation answer. Without any, and without Targets,
	// every target that looks like an ID (i-… or mi-…) is connected.
	Nodes []Node

	// Targets are the IDs of further nodes, which are online.
	Targets []string

	// Documents are session documents that exist besides AWS-StartSSHSession.
	Documents []string

	// KeyPushed is told of every public key that EC2 Instance Connect is given,
	// before the call is answered: it is to let the key log in. The function
	// that it returns is called once the key is good no longer, after
	// KeyLifetime or on Close.
	KeyPushed func(PushedKey) (expire func())

	// KeyLifetime is how long a pushed key is good. 60 s when zero, as the
	// service has it.
	KeyLifetime time.Duration

	// Denied are IAM actions that no policy of the caller allows, such as
	// "ssm:ResumeSession".
	Denied []string

	// RefuseUnsigned refuses a websocket upgrade without a signature,
	// as the service is going to do.
	RefuseUnsigned bool

	// RefuseSigned refuses a signed upgrade, as the service does where
	// the caller's policy lacks ssmmessages:OpenDataChannel.
	RefuseSigned bool

	// RefusalStatus is the HTTP status of a refused upgrade. 403 when zero.
	RefusalStatus int

	// MinClientVersion is the lowest ClientVersion that may open a data
	// channel, such as "1.2.764.0". When empty any dotted number may, or none:
	// clients in use send neither ClientVersion nor ClientId (data_channel.go
	// in mmmorris1975/ssm-session-client, tested against the live service).
	MinClientVersion string

	// BarePublications sends start_publication and pause_publication without
	// digest and date, which AWS's own client does not look at (Validate in its
	// messageparser.go). Other clients do, and work with the live service.
	BarePublications bool

	// LatePause is how much later than a client's going the agent is told of it:
	// the client may be back by then, and start_publication come first. AWS says
	// nothing of their order.
	LatePause time.Duration

	// PresignedURL makes StreamUrl a presigned one: it carries its own
	// signature, needs no other and cannot be resumed.
	PresignedURL bool

	// IdleTimeout is how long a session lives with no stream message in either
	// direction. 20 minutes when zero.
	IdleTimeout time.Duration

	// StartSessionRate is how many StartSession calls a second are served, in
	// bursts of at most a second's worth; the rest get ThrottlingException.
	// Unlimited when zero.
	StartSessionRate float64

	// MFARoles are the names of roles that take an MFA code. Admin when nil.
	MFARoles []string

	// RoleLifetime is how long the credentials of a role live at most, and
	// where nobody asks for less. An hour when zero.
	RoleLifetime time.Duration

	// SignInLifetime is how long SSO's access tokens live. An hour when zero.
	SignInLifetime time.Duration

	// DeviceLifetime is how long a device authorization waits for the person.
	// Ten minutes when zero.
	DeviceLifetime time.Duration

	// AgentVersion is what the agent calls itself. 3.3.987.0 when empty.
	AgentVersion string

	// NoPacing switches off the agent's rest of a millisecond after each read
	// from the port, for benchmarks of what surrounds it.
	NoPacing bool

	// PortDelay is the time between HandshakeComplete's leaving and the
	// agent's dialling the port, in which it takes no data. 5 ms when zero,
	// none when negative.
	PortDelay time.Duration

	// Handshakeless makes the agent one that is older than the handshake.
	Handshakeless bool

	// MuteAgent makes the agent one that never begins its handshake.
	MuteAgent bool

	// WindowsAgent makes the agent one that rejects acknowledgements whose
	// flags are anything but 3.
	WindowsAgent bool

	// RepeatsAcks makes the agent acknowledge what it has processed each time
	// it comes, as no released one is known to.
	RepeatsAcks bool

	// ActionsRequested are the ActionTypes that the agent's handshake asks for
	// beside SessionType, such as "KMSEncryption".
	ActionsRequested []string

	// CustomerMessage is the account's message in HandshakeComplete.
	CustomerMessage string

	// Link is the path of every TCP connection to the service.
	Link Link

	// Seed makes random faults repeatable; a random one is taken when 0. See
	// Server.Seed.
	Seed uint64

	// Logger takes the details; nothing is logged without one.
	Logger *slog.Logger
}

// Node is a managed node as DescribeInstanceInformation knows it. InstanceID is
// required; a PingStatus other than Online makes the node not connected.
type Node struct {
	InstanceID   string
	PingStatus   string // Online when empty
	ComputerName string
	IPAddress    string
	PlatformType string // Linux when empty
	PlatformName string
	AgentVersion string // the server's when empty
	IamRole      string
	Tags         map[string]string
	Stopped      bool // for EC2, whatever its PingStatus still says
}

// resourceType tells the two kinds of managed node apart, by their IDs.
func (n Node) resourceType() string {
	if len(n.InstanceID) > 3 && n.InstanceID[:3] == "mi-" {
		return "ManagedInstance"
	}
	return "EC2Instance"
}

const sshDocument = "AWS-StartSSHSession"

// withDefaults returns the configuration with every default filled in.
func (c Config) withDefaults() Config {
	if len(c.Regions) == 0 {
		c.Regions = []string{"eu-central-1"}
	}
	if c.AgentVersion == "" {
		c.AgentVersion = "3.3.987.0"
	}
	if c.IdleTimeout == 0 {
		c.IdleTimeout = 20 * time.Minute
	}
	if c.KeyLifetime == 0 {
		c.KeyLifetime = time.Minute
	}
	if c.MFARoles == nil {
		c.MFARoles = []string{"Admin"}
	}
	c.RoleLifetime = cmp.Or(c.RoleLifetime, time.Hour)
	c.SignInLifetime = cmp.Or(c.SignInLifetime, time.Hour)
	c.DeviceLifetime = cmp.Or(c.DeviceLifetime, 10*time.Minute)
	if c.RefusalStatus == 0 {
		c.RefusalStatus = http.StatusForbidden
	}
	if c.PortDelay == 0 {
		c.PortDelay = 5 * time.Millisecond
	}
	if c.Logger == nil {
		c.Logger = slog.New(slog.DiscardHandler)
	}
	return c
}

func withNodeDefaults(nodes []Node, agentVersion string) []Node {
	filled := slices.Clone(nodes)
	for i := range filled {
		n := &filled[i]
		n.PingStatus = cmp.Or(n.PingStatus, "Online")
		n.PlatformType = cmp.Or(n.PlatformType, "Linux")
		n.AgentVersion = cmp.Or(n.AgentVersion, agentVersion)
	}
	return filled
}

// portAddr is where the agent's localhost:port leads.
func (c *Config) portAddr(port string) string {
	if addr, ok := c.Ports[port]; ok {
		return addr
	}
	if c.SSHAddr != "" {
		return c.SSHAddr
	}
	return net.JoinHostPort("127.0.0.1", port)
}

// parseVersion reads a dotted number, such as 1.2.896.0.
func parseVersion(text string) ([]int, error) {
	var version []int
	n, digits := 0, 0
	for i := 0; i <= len(text); i++ {
		switch {
		case i == len(text) || text[i] == '.':
			if digits == 0 {
				return nil, fmt.Errorf("malformed version %q", text)
			}
			version = append(version, n)
			n, digits = 0, 0
		case '0' <= text[i] && text[i] <= '9' && digits < 9:
			n = n*10 + int(text[i]-'0')
			digits++
		default:
			return nil, fmt.Errorf("malformed version %q", text)
		}
	}
	return version, nil
}
