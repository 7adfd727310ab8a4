package ssmtest

import (
	"crypto/hmac"
	"crypto/sha256"
	"crypto/subtle"
	"encoding/hex"
	"net/http"
	"net/url"
	"slices"
	"strconv"
	"strings"
	"time"
)

const (
	sigAlgorithm  = "AWS4-HMAC-SHA256"
	sigTimeFormat = "20060102T150405Z"
	sigClockSkew  = 5 * time.Minute
)

// signature is what a request says about its SigV4 signature, in its
// Authorization header or, presigned, in its query.
type signature struct {
	accessKeyID   string
	date          string // of the scope, YYYYMMDD
	region        string
	service       string
	signedHeaders []string
	signature     string
	time          time.Time
	token         string
	expires       time.Duration // of a presigned request, otherwise 0
}

// Errors of the services' common front end, in its words.
var (
	errNoSignature    = &CallError{Code: "MissingAuthenticationTokenException", Message: "Request is missing Authentication Token"}
	errIncomplete     = &CallError{Code: "IncompleteSignatureException", Message: "Authorization header requires 'Credential', 'SignedHeaders' and 'Signature' parameters."}
	errUnknownToken   = &CallError{Code: "UnrecognizedClientException", Message: "The security token included in the request is invalid."}
	errExpiredToken   = &CallError{Code: "ExpiredTokenException", Message: "The security token included in the request is expired"}
	errWrongSignature = &CallError{Code: "InvalidSignatureException", Message: "The request signature we calculated does not match the signature you provided. Check your AWS Secret Access Key and signing method. Consult the service documentation for details."}
)

// parseSignature finds the request's signature. It returns nil and no error
// where there is none.
func parseSignature(r *http.Request) (*signature, *CallError) {
	if q := r.URL.Query(); q.Has("X-Amz-Signature") {
		seconds, err := strconv.Atoi(q.Get("X-Amz-Expires"))
		if err != nil || q.Get("X-Amz-Algorithm") != sigAlgorithm {
			return nil, errIncomplete
		}
		s := &signature{
			signedHeaders: strings.Split(q.Get("X-Amz-SignedHeaders"), ";"),
			signature:     q.Get("X-Amz-Signature"),
			token:         q.Get("X-Amz-Security-Token"),
			expires:       time.Duration(seconds) * time.Second,
		}
		return s, s.parse(q.Get("X-Amz-Credential"), q.Get("X-Amz-Date"))
	}
	auth := r.Header.Get("Authorization")
	if auth == "" {
		return nil, nil
	}
	fields, ok := strings.CutPrefix(auth, sigAlgorithm+" ")
	if !ok {
		return nil, errIncomplete
	}
	s := &signature{token: r.Header.Get("X-Amz-Security-Token")}
	credential := ""
	for field := range strings.SplitSeq(fields, ",") {
		name, value, _ := strings.Cut(strings.TrimSpace(field), "=")
		switch name {
		case "Credential":
			credential = value
		case "SignedHeaders":
			s.signedHeaders = strings.Split(value, ";")
		case "Signature":
			s.signature = value
		}
	}
	if credential == "" || s.signature == "" || s.signedHeaders == nil {
		return nil, errIncomplete
	}
	return s, s.parse(credential, r.Header.Get("X-Amz-Date"))
}

// parse reads the credential scope and the time of signing.
func (s *signature) parse(credential, date string) *CallError {
	scope := strings.Split(credential, "/")
	if len(scope) != 5 || scope[4] != "aws4_request" {
		return &CallError{Code: "IncompleteSignatureException", Message: "Credential must have exactly 5 slash-delimited elements, e.g. keyid/date/region/service/term"}
	}
	s.accessKeyID, s.date, s.region, s.service = scope[0], scope[1], scope[2], scope[3]
	t, err := time.Parse(sigTimeFormat, date)
	if err != nil {
		return &CallError{Code: "IncompleteSignatureException", Message: "Date must be in ISO-8601 'basic format'"}
	}
	s.time = t
	return nil
}

