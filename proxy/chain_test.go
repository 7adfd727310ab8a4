//go:build unix

package proxy

import (
	"crypto/sha256"
	"encoding/hex"
	"encoding/json"
	"fmt"
	"net/http"
	"net/http/httptest"
	"testing"
	"time"

	"ssmproxy/ssmstream/ssmtest"
)

// answering is a source of credentials on loopback, without TLS, as container
// and instance have it.
func answering(t *testing.T, handler http.HandlerFunc) string {
	t.Helper()
	srv := httptest.NewServer(handler)
	t.Cleanup(srv.Close)
	return srv.URL
}

func keysJSON(c ssmtest.Credentials) string {
	out, err := json.Marshal(map[string]string{
		"Code": "Success", "AccessKeyId": c.AccessKeyID, "SecretAccessKey": c.SecretAccessKey, "Token": c.SessionToken,
		"Expiration": time.Now().Add(time.Hour).UTC().Format(time.RFC3339),
	})
	if err != nil {
		panic(err)
	}
	return string(out)
}

func TestCredentialsOfAContainer(t *testing.T) {
	t.Parallel()
	m := newMachine(t, ssmtest.Config{})
	url := answering(t, func(w http.ResponseWriter, r *http.Request) {
		if r.Header.Get("Authorization") != "token" {
			http.Error(w, "no", http.StatusForbidden)
			return
		}
		fmt.Fprint(w, keysJSON(m.service.Credentials()))
	})
	start(t, append(m.env, "AWS_REGION="+m.service.Region(),
		"AWS_CONTAINER_CREDENTIALS_FULL_URI="+url, "AWS_CONTAINER_AUTHORIZATION_TOKEN=token"), instance).works()
}

func TestCredentialsOfTheInstanceMetadataService(t *testing.T) {
	t.Parallel()
	m := newMachine(t, ssmtest.Config{})
	url := answering(t, func(w http.ResponseWriter, r *http.Request) {
		const role = "/latest/meta-data/iam/security-credentials/"
		switch {
		case r.Method == http.MethodPut && r.URL.Path == "/latest/api/token":
			w.Header().Set("X-Aws-Ec2-Metadata-Token-Ttl-Seconds", "300")
			fmt.Fprint(w, "token")
		case r.Header.Get("X-Aws-Ec2-Metadata-Token") != "token":
			http.Error(w, "no", http.StatusUnauthorized)
		case r.URL.Path == role:
			fmt.Fprint(w, "Worker")
		case r.URL.Path == role+"Worker":
			fmt.Fprint(w, keysJSON(m.service.Credentials()))
		default:
			http.NotFound(w, r)
		}
	})
	start(t, append(m.env, "AWS_REGION="+m.service.Region(), "AWS_EC2_METADATA_DISABLED=false",
		"AWS_EC2_METADATA_SERVICE_ENDPOINT="+url), instance).works()
}

func TestCredentialsByWebIdentity(t *testing.T) {
	t.Parallel()
	m := newMachine(t, ssmtest.Config{})
	start(t, append(m.env, "AWS_REGION="+m.service.Region(), "AWS_ROLE_ARN=arn:aws:iam::123456789012:role/Deploy",
		"AWS_ROLE_SESSION_NAME=pod", "AWS_WEB_IDENTITY_TOKEN_FILE="+m.write("token", m.service.WebIdentityToken())), instance).works()
}

func TestCredentialsOfAProcess(t *testing.T) {
	t.Parallel()
	m := newMachine(t, ssmtest.Config{})
	c := m.service.Credentials()
	m.write("keys", fmt.Sprintf(`{"Version": 1, "AccessKeyId": %q, "SecretAccessKey": %q, "SessionToken": %q}`, c.AccessKeyID, c.SecretAccessKey, c.SessionToken))
	m.write(".aws/config", "[profile process]\nregion = "+m.service.Region()+"\ncredential_process = cat "+m.home+"/keys\n")
	start(t, append(m.env, "AWS_PROFILE=process"), instance).works()
}

// As aws login keeps them, ~/.aws/login/cache, while they are good.
func TestCredentialsOfAWSLogin(t *testing.T) {
	t.Parallel()
	m := newMachine(t, ssmtest.Config{})
	const session = "arn:aws:iam::123456789012:user/demo"
	c := m.service.Credentials()
	name := sha256.Sum256([]byte(session))
	m.write(".aws/login/cache/"+hex.EncodeToString(name[:])+".json", fmt.Sprintf(`{"accessToken": {"accessKeyId": %q, "secretAccessKey": %q, "sessionToken": %q, `+
		`"accountId": "123456789012", "expiresAt": %q}, "clientId": "arn:aws:signin:::devtools/same-device", "refreshToken": "x", "dpopKey": "x", "tokenType": "aws_sigv4"}`,
		c.AccessKeyID, c.SecretAccessKey, c.SessionToken, time.Now().Add(10*time.Minute).UTC().Format(time.RFC3339)))
	m.write(".aws/config", "[profile login]\nregion = "+m.service.Region()+"\nlogin_session = "+session+"\n")
	start(t, append(m.env, "AWS_PROFILE=login"), instance).works()
}

func TestRoleOfTheEnvironmentsKeys(t *testing.T) {
	t.Parallel()
	m := newMachine(t, ssmtest.Config{})
	c := m.service.UserCredentials()
	m.write(".aws/config", "[profile env]\nregion = "+m.service.Region()+"\nrole_arn = arn:aws:iam::123456789012:role/Deploy\ncredential_source = Environment\n")
	env := append(m.env, "AWS_ACCESS_KEY_ID="+c.AccessKeyID, "AWS_SECRET_ACCESS_KEY="+c.SecretAccessKey)
	start(t, env, "--profile", "env", instance).works()
	start(t, env, "--profile", "env", instance).works()
	m.expectCalls("AssumeRole", 1)
}
