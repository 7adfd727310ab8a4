package proxy

import (
	"encoding/base64"
	"encoding/binary"
	"os"
	"path/filepath"
	"strings"
	"testing"
)

// sshStrings is the encoding of strings in SSH's messages.
func sshStrings(parts ...string) []byte {
	var b []byte
	for _, part := range parts {
		b = append(binary.BigEndian.AppendUint32(b, uint32(len(part))), part...)
	}
	return b
}

func encoded(blob []byte) string { return base64.StdEncoding.EncodeToString(blob) }

var (
	edBlob  = sshStrings("ssh-ed25519", strings.Repeat("k", 32))
	rsaBlob = sshStrings("ssh-rsa", "\x01\x00\x01", strings.Repeat("n", 257))
	edKey   = "ssh-ed25519 " + encoded(edBlob)
)

func TestPublicKeyFiles(t *testing.T) {
	t.Parallel()
	const private = "-----BEGIN OPENSSH PRIVATE KEY-----\nc2VjcmV0\n-----END OPENSSH PRIVATE KEY-----\n"
	for name, test := range map[string]struct {
		file, beside string // the file's content, and that of file.pub; "" for none
		want         string
		problem      string
	}{
		"ED25519":              {edKey + " me@example.com\n", "", edKey, ""},
		"RSA":                  {"ssh-rsa " + encoded(rsaBlob), "", "ssh-rsa " + encoded(rsaBlob), ""},
		"comments, CRLF":       {"# mine\r\n\r\n  " + edKey + " me\r\n", "", edKey, ""},
		"private, public":      {private, edKey, edKey, ""},
		"missing, public":      {"", edKey, edKey, ""},
		"private":              {private, "", "", "is a private key, and "},
		"old private":          {"-----BEGIN RSA PRIVATE KEY-----\nx\n", "", "", "is a private key, and "},
		"private, private":     {private, private, "", "is a private key, and "},
		"private, no key":      {private, "x", "", "key.pub is not a public key"},
		"missing":              {"", "", "", "the public key cannot be read: "},
		"empty":                {"\n", "", "", "is not a public key"},
		"words":                {"these are words\n", edKey, "", "is not a public key"},
		"one word":             {"ssh-ed25519", "", "", "is not a public key"},
		"with options":         {`command="x" ` + edKey, "", "", "is not a public key"},
		"another type inside":  {"ssh-rsa " + encoded(edBlob), "", "", "is not a public key"},
		"cut off":              {"ssh-ed25519 " + encoded(edBlob[:len(edBlob)-3]), "", "", "is not a public key"},
		"too long":             {"ssh-ed25519 " + encoded(append(edBlob[:len(edBlob):len(edBlob)], 0)), "", "", "is not a public key"},
		"type alone":           {"ssh-ed25519 " + encoded(edBlob[:15]), "", "", "is not a public key"},
		"certificate, ECDSA":   {"ecdsa-sha2-nistp256 " + encoded(sshStrings("ecdsa-sha2-nistp256", "nistp256", "x")), "", "", "is a key of type ecdsa-sha2-nistp256"},
		"RFC 4716, not a line": {"---- BEGIN SSH2 PUBLIC KEY ----\nAAAA\n", "", "", "is not a public key"},
	} {
		t.Run(name, func(t *testing.T) {
			t.Parallel()
			file := filepath.Join(t.TempDir(), "key")
			for path, content := range map[string]string{file: test.file, file + ".pub": test.beside} {
				if content == "" {
					continue
				}
				if err := os.WriteFile(path, []byte(content), 0o600); err != nil {
					t.Fatal(err)
				}
			}
			got, err := publicKey(t.Context(), file)
			if test.problem == "" && (err != nil || got != test.want) {
				t.Errorf("got %q, %v", got, err)
			}
			if test.problem != "" && (err == nil || !strings.Contains(err.Error(), test.problem) || strings.Contains(err.Error(), "c2VjcmV0")) {
				t.Errorf("got %q, %v, want %q", got, err, test.problem)
			}
		})
	}
}

func TestHomeIsExpandedWithoutAShell(t *testing.T) {
	t.Setenv("HOME", "/home/me")
	t.Setenv("USERPROFILE", "/home/me")
	for file, want := range map[string]string{
		"~/.ssh/id.pub": filepath.Join("/home/me", ".ssh/id.pub"), "~you/id.pub": "~you/id.pub", "a/~/b": "a/~/b", "~": "~",
	} {
		if got := expandHome(file); got != want {
			t.Errorf("%s: got %s", file, got)
		}
	}
}