// verify recomputes the signature from what the server knows and what the
// request is, and returns whose it is.
func (s *signature) verify(r *http.Request, body []byte, service string, regions []string, keys *keyring) (*Credentials, *CallError) {
	now := time.Now().UTC()
	switch {
	case s.service != service:
		return nil, &CallError{Code: "InvalidSignatureException", Message: "Credential should be scoped to correct service: '" + service + "'."}
	case !slices.Contains(regions, s.region):
		return nil, &CallError{Code: "InvalidSignatureException", Message: "Credential should be scoped to a valid region."}
	case s.date != s.time.Format("20060102"):
		return nil, &CallError{Code: "InvalidSignatureException", Message: "Date in Credential scope does not match YYYYMMDD from ISO-8601 version of date from HTTP"}
	case now.After(s.time.Add(max(s.expires, sigClockSkew))):
		return nil, &CallError{Code: "InvalidSignatureException", Message: "Signature expired: " + s.time.Format(sigTimeFormat) + " is now earlier than " + now.Add(-sigClockSkew).Format(sigTimeFormat)}
	case s.time.After(now.Add(sigClockSkew)):
		return nil, &CallError{Code: "InvalidSignatureException", Message: "Signature not yet current: " + s.time.Format(sigTimeFormat) + " is still later than " + now.Add(sigClockSkew).Format(sigTimeFormat)}
	}
	if missing := s.unsigned(r); missing != "" {
		return nil, &CallError{Code: "InvalidSignatureException", Message: "'" + missing + "' must be a 'SignedHeader' in the AWS Authorization."}
	}
	c, known := keys.find(s.accessKeyID)
	if !known || subtle.ConstantTimeCompare([]byte(s.token), []byte(c.SessionToken)) == 0 {
		return nil, errUnknownToken
	}
	want := s.compute(r, body, c.SecretAccessKey)
	if subtle.ConstantTimeCompare([]byte(want), []byte(s.signature)) == 0 {
		return nil, errWrongSignature
	}
	if c.expired || !c.expires.IsZero() && now.After(c.expires) {
		return nil, errExpiredToken
	}
	return &c, nil
}

// unsigned returns a header that must be signed and is not.
func (s *signature) unsigned(r *http.Request) string {
	if !slices.Contains(s.signedHeaders, "host") {
		return "host"
	}
	for name := range r.Header {
		name = strings.ToLower(name)
		if strings.HasPrefix(name, "x-amz-") && !slices.Contains(s.signedHeaders, name) {
			return name
		}
	}
	return ""
}

// compute is the signature that the request should have, by the four steps of
// the SigV4 documentation.
func (s *signature) compute(r *http.Request, body []byte, secret string) string {
	payload := sha256.Sum256(body)
	canonical := strings.Join([]string{
		r.Method,
		canonicalPath(r.URL),
		canonicalQuery(r.URL.Query()),
		canonicalHeaders(r, s.signedHeaders),
		strings.Join(s.signedHeaders, ";"),
		hex.EncodeToString(payload[:]),
	}, "\n")
	digest := sha256.Sum256([]byte(canonical))
	toSign := strings.Join([]string{
		sigAlgorithm,
		s.time.Format(sigTimeFormat),
		strings.Join([]string{s.date, s.region, s.service, "aws4_request"}, "/"),
		hex.EncodeToString(digest[:]),
	}, "\n")
	key := []byte("AWS4" + secret)
	for _, part := range []string{s.date, s.region, s.service, "aws4_request"} {
		key = mac(key, part)
	}
	return hex.EncodeToString(mac(key, toSign))
}

func mac(key []byte, text string) []byte {
	h := hmac.New(sha256.New, key)
	h.Write([]byte(text))
	return h.Sum(nil)
}

// canonicalPath is the path as it was sent, encoded once more, as every
// service but S3 does it.
func canonicalPath(u *url.URL) string {
	path := u.EscapedPath()
	if path == "" {
		return "/"
	}
	return awsEscape(path, true)
}

// canonicalQuery decodes as AWS's own Go signers do: a plus is a space. The
// live service agrees, whose StreamUrls have bare pluses in them.
func canonicalQuery(q url.Values) string {
	var pairs []string
	for name, values := range q {
		if name == "X-Amz-Signature" {
			continue
		}
		for _, value := range values {
			pairs = append(pairs, awsEscape(name, false)+"="+awsEscape(value, false))
		}
	}
	slices.Sort(pairs)
	return strings.Join(pairs, "&")
}

func canonicalHeaders(r *http.Request, names []string) string {
	var b strings.Builder
	for _, name := range names {
		var value string
		switch name {
		case "host":
			value = r.Host
		case "content-length":
			value = strconv.FormatInt(r.ContentLength, 10)
		default:
			var values []string
			for _, v := range r.Header.Values(name) {
				values = append(values, strings.Join(strings.Fields(v), " "))
			}
			value = strings.Join(values, ",")
		}
		b.WriteString(name + ":" + value + "\n")
	}
	return b.String()
}

// awsEscape percent-encodes all but RFC 3986's unreserved characters.
func awsEscape(s string, keepSlash bool) string {
	const hexDigits = "0123456789ABCDEF"
	var b strings.Builder
	for i := range len(s) {
		c := s[i]
		switch {
		case 'a' <= c && c <= 'z', 'A' <= c && c <= 'Z', '0' <= c && c <= '9',
			c == '-', c == '_', c == '.', c == '~', c == '/' && keepSlash:
			b.WriteByte(c)
		default:
			b.WriteByte('%')
			b.WriteByte(hexDigits[c>>4])
			b.WriteByte(hexDigits[c&15])
		}
	}
	return b.String()
}
