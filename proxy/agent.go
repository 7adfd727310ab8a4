package proxy

import (
	"context"
	"encoding/binary"
	"errors"
	"fmt"
	"io"
	"net"
	"os"
	"slices"
	"strings"
	"time"
)

// The part of the ssh-agent protocol that lists keys
// (draft-ietf-sshm-ssh-agent, sections 4.4 and 6.1).
const (
	agentRequestIdentities = 11
	agentIdentitiesAnswer  = 12

	maxAgentReply = 256 << 10 // as OpenSSH has it
	// agentTimeout is long: some agents ask their person first.
	agentTimeout = time.Minute
)

// agentKey returns the first key of ssh-agent that can be pushed.
func agentKey(ctx context.Context) (string, error) {
	path := os.Getenv("SSH_AUTH_SOCK")
	if path == "" {
		return "", errorWithHint(nil, "there is no ssh-agent: SSH_AUTH_SOCK is not set",
			"--send-key FILE takes the key from a file")
	}
	blobs, err := agentKeys(ctx, path)
	if err != nil {
		return "", errorWithHint(err, "ssh-agent does not tell its keys: "+plainError(err), "SSH_AUTH_SOCK names its socket, "+path)
	}
	if len(blobs) == 0 {
		return "", errorWithHint(nil, "ssh-agent has no keys", "ssh-add puts one in; --send-key FILE takes it from a file")
	}
	for _, blob := range blobs {
		if slices.Contains(pushableTypes, keyType(blob)) {
			return authorizedKey(blob), nil
		}
	}
	return "", errorWithHint(nil, "ssh-agent has no key that EC2 Instance Connect takes", pushable)
}

// agentKeys asks the agent at path for its public keys.
func agentKeys(ctx context.Context, path string) ([][]byte, error) {
	ctx, cancel := context.WithTimeout(ctx, agentTimeout)
	defer cancel()
	agent, err := dialAgent(ctx, path)
	if err != nil {
		return nil, err
	}
	defer agent.Close()
	defer context.AfterFunc(ctx, func() { agent.Close() })() // what waits for it ends

	if _, err := agent.Write([]byte{0, 0, 0, 1, agentRequestIdentities}); err != nil {
		return nil, err
	}
	header := make([]byte, 4)
	if _, err := io.ReadFull(agent, header); err != nil {
		return nil, err
	}
	n := binary.BigEndian.Uint32(header)
	if n > maxAgentReply {
		return nil, fmt.Errorf("an answer of %d bytes", n)
	}
	reply := make([]byte, n)
	if _, err := io.ReadFull(agent, reply); err != nil {
		return nil, err
	}
	return parseIdentities(reply)
}

func dialAgent(ctx context.Context, path string) (io.ReadWriteCloser, error) {
	if strings.HasPrefix(path, `\\.\pipe\`) { // OpenSSH for Windows
		return os.OpenFile(path, os.O_RDWR, 0)
	}
	return new(net.Dialer).DialContext(ctx, "unix", path)
}

var errAgentReply = errors.New("a malformed answer")

// parseIdentities reads SSH_AGENT_IDENTITIES_ANSWER: a count, then a key's blob
// and its comment each.
func parseIdentities(reply []byte) (blobs [][]byte, err error) {
	if len(reply) < 5 || reply[0] != agentIdentitiesAnswer {
		return nil, errAgentReply
	}
	count, rest := binary.BigEndian.Uint32(reply[1:]), reply[5:]
	for range count {
		blob, after, ok := cutString(rest)
		if !ok {
			return nil, errAgentReply
		}
		if _, rest, ok = cutString(after); !ok {
			return nil, errAgentReply
		}
		blobs = append(blobs, blob)
	}
	return blobs, nil
}
