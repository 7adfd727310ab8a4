package proxy

import (
	"fmt"
	"strconv"
	"strings"
)

// target is what StartSession is given.
type target struct {
	id   string // i-… or mi-…; empty where HOST is a name, until that is looked up
	port string // "1" to "65535"
}

func (t target) managedNode() bool { return strings.HasPrefix(t.id, "mi-") }

const idForm = "an instance ID is i- and 8 to 17 hexadecimal digits, a managed node ID mi- and 17"

// parseTarget checks HOST and PORT before anything is asked of anyone.
func parseTarget(host, port string) (target, error) {
	n, err := strconv.ParseUint(port, 10, 16)
	if err != nil || n == 0 {
		return target{}, usage(fmt.Sprintf("port %q is not a number from 1 to 65535", port))
	}
	t := target{port: strconv.FormatUint(n, 10)}
	switch {
	case host == "":
		return target{}, usage("HOST is empty")
	case strings.HasPrefix(host, "-"):
		return target{}, usage(fmt.Sprintf("host %q looks like a flag", host),
			"an instance ID looks like i-0123456789abcdef0")
	}
	// DNS names have no case, and ssh passes on what was typed in small letters.
	id := strings.ToLower(host)
	kind, digits, _ := strings.Cut(id, "-")
	switch {
	case kind != "i" && kind != "mi" || !isHex(digits):
		return t, nil // a name
	case kind == "i" && 8 <= len(digits) && len(digits) <= 17, kind == "mi" && len(digits) == 17:
		t.id = id
		return t, nil
	}
	// No name is like that: it was cut off.
	return target{}, usage(fmt.Sprintf("%q is not an instance ID", host), idForm)
}

func isHex(s string) bool {
	return s != "" && strings.Trim(s, "0123456789abcdef") == ""
}

// splitHost takes HOST apart: NAME, NAME.REGION or NAME.REGION.PROFILE. NAME
// may have dots of its own, PROFILE none; where both of the last two labels are
// regions the last one counts.
func splitHost(host string) (name, region, profile string) {
	if rest, last := cutLast(host); rest != "" && isRegion(last) {
		return rest, strings.ToLower(last), ""
	} else if rest, label := cutLast(rest); rest != "" && last != "" && isRegion(label) {
		return rest, strings.ToLower(label), last
	}
	return host, "", ""
}

// cutLast cuts s around its last dot. Without one rest is empty.
func cutLast(s string) (rest, last string) {
	i := strings.LastIndexByte(s, '.')
	return s[:max(i, 0)], s[i+1:]
}

// isRegion tells whether a label of HOST is an AWS region. Strictly: of any
// other label it must be sure that it isn't. The areas are those of the SDK's
// partitions (internal/endpoints/awsrulesfn), the rest is what every region so
// far has: a point of the compass and a digit.
func isRegion(label string) bool {
	parts := strings.Split(strings.ToLower(label), "-")
	n := len(parts)
	if n < 3 {
		return false
	}
	switch strings.Join(parts[:n-2], "-") {
	case "us", "eu", "ap", "sa", "ca", "me", "af", "il", "mx", "cn", "eusc-de",
		"us-gov", "us-iso", "us-isob", "us-isof", "eu-isoe":
	default:
		return false
	}
	switch parts[n-2] {
	case "north", "south", "east", "west", "central", "northeast", "northwest", "southeast", "southwest":
	default:
		return false
	}
	number := parts[n-1]
	return len(number) == 1 && '1' <= number[0] && number[0] <= '9'
}
