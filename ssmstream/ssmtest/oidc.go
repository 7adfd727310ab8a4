package ssmtest

import (
	"crypto/subtle"
	"encoding/json"
	"io"
	"net/http"
	"slices"
	"strings"
	"time"
)

// oidcClient is what RegisterClient knows of one.
type oidcClient struct {
	secret  string
	refresh bool // registered with the scope that refresh tokens need
	expires time.Time
}

// device is one device authorization (RFC 8628).
type device struct {
	client   string // its ID
	userCode string
	state    deviceState
	expires  time.Time
	interval time.Duration
	polled   time.Time // the latest poll
}

type deviceState int

const (
	devicePending deviceState = iota
	deviceAllowed
	deviceRefused
	deviceDone
)

const (
	deviceGrant      = "urn:ietf:params:oauth:grant-type:device_code"
	accessScope      = "sso:account:access"
	registrationLife = 90 * 24 * time.Hour
)

var oauthErrors = map[string]string{
	"AuthorizationPendingException": "authorization_pending",
	"SlowDownException":             "slow_down",
	"ExpiredTokenException":         "expired_token",
	"AccessDeniedException":         "access_denied",
	"InvalidGrantException":         "invalid_grant",
	"InvalidClientException":        "invalid_client",
	"InvalidRequestException":       "invalid_request",
	"UnsupportedGrantTypeException": "unsupported_grant_type",
}

// oidcInput is the input of all three calls together.
type oidcInput struct {
	ClientName   string   `json:"clientName"`
	ClientType   string   `json:"clientType"`
	Scopes       []string `json:"scopes"`
	ClientID     string   `json:"clientId"`
	ClientSecret string   `json:"clientSecret"`
	StartURL     string   `json:"startUrl"`
	GrantType    string   `json:"grantType"`
	DeviceCode   string   `json:"deviceCode"`
	RefreshToken string   `json:"refreshToken"`
}

// serveOIDC answers one call of SSO OIDC. None of them is signed.
func (s *Server) serveOIDC(name string, call func(*Server, *oidcInput) (any, *CallError)) http.HandlerFunc {
	return func(w http.ResponseWriter, r *http.Request) {
		body, err := io.ReadAll(http.MaxBytesReader(w, r.Body, maxBody))
		if err != nil {
			http.Error(w, err.Error(), http.StatusBadRequest)
			return
		}
		var in oidcInput
		var out any
		failure := s.failures.next(name)
		if failure == nil && json.Unmarshal(body, &in) != nil {
			failure = &CallError{Code: "InvalidRequestException", Message: "Invalid request"}
		}
		if failure == nil {
			out, failure = call(s, &in)
		}
		s.countCall(name, failure)
		writeREST(w, out, failure)
	}
}

func (s *Server) registerClient(in *oidcInput) (any, *CallError) {
	if in.ClientName == "" || in.ClientType != "public" {
		return nil, &CallError{Code: "InvalidClientMetadataException", Message: "Invalid client metadata"}
	}
	s.signIns.mu.Lock()
	defer s.signIns.mu.Unlock()
	id, client := s.signIns.register(slices.Contains(in.Scopes, accessScope))
	return map[string]any{
		"clientId": id, "clientSecret": client.secret,
		"clientIdIssuedAt": time.Now().Unix(), "clientSecretExpiresAt": client.expires.Unix(),
	}, nil
}

// register makes a client. The caller holds mu.
func (si *signIns) register(refresh bool) (string, oidcClient) {
	id := randomHex(11)
	si.clients[id] = oidcClient{randomBase64(60), refresh, time.Now().Add(registrationLife)}
	return id, si.clients[id]
}

// known returns the client that a request is from. The caller holds mu.
func (si *signIns) known(in *oidcInput) (oidcClient, *CallError) {
	c, ok := si.clients[in.ClientID]
	if !ok || subtle.ConstantTimeCompare([]byte(c.secret), []byte(in.ClientSecret)) == 0 {
		return c, &CallError{Code: "InvalidClientException", Message: "Invalid client", Status: http.StatusUnauthorized}
	}
	return c, nil
}

