//go:build unix

package proxy

import (
	"bytes"
	"context"
	"encoding/binary"
	"errors"
	"io"
	"net"
	"os"
	"path/filepath"
	"strings"
	"testing"
)

// identities is the agent's answer with these keys.
func identities(blobs ...[]byte) []byte {
	answer := binary.BigEndian.AppendUint32([]byte{agentIdentitiesAnswer}, uint32(len(blobs)))
	for _, blob := range blobs {
		answer = append(answer, sshStrings(string(blob), "a comment")...)
	}
	return answer
}

// agentThat answers one request and returns the path of its socket.
func agentThat(t *testing.T, answer []byte) string {
	t.Helper()
	dir, err := os.MkdirTemp(scratch, "a") // a socket's path must be short
	if err != nil {
		t.Fatal(err)
	}
	path := filepath.Join(dir, "s")
	l, err := net.Listen("unix", path)
	if err != nil {
		t.Fatal(err)
	}
	serve(t, l, func(c net.Conn) {
		request := make([]byte, 5)
		if _, err := io.ReadFull(c, request); err != nil || !bytes.Equal(request, []byte{0, 0, 0, 1, agentRequestIdentities}) {
			t.Errorf("request %v, %v", request, err)
		}
		if answer != nil {
			c.Write(answer)
			return
		}
		io.Copy(io.Discard, c) // until the client hangs up
	})
	return path
}

func framed(answer []byte) []byte { return sshStrings(string(answer)) }

func TestAgentsFirstKeyThatCanBePushed(t *testing.T) {
	ecdsa := sshStrings("ecdsa-sha2-nistp256", "nistp256", "x")
	certificate := sshStrings("ssh-ed25519-cert-v01@openssh.com", "x")
	for name, test := range map[string]struct {
		answer  []byte
		want    string
		problem string
	}{
		"first":        {framed(identities(edBlob, rsaBlob)), edKey, ""},
		"first usable": {framed(identities(ecdsa, certificate, rsaBlob, edBlob)), "ssh-rsa " + encoded(rsaBlob), ""},
		"none usable":  {framed(identities(ecdsa)), "", "ssh-agent has no key that EC2 Instance Connect takes"},
		"none":         {framed(identities()), "", "ssh-agent has no keys"},
		"refusal":      {framed([]byte{5}), "", "ssh-agent does not tell its keys: a malformed answer"},
		"too much":     {[]byte{0xff, 0xff, 0xff, 0xff}, "", "ssh-agent does not tell its keys: an answer of 4294967295 bytes"},
		"hangs up":     {framed(identities(edBlob))[:9], "", "ssh-agent does not tell its keys: "},
	} {
		t.Run(name, func(t *testing.T) {
			t.Setenv("SSH_AUTH_SOCK", agentThat(t, test.answer))
			got, err := publicKey(t.Context(), fromAgent)
			if got != test.want || (test.problem == "") != (err == nil) || err != nil && !strings.HasPrefix(err.Error(), test.problem) {
				t.Errorf("got %q, %v", got, err)
			}
		})
	}
}

func TestNoAgent(t *testing.T) {
	t.Setenv("SSH_AUTH_SOCK", "")
	if _, err := publicKey(t.Context(), fromAgent); err == nil || !strings.Contains(err.Error(), "SSH_AUTH_SOCK is not set") {
		t.Errorf("got %v", err)
	}
	t.Setenv("SSH_AUTH_SOCK", "/nonexistent/agent")
	if _, err := publicKey(t.Context(), fromAgent); err == nil || !strings.Contains(err.Error(), "no such file") {
		t.Errorf("got %v", err)
	}
}

func TestAgentThatIsSilentIsLeft(t *testing.T) {
	t.Parallel()
	path := agentThat(t, nil)
	ctx, cancel := context.WithCancel(t.Context())
	errs := make(chan error)
	go func() {
		_, err := agentKeys(ctx, path)
		errs <- err
	}()
	cancel()
	if err := <-errs; err == nil {
		t.Error("no error")
	}
}

func TestIdentitiesCutShortAreMalformed(t *testing.T) {
	t.Parallel()
	whole := identities(edBlob, rsaBlob)
	for n := range whole {
		if blobs, err := parseIdentities(whole[:n]); !errors.Is(err, errAgentReply) {
			t.Errorf("%d bytes: %d keys, %v", n, len(blobs), err)
		}
	}
	huge := binary.BigEndian.AppendUint32([]byte{agentIdentitiesAnswer}, 1<<32-1)
	if _, err := parseIdentities(huge); !errors.Is(err, errAgentReply) {
		t.Errorf("a count without keys: %v", err)
	}
}
