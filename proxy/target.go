package proxy

import (
	"fmt"
	"strconv"
	"strings"
)

// target is what StartSession is given.
type target struct {
	id   string // i-… or mi-…
	port string // "1" to "65535"
}

func (t target) managedNode() bool { return strings.HasPrefix(t.id, "mi-") }

// parseTarget checks HOST and PORT before anything is asked of anyone.
func parseTarget(host, port string) (target, error) {
	n, err := strconv.ParseUint(port, 10, 16)
	if err != nil || n == 0 {
		return target{}, usage(fmt.Sprintf("port %q is not a number from 1 to 65535", port))
	}
	switch {
	case host == "":
		return target{}, usage("HOST is empty")
	case strings.HasPrefix(host, "-"):
		return target{}, usage(fmt.Sprintf("host %q looks like a flag", host),
			"an instance ID looks like i-0123456789abcdef0")
	}
	// DNS names have no case, and ssh passes on what was typed.
	id := strings.ToLower(host)
	if digits, ok := strings.CutPrefix(id, "i-"); ok && isHex(digits, 8, 17) {
		return target{id, strconv.FormatUint(n, 10)}, nil
	}
	if digits, ok := strings.CutPrefix(id, "mi-"); ok && isHex(digits, 17, 17) {
		return target{id, strconv.FormatUint(n, 10)}, nil
	}
	return target{}, usage(fmt.Sprintf("%q is not an instance ID", host),
		"an instance ID is i- and 8 to 17 hexadecimal digits, a managed node ID mi- and 17")
}

func isHex(s string, least, most int) bool {
	if len(s) < least || len(s) > most {
		return false
	}
	for _, c := range s {
		if !('0' <= c && c <= '9' || 'a' <= c && c <= 'f') {
			return false
		}
	}
	return true
}
