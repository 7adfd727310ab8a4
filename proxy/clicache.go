package proxy

import (
	"crypto/sha1"
	"encoding/hex"
	"encoding/json"
	"errors"
	"fmt"
	"maps"
	"os"
	"path/filepath"
	"slices"
	"strconv"
	"strings"
	"time"
	"unicode/utf16"
)

// The temporary credentials of roles are kept where the AWS CLI keeps them, in
// ~/.aws/cli/cache, under its file names and in its format, so that what one
// of the two was given serves the other: botocore's CachedCredentialFetcher
// and JSONFileCache. The tokens of SSO are in ~/.aws/sso/cache likewise.

// refreshBefore is how long before their end credentials are not used any more
// where there may be others: botocore's expiry window.
const refreshBefore = 15 * time.Minute

// cacheEntry is a file of one of the CLI's caches.
type cacheEntry struct {
	dir string // "cli" or "sso"
	key string // the name without .json
}

// roleEntry is where the CLI keeps a role's credentials: the SHA-1 of the
// arguments of AssumeRole but for those that change.
func roleEntry(args map[string]any) cacheEntry {
	return cacheEntry{"cli", sha1Hex(pythonJSON(args, ", ", ": "))}
}

// ssoEntry is where the CLI keeps the credentials of a role by SSO.
func ssoEntry(account, role, session, startURL string) cacheEntry {
	args := map[string]any{"accountId": account, "roleName": role}
	if session != "" {
		args["sessionName"] = session
	} else {
		args["startUrl"] = startURL
	}
	return cacheEntry{"cli", sha1Hex(pythonJSON(args, ",", ":"))}
}

// tokenEntry is where the CLI keeps the token of an SSO session, or of a start
// URL where a profile names no session.
func tokenEntry(sessionOrURL string) cacheEntry {
	return cacheEntry{"sso", sha1Hex(sessionOrURL)}
}

func sha1Hex(s string) string {
	sum := sha1.Sum([]byte(s))
	return hex.EncodeToString(sum[:])
}

func (e cacheEntry) path() (string, error) {
	home, err := os.UserHomeDir()
	if err != nil {
		return "", err
	}
	return filepath.Join(home, ".aws", e.dir, "cache", e.key+".json"), nil
}

// lockName is that of the entry's lock.
func (e cacheEntry) lockName() string { return e.dir + "-" + e.key }

// read decodes the file into v.
func (e cacheEntry) read(v any) error {
	path, err := e.path()
	if err != nil {
		return err
	}
	data, err := os.ReadFile(path)
	if err != nil {
		return err
	}
	return json.Unmarshal(data, v)
}

// write replaces the file in one step. It is the person's alone.
func (e cacheEntry) write(v any) error {
	path, err := e.path()
	if err != nil {
		return err
	}
	data, err := json.Marshal(v)
	if err != nil {
		return err
	}
	dir := filepath.Dir(path)
	if err := os.MkdirAll(dir, 0o700); err != nil {
		return err
	}
	f, err := os.CreateTemp(dir, "*.tmp") // mode 0600
	if err != nil {
		return err
	}
	_, err = f.Write(data)
	if err = errors.Join(err, f.Close()); err == nil {
		err = os.Rename(f.Name(), path)
	}
	if err != nil {
		os.Remove(f.Name())
	}
	return err
}

// cachedCredentials is the format of ~/.aws/cli/cache. The CLI reads the first
// field only, and aws sso logout looks for the type.
type cachedCredentials struct {
	Credentials struct {
		AccessKeyID     string `json:"AccessKeyId"`
		SecretAccessKey string
		SessionToken    string
		Expiration      cacheTime
		AccountID       string `json:"AccountId,omitempty"`
	}
	ProviderType     string            `json:",omitempty"` // "sso" for those by SSO
	AssumedRoleUser  *assumedRoleUser  `json:",omitempty"`
	ResponseMetadata *responseMetadata `json:",omitempty"`
}

type assumedRoleUser struct {
	AssumedRoleID string `json:"AssumedRoleId"`
	Arn           string
}

type responseMetadata struct {
	RequestID      string `json:"RequestId"`
	HTTPStatusCode int
	RetryAttempts  int
}

// readCredentials returns what is cached where it is complete and good for at
// least the given time.
func (e cacheEntry) readCredentials(atLeast time.Duration) (cachedCredentials, bool) {
	var c cachedCredentials
	if err := e.read(&c); err != nil {
		return c, false
	}
	k := c.Credentials
	complete := k.AccessKeyID != "" && k.SecretAccessKey != "" && k.SessionToken != ""
	return c, complete && time.Until(k.Expiration.Time) > atLeast
}

// cacheTime is a time as the CLI writes it; which way depends on its version.
type cacheTime struct{ time.Time }

func (t cacheTime) MarshalJSON() ([]byte, error) {
	return json.Marshal(t.UTC().Format(time.RFC3339))
}

func (t *cacheTime) UnmarshalJSON(data []byte) error {
	var text string
	if err := json.Unmarshal(data, &text); err != nil {
		return err
	}
	if bare, ok := strings.CutSuffix(text, "UTC"); ok {
		text = bare + "Z"
	}
	var err error
	t.Time, err = time.Parse(time.RFC3339, text)
	return err
}

// pythonJSON writes an object as Python's json.dumps does with sort_keys, for
// the hash of it. Values are strings or ints.
func pythonJSON(object map[string]any, comma, colon string) string {
	var members []string
	for _, name := range slices.Sorted(maps.Keys(object)) {
		value := ""
		switch v := object[name].(type) {
		case string:
			value = pythonString(v)
		case int:
			value = strconv.Itoa(v)
		default:
			panic(fmt.Sprintf("proxy: %T in a cache key", v))
		}
		members = append(members, pythonString(name)+colon+value)
	}
	return "{" + strings.Join(members, comma) + "}"
}

// pythonString is a JSON string in ASCII, as Python escapes it.
func pythonString(s string) string {
	var b strings.Builder
	b.WriteByte('"')
	for _, unit := range utf16.Encode([]rune(s)) {
		switch {
		case unit == '"' || unit == '\\':
			b.WriteByte('\\')
			b.WriteByte(byte(unit))
		case ' ' <= unit && unit <= '~':
			b.WriteByte(byte(unit))
		default:
			if i := strings.IndexByte("\b\f\n\r\t", byte(unit)); i >= 0 && unit < ' ' {
				b.WriteByte('\\')
				b.WriteByte("bfnrt"[i])
				continue
			}
			fmt.Fprintf(&b, "\\u%04x", unit)
		}
	}
	b.WriteByte('"')
	return b.String()
}
