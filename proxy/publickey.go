package proxy

import (
	"bufio"
	"bytes"
	"context"
	"encoding/base64"
	"encoding/binary"
	"errors"
	"fmt"
	"io"
	"io/fs"
	"os"
	"path/filepath"
	"slices"
	"strings"
)

// fromAgent is what --send-key is given in place of a file.
const fromAgent = "agent"

// What EC2 Instance Connect takes keys of ("Requirements for key pairs" in the
// EC2 User Guide).
var pushableTypes = []string{"ssh-ed25519", "ssh-rsa"}

const (
	pushable   = "EC2 Instance Connect takes keys of type ED25519 and RSA only"
	maxKeyFile = 64 << 10
)

var (
	errPrivateKey  = errors.New("is a private key")
	errNoPublicKey = errors.New("is not a public key")
)

// publicKey returns the key that --send-key asks for as "TYPE BASE64", without
// its comment: nobody there needs to know it.
func publicKey(ctx context.Context, sendKey string) (string, error) {
	if sendKey == fromAgent {
		return agentKey(ctx)
	}
	file := expandHome(sendKey)
	blob, err := readPublicKey(file)
	// Where a private key was named: the other half lies beside it.
	if errors.Is(err, errPrivateKey) || errors.Is(err, fs.ErrNotExist) {
		if other, otherErr := readPublicKey(file + ".pub"); !errors.Is(otherErr, fs.ErrNotExist) {
			file, blob, err = file+".pub", other, otherErr
		}
	}
	switch {
	case errors.Is(err, errPrivateKey):
		return "", errorWithHint(nil, fmt.Sprintf("%s is a private key, and %s.pub does not exist", file, file),
			fmt.Sprintf("ssh-keygen -y -f %s > %s.pub makes it", file, file))
	case errors.Is(err, errNoPublicKey):
		return "", errorWithHint(nil, file+" is not a public key",
			"a public key's file has one line, ssh-ed25519 AAAA… or the like; ssh-keygen makes pairs of keys")
	case err != nil:
		return "", errorWithHint(err, "the public key cannot be read: "+plainError(err), "--send-key names its file, such as ~/.ssh/id_ed25519.pub")
	}
	kind := keyType(blob)
	if !slices.Contains(pushableTypes, kind) {
		return "", errorWithHint(nil, fmt.Sprintf("%s is a key of type %s", file, kind), pushable+"; ssh-keygen -t ed25519 makes one")
	}
	return authorizedKey(blob), nil
}

// expandHome does what no shell does where there is none: some IDEs run the
// ProxyCommand themselves.
func expandHome(file string) string {
	rest, ok := strings.CutPrefix(file, "~/")
	if home, err := os.UserHomeDir(); ok && err == nil {
		return filepath.Join(home, rest)
	}
	return file
}

// readPublicKey reads a file of one public key, in the form of
// authorized_keys without options (sshd(8)).
func readPublicKey(file string) (blob []byte, err error) {
	f, err := os.Open(file)
	if err != nil {
		return nil, err
	}
	defer f.Close()
	data, err := io.ReadAll(io.LimitReader(f, maxKeyFile))
	if err != nil {
		return nil, err
	}
	if bytes.HasPrefix(data, []byte("-----BEGIN ")) && bytes.Contains(data, []byte(" PRIVATE KEY-----")) {
		return nil, errPrivateKey
	}
	for lines := bufio.NewScanner(bytes.NewReader(data)); lines.Scan(); {
		line := strings.TrimSpace(lines.Text())
		if line == "" || strings.HasPrefix(line, "#") {
			continue
		}
		fields := strings.Fields(line)
		if len(fields) < 2 {
			break
		}
		blob, err := base64.StdEncoding.DecodeString(fields[1])
		if err != nil || keyType(blob) != fields[0] {
			break
		}
		return blob, nil
	}
	return nil, errNoPublicKey
}

// keyType is what a public key's blob says that it is (RFC 4253, section 6.6),
// empty where it is none: it has to be made of strings to its last byte.
func keyType(blob []byte) string {
	kind, rest, ok := cutString(blob)
	for ok && len(rest) > 0 {
		_, rest, ok = cutString(rest)
	}
	if !ok || len(rest) > 0 || len(kind)+4 == len(blob) {
		return ""
	}
	return string(kind)
}

// cutString cuts an SSH string (RFC 4251, section 5) off the front of b.
func cutString(b []byte) (s, rest []byte, ok bool) {
	if len(b) < 4 {
		return nil, b, false
	}
	n := binary.BigEndian.Uint32(b)
	if uint64(n) > uint64(len(b)-4) {
		return nil, b, false
	}
	return b[4 : 4+n], b[4+n:], true
}

func authorizedKey(blob []byte) string {
	return keyType(blob) + " " + base64.StdEncoding.EncodeToString(blob)
}
