package ssmtest

import (
	"crypto/subtle"
	"encoding/xml"
	"io"
	"mime"
	"net/http"
	"net/url"
	"regexp"
	"slices"
	"strconv"
	"strings"
	"time"

	"ssmproxy/ssmstream"
)

// stsNamespace is that of STS's only API version.
const stsNamespace = "https://sts.amazonaws.com/doc/2011-06-15/"

// queryCalls are STS's actions, in the AWS query protocol: a form goes in, XML
// comes out.
var queryCalls = map[string]func(s *Server, caller *Credentials, in url.Values) (any, *CallError){
	"AssumeRole":                (*Server).callAssumeRole,
	"AssumeRoleWithWebIdentity": (*Server).callAssumeRoleWithWebIdentity,
	"GetCallerIdentity":         (*Server).callGetCallerIdentity,
}

// isQuery tells a call of the query protocol from one of JSON.
func isQuery(r *http.Request) bool {
	kind, _, _ := mime.ParseMediaType(r.Header.Get("Content-Type"))
	return kind == "application/x-www-form-urlencoded"
}

// serveQuery answers one request of the AWS query protocol.
func (s *Server) serveQuery(w http.ResponseWriter, r *http.Request) {
	body, err := io.ReadAll(http.MaxBytesReader(w, r.Body, maxBody))
	if err != nil {
		http.Error(w, err.Error(), http.StatusBadRequest)
		return
	}
	in, err := url.ParseQuery(string(body))
	if err != nil {
		http.Error(w, err.Error(), http.StatusBadRequest)
		return
	}
	name := in.Get("Action")
	out, failure := s.answerQuery(r, name, body, in)
	s.countCall(name, failure)
	writeXML(w, name, out, queryError(failure))
}

func (s *Server) answerQuery(r *http.Request, name string, body []byte, in url.Values) (any, *CallError) {
	call, known := queryCalls[name]
	if !known || in.Get("Version") != "2011-06-15" {
		return nil, &CallError{Code: "InvalidAction", Message: "Could not find operation " + name + " for version " + in.Get("Version")}
	}
	sig, failure := parseSignature(r)
	if failure != nil {
		return nil, failure
	}
	var caller *Credentials
	switch {
	case sig != nil:
		if caller, failure = sig.verify(r, body, "sts", s.cfg.Regions, &s.keys); failure != nil {
			return nil, failure
		}
	case name != "AssumeRoleWithWebIdentity": // its token is enough
		return nil, errNoSignature
	}
	if failure := s.failures.next(name); failure != nil {
		return nil, failure
	}
	return call(s, caller, in)
}

// queryError words the common front end's errors as the query services do.
func queryError(e *CallError) *CallError {
	if e == nil {
		return nil
	}
	out := *e
	switch e.Code {
	case "ExpiredTokenException":
		out.Code = "ExpiredToken"
	case "UnrecognizedClientException":
		out.Code = "InvalidClientTokenId"
	case "InvalidSignatureException":
		out.Code = "SignatureDoesNotMatch"
	case "MissingAuthenticationTokenException":
		out.Code = "MissingAuthenticationToken"
	case "AccessDeniedException":
		out.Code = "AccessDenied"
	}
	if out.Status == 0 && out.Code != "ValidationError" && out.Code != "InvalidAction" {
		out.Status = http.StatusForbidden
	}
	return &out
}

func writeXML(w http.ResponseWriter, name string, out any, failure *CallError) {
	type metadata struct {
		RequestID string `xml:"RequestId"`
	}
	request := ssmstream.NewUUID().String()
	status := http.StatusOK
	var answer any
	if failure == nil {
		answer = struct {
			XMLName  xml.Name
			Result   any
			Metadata metadata `xml:"ResponseMetadata"`
		}{xml.Name{Space: stsNamespace, Local: name + "Response"}, out, metadata{request}}
	} else {
		if status = failure.Status; status == 0 {
			status = http.StatusBadRequest
		}
		type detail struct{ Type, Code, Message string }
		answer = struct {
			XMLName   xml.Name
			Error     detail
			RequestID string `xml:"RequestId"`
		}{xml.Name{Space: stsNamespace, Local: "ErrorResponse"}, detail{"Sender", failure.Code, failure.Message}, request}
	}
	w.Header().Set("Content-Type", "text/xml")
	w.Header().Set("X-Amzn-Requestid", request)
	w.WriteHeader(status)
	xml.NewEncoder(w).Encode(answer)
}

