package ssmtest

import (
	"context"
	"encoding/json"
	"net/http"
	"sync"
	"time"

	"ssmproxy/ssmstream"
)

// ssoRole is the role that the user has by single sign-on.
const ssoRole = "Developer"

// SignIn is what signing in to SSO gives: what the AWS CLI keeps in
// ~/.aws/sso/cache.
type SignIn struct {
	AccessToken  string
	ExpiresAt    time.Time
	RefreshToken string // empty where the client registered without scopes

	ClientID              string
	ClientSecret          string
	RegistrationExpiresAt time.Time
}

// signIns is the state of SSO and of its OIDC service.
type signIns struct {
	mu      sync.Mutex
	clients map[string]oidcClient // by ID
	devices map[string]*device    // by device code
	access  map[string]time.Time  // when the access tokens expire
	refresh map[string]string     // whose the refresh tokens are: client IDs
	changed chan struct{}         // closed and replaced when a device authorization begins
}

func (si *signIns) init() {
	si.clients = make(map[string]oidcClient)
	si.devices = make(map[string]*device)
	si.access = make(map[string]time.Time)
	si.refresh = make(map[string]string)
	si.changed = make(chan struct{})
}

// SSOStartURL is the address of the portal, as it stands in a profile.
func (s *Server) SSOStartURL() string { return s.URL() + "/start" }

// SignIn signs in as a person would with aws sso login.
func (s *Server) SignIn() SignIn {
	si := &s.signIns
	si.mu.Lock()
	defer si.mu.Unlock()
	id, client := si.register(true)
	return si.token(id, client, s.cfg.SignInLifetime)
}

// ExpireSignIns lets all access tokens expire; the service does not accept
// them any more. Refresh tokens stay good.
func (s *Server) ExpireSignIns() {
	s.signIns.mu.Lock()
	defer s.signIns.mu.Unlock()
	clear(s.signIns.access)
}

// EndSignIns ends every SSO session: no access or refresh token is good any more.
func (s *Server) EndSignIns() {
	s.signIns.mu.Lock()
	defer s.signIns.mu.Unlock()
	clear(s.signIns.access)
	clear(s.signIns.refresh)
}

// AwaitSignIn waits for a device authorization that nobody has answered, and
// returns its user code.
func (s *Server) AwaitSignIn(ctx context.Context) (userCode string, err error) {
	si := &s.signIns
	for {
		si.mu.Lock()
		changed := si.changed
		for _, d := range si.devices {
			if d.state == devicePending {
				userCode = d.userCode
			}
		}
		si.mu.Unlock()
		if userCode != "" {
			return userCode, nil
		}
		select {
		case <-changed:
		case <-ctx.Done():
			return "", ctx.Err()
		}
	}
}

// AnswerSignIn is what the person does in the browser: allow or refuse the
// device that shows the user code. It reports whether there is one.
func (s *Server) AnswerSignIn(userCode string, allow bool) bool {
	si := &s.signIns
	si.mu.Lock()
	defer si.mu.Unlock()
	for _, d := range si.devices {
		if d.userCode == userCode && d.state == devicePending {
			d.state = deviceRefused
			if allow {
				d.state = deviceAllowed
			}
			return true
		}
	}
	return false
}

// serveRoleCredentials is GetRoleCredentials, which is not signed: the access
// token is what counts.
func (s *Server) serveRoleCredentials(w http.ResponseWriter, r *http.Request) {
	out, failure := s.roleCredentials(r)
	s.countCall("GetRoleCredentials", failure)
	writeREST(w, out, failure)
}

func (s *Server) roleCredentials(r *http.Request) (any, *CallError) {
	if failure := s.failures.next("GetRoleCredentials"); failure != nil {
		return nil, failure
	}
	s.signIns.mu.Lock()
	expires, known := s.signIns.access[r.Header.Get("X-Amz-Sso_bearer_token")]
	s.signIns.mu.Unlock()
	if !known || time.Now().After(expires) {
		return nil, &CallError{Code: "UnauthorizedException", Message: "Session token not found or invalid", Status: http.StatusUnauthorized}
	}
	q := r.URL.Query()
	if q.Get("account_id") != accountID || q.Get("role_name") != ssoRole {
		return nil, &CallError{Code: "ForbiddenException", Message: "No access", Status: http.StatusForbidden}
	}
	c := s.keys.issue("arn:aws:sts::"+accountID+":assumed-role/AWSReservedSSO_"+ssoRole+"_0123456789abcdef/"+sessionName, s.cfg.RoleLifetime)
	type credentials struct {
		AccessKeyID     string `json:"accessKeyId"`
		SecretAccessKey string `json:"secretAccessKey"`
		SessionToken    string `json:"sessionToken"`
		Expiration      int64  `json:"expiration"` // ms since 1970
	}
	return struct {
		RoleCredentials credentials `json:"roleCredentials"`
	}{credentials{c.AccessKeyID, c.SecretAccessKey, c.SessionToken, c.expires.UnixMilli()}}, nil
}

// writeREST answers in the REST JSON protocol. OIDC's errors have their OAuth
// names beside AWS's (RFC 6749, section 5.2; RFC 8628, section 3.5).
func writeREST(w http.ResponseWriter, out any, failure *CallError) {
	w.Header().Set("Content-Type", "application/json")
	w.Header().Set("X-Amzn-Requestid", ssmstream.NewUUID().String())
	if failure != nil {
		status := failure.Status
		if status == 0 {
			status = http.StatusBadRequest
		}
		w.Header().Set("X-Amzn-Errortype", failure.Code)
		w.WriteHeader(status)
		answer := map[string]string{"__type": failure.Code, "message": failure.Message}
		if name := oauthErrors[failure.Code]; name != "" {
			answer = map[string]string{"error": name, "error_description": failure.Message}
		}
		json.NewEncoder(w).Encode(answer)
		return
	}
	json.NewEncoder(w).Encode(out)
}
