package proxy

import (
	"errors"
	"fmt"
	"net/netip"
	"strings"

	"github.com/aws/aws-sdk-go-v2/aws"
	"github.com/aws/smithy-go"
)

// maxListed is how many nodes an error lists.
const maxListed = 20

// node names the target: its ID, with the name that it was found by.
func (s situation) node() string {
	switch host := s.options.Host; {
	case s.target.id == "":
		return host
	case host == "" || strings.EqualFold(host, s.target.id):
		return s.target.id
	default:
		return host + " (" + s.target.id + ")"
	}
}

// waited says how long the person let it wait, where they did.
func (s situation) waited() string {
	if s.options.Wait == 0 {
		return ""
	}
	return ", after " + duration(s.options.Wait) + " of waiting"
}

// explainLookup words what a look-up of HOST has found, where that isn't one
// node.
func (s situation) explainLookup(err error) error {
	if e, ok := errors.AsType[*noNodeError](err); ok {
		return s.explainNoNode(e)
	}
	if e, ok := errors.AsType[*severalNodesError](err); ok {
		return s.explainSeveral(e)
	}
	return nil
}

func (s situation) explainNoNode(e *noNodeError) error {
	hints := []string{fmt.Sprintf("%q is no Name tag, computer name or private address of the %d nodes online there", e.name, e.searched)}
	for _, n := range e.offline[:min(len(e.offline), maxListed)] {
		hints = append(hints, fmt.Sprintf("not online: %s", s.describeNode(n, len(n.id()), 0, 0)))
	}
	if len(e.offline) > 0 && s.options.Wait == 0 {
		hints = append(hints, "--wait 2m waits for it to come online")
	}
	if strings.HasPrefix(e.name, "i-") || strings.HasPrefix(e.name, "mi-") {
		hints = append(hints, idForm)
	}
	if _, err := netip.ParseAddr(e.name); err != nil && strings.ToLower(e.name) == e.name && len(e.offline) == 0 {
		hints = append(hints, "a Name tag has to be the same to the letter, and ssh turns HOST to small letters: %n in place of %h in ProxyCommand leaves them")
	}
	hints = append(hints, "--region and --profile look elsewhere; the node's ID needs no look-up")
	return errorWithHint(e, fmt.Sprintf("no node called %q is online in %s%s%s", e.name, s.region, s.ofProfile(), s.waited()), hints...)
}

func (s situation) explainSeveral(e *severalNodesError) error {
	idWidth, nameWidth, addressWidth := 0, 0, 0
	for _, n := range e.nodes {
		idWidth = max(idWidth, len(n.id()))
		nameWidth = max(nameWidth, len(s.nodeName(n)))
		addressWidth = max(addressWidth, len(aws.ToString(n.IPAddress)))
	}
	hints := []string{"give the ID of the one that is meant:"}
	for i, n := range e.nodes {
		if i == maxListed {
			hints = append(hints, fmt.Sprintf("and %d more", len(e.nodes)-i))
			break
		}
		hints = append(hints, s.describeNode(n, idWidth, nameWidth, addressWidth))
	}
	return errorWithHint(e, fmt.Sprintf("%d nodes called %q are online in %s%s", len(e.nodes), e.name, s.region, s.ofProfile()), hints...)
}

// describeNode is a node in a list: ID, name, address and platform.
func (s situation) describeNode(n node, idWidth, nameWidth, addressWidth int) string {
	platform := strings.TrimSpace(aws.ToString(n.PlatformName) + " " + aws.ToString(n.PlatformVersion))
	if platform == "" {
		platform = string(n.PlatformType)
	}
	return strings.TrimSpace(fmt.Sprintf("%-*s  %-*s  %-*s  %s", idWidth, n.id(), nameWidth, s.nodeName(n), addressWidth, aws.ToString(n.IPAddress), platform))
}

// nodeName is what a node is called: by its Name tag where that is known, for
// the service doesn't tell it, otherwise by itself.
func (s situation) nodeName(n node) string {
	if n.tagged {
		return s.options.Host
	}
	return aws.ToString(n.ComputerName)
}

// explainKey words what EC2 Instance Connect answers.
func (s situation) explainKey(err error) error {
	api, ok := errors.AsType[smithy.APIError](err)
	if !ok || operation(err) != "SendSSHPublicKey" {
		return nil
	}
	user := s.options.User
	switch code, message := api.ErrorCode(), oneLine(api.ErrorMessage()); code {
	case "AccessDeniedException", "AccessDenied", "AuthException":
		explained := s.accessDenied(err, message)
		if hinted, ok := errors.AsType[*hintedError](explained); ok {
			hinted.hints = append(hinted.hints, fmt.Sprintf("ec2-instance-connect:SendSSHPublicKey is what --send-key needs; a condition on ec2:osuser may allow it for other users than %s", user))
		}
		return explained
	case "EC2InstanceNotFoundException":
		return errorWithHint(err, fmt.Sprintf("the key can't be pushed: EC2 knows no instance %s in %s", s.target.id, s.region),
			"--region and --profile choose others")
	case "EC2InstanceStateInvalidException":
		return errorWithHint(err, fmt.Sprintf("the key can't be pushed: %s is not running", s.node()),
			"aws ec2 start-instances --instance-ids "+s.target.id+" starts it")
	case "EC2InstanceUnavailableException":
		return errorWithHint(err, fmt.Sprintf("the key can't be pushed: EC2 says that %s is unavailable", s.node()), "try again in a few minutes")
	case "InvalidArgsException":
		return errorWithHint(err, fmt.Sprintf("EC2 Instance Connect does not take this key for user %q", user),
			"a user name has 32 letters, digits and @ . _ - at most; RSA keys have 2048 or 4096 bits", "AWS says: "+strings.TrimRight(message, ". "))
	}
	return nil
}