func (s *Server) startDeviceAuthorization(in *oidcInput) (any, *CallError) {
	si := &s.signIns
	si.mu.Lock()
	defer si.mu.Unlock()
	if _, failure := si.known(in); failure != nil {
		return nil, failure
	}
	if in.StartURL != s.SSOStartURL() {
		return nil, &CallError{Code: "InvalidRequestException", Message: "Invalid start URL"}
	}
	letters := strings.ToUpper(randomHex(4))
	d := &device{
		client:   in.ClientID,
		userCode: letters[:4] + "-" + letters[4:],
		expires:  time.Now().Add(s.cfg.DeviceLifetime),
		interval: time.Second,
	}
	code := randomHex(16)
	si.devices[code] = d
	close(si.changed)
	si.changed = make(chan struct{})
	page := s.URL() + "/device"
	return map[string]any{
		"deviceCode": code, "userCode": d.userCode,
		"verificationUri": page, "verificationUriComplete": page + "?user_code=" + d.userCode,
		"expiresIn": int(s.cfg.DeviceLifetime.Seconds()), "interval": int(d.interval.Seconds()),
	}, nil
}

func (s *Server) createToken(in *oidcInput) (any, *CallError) {
	si := &s.signIns
	si.mu.Lock()
	defer si.mu.Unlock()
	client, failure := si.known(in)
	if failure != nil {
		return nil, failure
	}
	switch in.GrantType {
	case deviceGrant:
		failure = si.poll(in)
	case "refresh_token":
		if si.refresh[in.RefreshToken] != in.ClientID {
			failure = &CallError{Code: "InvalidGrantException", Message: "Invalid refresh token provided"}
		}
		delete(si.refresh, in.RefreshToken) // each is good once
	default:
		failure = &CallError{Code: "UnsupportedGrantTypeException", Message: "Unsupported grant type"}
	}
	if failure != nil {
		return nil, failure
	}
	t := si.token(in.ClientID, client, s.cfg.SignInLifetime)
	out := map[string]any{"accessToken": t.AccessToken, "tokenType": "Bearer", "expiresIn": int(s.cfg.SignInLifetime.Seconds())}
	if t.RefreshToken != "" {
		out["refreshToken"] = t.RefreshToken
	}
	return out, nil
}

// poll says whether the device has been allowed. The caller holds mu.
func (si *signIns) poll(in *oidcInput) *CallError {
	d := si.devices[in.DeviceCode]
	now := time.Now()
	switch {
	case d == nil || d.client != in.ClientID || d.state == deviceDone:
		return &CallError{Code: "InvalidGrantException", Message: "Invalid grant provided"}
	case now.After(d.expires):
		return &CallError{Code: "ExpiredTokenException", Message: "Device code has expired"}
	case now.Sub(d.polled) < d.interval*9/10:
		d.interval += 5 * time.Second // RFC 8628, section 3.5
		return &CallError{Code: "SlowDownException", Message: "Slow down to avoid throttling"}
	}
	d.polled = now
	switch d.state {
	case deviceRefused:
		return &CallError{Code: "AccessDeniedException", Message: "Access denied"}
	case devicePending:
		return &CallError{Code: "AuthorizationPendingException", Message: "The authorization request is still pending"}
	}
	d.state = deviceDone
	return nil
}

// token gives out an access token. The caller holds mu.
func (si *signIns) token(id string, c oidcClient, life time.Duration) SignIn {
	t := SignIn{
		AccessToken: randomBase64(90), ExpiresAt: time.Now().Add(life).UTC(),
		ClientID: id, ClientSecret: c.secret, RegistrationExpiresAt: c.expires.UTC(),
	}
	si.access[t.AccessToken] = t.ExpiresAt
	if c.refresh {
		t.RefreshToken = randomBase64(90)
		si.refresh[t.RefreshToken] = id
	}
	return t
}
