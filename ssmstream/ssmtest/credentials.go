package ssmtest

import (
	"context"
	"crypto/rand"
	"encoding/base64"
	"encoding/hex"
	"net/http"
	"net/url"
	"slices"
	"strings"
	"sync"
	"time"

	"ssmproxy/ssmstream"
)

// Credentials are temporary ones of a role, or a user's access key.
type Credentials struct {
	AccessKeyID     string
	SecretAccessKey string
	SessionToken    string // empty for an access key

	arn     string    // whose they are
	expires time.Time // zero: never by themselves
	expired bool      // by ExpireCredentials or ExpireOldCredentials
}

const (
	accountID   = "123456789012"
	roleName    = "Developer"
	sessionName = "demo@example.com" // awkward in a path, as real ones are
	callerARN   = "arn:aws:sts::" + accountID + ":assumed-role/" + roleName + "/" + sessionName
)

// keyring holds every credential that the service has given out.
type keyring struct {
	mu      sync.Mutex
	known   map[string]*Credentials
	current string
	user    string // the ID of the access key
}

// renew gives out new credentials and makes them the current ones.
func (k *keyring) renew() Credentials {
	c := k.issue(callerARN, 0)
	k.mu.Lock()
	defer k.mu.Unlock()
	k.current = c.AccessKeyID
	return c
}

// issue gives out temporary credentials beside the current ones; they don't
// expire by themselves where life is 0.
func (k *keyring) issue(arn string, life time.Duration) Credentials {
	c := &Credentials{AccessKeyID: "ASIA" + strings.ToUpper(randomHex(8)), SessionToken: randomBase64(240), arn: arn}
	if life != 0 {
		c.expires = time.Now().Add(life).UTC().Truncate(time.Second)
	}
	return k.add(c)
}

// issueUser makes the user's access key.
func (k *keyring) issueUser() {
	c := k.add(&Credentials{AccessKeyID: "AKIA" + strings.ToUpper(randomHex(8)), arn: "arn:aws:iam::" + accountID + ":user/demo"})
	k.user = c.AccessKeyID
}

func (k *keyring) add(c *Credentials) Credentials {
	c.SecretAccessKey = randomBase64(30)
	k.mu.Lock()
	defer k.mu.Unlock()
	if k.known == nil {
		k.known = make(map[string]*Credentials)
	}
	k.known[c.AccessKeyID] = c
	return *c
}

// expire lets all temporary credentials expire but the one with the given ID.
func (k *keyring) expire(except string) {
	k.mu.Lock()
	defer k.mu.Unlock()
	for id, c := range k.known {
		c.expired = c.expired || id != except && c.SessionToken != ""
	}
}

func (k *keyring) find(accessKeyID string) (Credentials, bool) {
	k.mu.Lock()
	defer k.mu.Unlock()
	if c, ok := k.known[accessKeyID]; ok {
		return *c, true
	}
	return Credentials{}, false
}

func (k *keyring) latest() Credentials {
	k.mu.Lock()
	defer k.mu.Unlock()
	return *k.known[k.current]
}

// Credentials returns the newest credentials; those of Env, until
// RenewCredentials.
func (s *Server) Credentials() Credentials { return s.keys.latest() }

// UserCredentials returns the access key of the account's only user.
func (s *Server) UserCredentials() Credentials {
	c, _ := s.keys.find(s.keys.user)
	return c
}

// RenewCredentials gives out new credentials, which Signer uses from then on.
// Those before them stay valid until ExpireCredentials.
func (s *Server) RenewCredentials() Credentials { return s.keys.renew() }

// ExpireCredentials lets all temporary credentials given out so far expire: calls with
// them get ExpiredTokenException, upgrades 403, and data channels that were
// signed with them are cut.
func (s *Server) ExpireCredentials() { s.expireCredentials("") }

// ExpireOldCredentials is ExpireCredentials for all but the newest: what a
// session meets whose role was assumed an hour ago, and has been again.
func (s *Server) ExpireOldCredentials() { s.expireCredentials(s.keys.latest().AccessKeyID) }

func (s *Server) expireCredentials(except string) {
	s.keys.expire(except)
	for _, c := range s.channels() {
		if c.signed {
			c.cut()
		}
	}
}

// Signer returns one that signs with the newest credentials at each call.
func (s *Server) Signer() ssmstream.Signer { return upgradeSigner{s} }

type upgradeSigner struct{ s *Server }

func (u upgradeSigner) SignUpgrade(_ context.Context, r *http.Request) error {
	signRequest(r, nil, "ssmmessages", u.s.cfg.Regions[0], u.s.keys.latest())
	return nil
}

// signRequest adds the headers of a SigV4 signature and leaves the URL alone.
func signRequest(r *http.Request, body []byte, service, region string, c Credentials) {
	now := time.Now().UTC()
	s := &signature{date: now.Format("20060102"), region: region, service: service, time: now}
	r.Header.Set("X-Amz-Date", now.Format(sigTimeFormat))
	r.Header.Set("X-Amz-Security-Token", c.SessionToken)
	if r.Host == "" {
		r.Host = r.URL.Host
	}
	s.signedHeaders = []string{"host"}
	for name := range r.Header {
		if name = strings.ToLower(name); strings.HasPrefix(name, "x-amz-") {
			s.signedHeaders = append(s.signedHeaders, name)
		}
	}
	slices.Sort(s.signedHeaders)
	r.Header.Set("Authorization", sigAlgorithm+
		" Credential="+c.AccessKeyID+"/"+s.date+"/"+region+"/"+service+"/aws4_request"+
		", SignedHeaders="+strings.Join(s.signedHeaders, ";")+
		", Signature="+s.compute(r, body, c.SecretAccessKey))
}

// presign returns raw with a signature in its query that holds for an hour.
func presign(raw, service, region string, c Credentials) string {
	now := time.Now().UTC()
	s := &signature{date: now.Format("20060102"), region: region, service: service, time: now, signedHeaders: []string{"host"}}
	u, err := url.Parse(raw)
	if err != nil {
		panic("ssmtest: " + err.Error()) // made by ourselves
	}
	added := url.Values{
		"X-Amz-Algorithm":      {sigAlgorithm},
		"X-Amz-Credential":     {c.AccessKeyID + "/" + s.date + "/" + region + "/" + service + "/aws4_request"},
		"X-Amz-Date":           {now.Format(sigTimeFormat)},
		"X-Amz-Expires":        {"3600"},
		"X-Amz-SignedHeaders":  {"host"},
		"X-Amz-Security-Token": {c.SessionToken},
	}
	u.RawQuery += "&" + canonicalQuery(added)
	r := &http.Request{Method: http.MethodGet, URL: u, Host: u.Host}
	return u.String() + "&X-Amz-Signature=" + s.compute(r, nil, c.SecretAccessKey)
}

func randomHex(n int) string    { return hex.EncodeToString(randomBytes(n)) }
func randomBase64(n int) string { return base64.StdEncoding.EncodeToString(randomBytes(n)) }

func randomBytes(n int) []byte {
	b := make([]byte, n)
	rand.Read(b) // never fails
	return b
}