var (
	anyRole        = regexp.MustCompile(`^arn:aws:iam::` + accountID + `:role/([\w+=,.@-]{1,64})$`)
	anySessionName = regexp.MustCompile(`^[\w+=,.@-]{2,64}$`)
)

type assumeRoleResult struct {
	XMLName         xml.Name
	AssumedRoleUser struct {
		AssumedRoleID string `xml:"AssumedRoleId"`
		Arn           string
	}
	Credentials struct {
		AccessKeyID     string `xml:"AccessKeyId"`
		SecretAccessKey string
		SessionToken    string
		Expiration      string
	}
}

func (s *Server) callAssumeRole(caller *Credentials, in url.Values) (any, *CallError) {
	role, name := anyRole.FindStringSubmatch(in.Get("RoleArn")), in.Get("RoleSessionName")
	if !anySessionName.MatchString(name) {
		return nil, &CallError{Code: "ValidationError", Message: "1 validation error detected: Value '" + name + "' at 'roleSessionName' failed to satisfy constraint: Member must satisfy regular expression pattern: [\\w+=,.@-]*"}
	}
	denied := &CallError{Code: "AccessDenied", Message: "User: " + caller.arn + " is not authorized to perform: sts:AssumeRole on resource: " + in.Get("RoleArn")}
	if role == nil || s.permit("sts:AssumeRole", in.Get("RoleArn")) != nil {
		return nil, denied
	}
	lifetime := s.cfg.RoleLifetime
	if text := in.Get("DurationSeconds"); text != "" {
		seconds, err := strconv.Atoi(text)
		if err != nil || seconds < 900 || seconds > 43200 {
			return nil, &CallError{Code: "ValidationError", Message: "1 validation error detected: Value '" + text + "' at 'durationSeconds' failed to satisfy constraint: Member must have value greater than or equal to 900"}
		}
		lifetime = min(lifetime, time.Duration(seconds)*time.Second)
	}
	serial, code := in.Get("SerialNumber"), in.Get("TokenCode")
	if serial != "" || code != "" {
		if failure := s.mfa.verify(serial, code); failure != nil {
			return nil, failure
		}
	} else if slices.Contains(s.cfg.MFARoles, role[1]) {
		return nil, denied
	}
	return s.assume("AssumeRoleResult", role[1], name, lifetime), nil
}

// assume gives out the credentials of a role.
func (s *Server) assume(result, role, name string, lifetime time.Duration) assumeRoleResult {
	out := assumeRoleResult{XMLName: xml.Name{Local: result}}
	out.AssumedRoleUser.AssumedRoleID = "AROA" + strings.ToUpper(randomHex(8)) + ":" + name
	out.AssumedRoleUser.Arn = "arn:aws:sts::" + accountID + ":assumed-role/" + role + "/" + name
	given := s.keys.issue(out.AssumedRoleUser.Arn, lifetime)
	out.Credentials.AccessKeyID = given.AccessKeyID
	out.Credentials.SecretAccessKey = given.SecretAccessKey
	out.Credentials.SessionToken = given.SessionToken
	out.Credentials.Expiration = given.expires.Format("2006-01-02T15:04:05Z")
	return out
}

// WebIdentityToken is a token of the account's identity provider, for
// AssumeRoleWithWebIdentity.
func (s *Server) WebIdentityToken() string { return s.webIdentity }

func (s *Server) callAssumeRoleWithWebIdentity(_ *Credentials, in url.Values) (any, *CallError) {
	role := anyRole.FindStringSubmatch(in.Get("RoleArn"))
	if role == nil {
		return nil, &CallError{Code: "AccessDenied", Message: "Not authorized to perform sts:AssumeRoleWithWebIdentity"}
	}
	if subtle.ConstantTimeCompare([]byte(in.Get("WebIdentityToken")), []byte(s.webIdentity)) == 0 {
		return nil, &CallError{Code: "InvalidIdentityToken", Message: "The ID Token provided is not a valid JWT. (You may see this error if you sent an Access Token)", Status: http.StatusBadRequest}
	}
	return s.assume("AssumeRoleWithWebIdentityResult", role[1], in.Get("RoleSessionName"), s.cfg.RoleLifetime), nil
}

func (s *Server) callGetCallerIdentity(caller *Credentials, _ url.Values) (any, *CallError) {
	return struct {
		XMLName xml.Name `xml:"GetCallerIdentityResult"`
		Arn     string
		UserID  string `xml:"UserId"`
		Account string
	}{Arn: caller.arn, UserID: caller.AccessKeyID, Account: accountID}, nil
}
