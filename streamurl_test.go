package main

import (
	"encoding/json"
	"encoding/pem"
	"net/http"
	"net/http/httptest"
	"os"
	"os/exec"
	"path/filepath"
	"strings"
	"sync"
	"testing"
)

func TestStreamURLThatIsNotWSSIsRefused(t *testing.T) {
	t.Parallel()
	bin, err := binary()
	if err != nil {
		t.Fatal(err)
	}
	const token = "AAEAAsecret"
	var mu sync.Mutex
	var calls []string // guarded by mu
	service := httptest.NewTLSServer(http.HandlerFunc(func(rw http.ResponseWriter, r *http.Request) {
		_, action, _ := strings.Cut(r.Header.Get("X-Amz-Target"), ".")
		mu.Lock()
		calls = append(calls, r.Method+" "+action)
		mu.Unlock()
		answer := map[string]string{"SessionId": "me-0123456789abcdef0"}
		if action == "StartSession" {
			answer["StreamUrl"] = "ws://" + r.Host + "/v1/data-channel/me-0123456789abcdef0?role=publish_subscribe"
			answer["TokenValue"] = token
		}
		rw.Header().Set("Content-Type", "application/x-amz-json-1.1")
		json.NewEncoder(rw).Encode(answer)
	}))
	t.Cleanup(service.Close)
	home := t.TempDir()
	bundle := filepath.Join(home, "ca.pem")
	if err := os.WriteFile(bundle, pem.EncodeToMemory(&pem.Block{Type: "CERTIFICATE", Bytes: service.Certificate().Raw}), 0o600); err != nil {
		t.Fatal(err)
	}

	cmd := exec.Command(bin, "i-0123456789abcdef0")
	cmd.Env = []string{
		"HOME=" + home, "AWS_REGION=eu-central-1", "AWS_ACCESS_KEY_ID=AKIAIOSFODNN7EXAMPLE", "AWS_SECRET_ACCESS_KEY=x",
		"AWS_ENDPOINT_URL_SSM=" + service.URL, "AWS_CA_BUNDLE=" + bundle, "AWS_EC2_METADATA_DISABLED=true",
	}
	cmd.Stdin = strings.NewReader("SSH-2.0-test\r\n")
	var stdout, stderr strings.Builder
	cmd.Stdout, cmd.Stderr = &stdout, &stderr
	err = cmd.Run()
	if cmd.ProcessState.ExitCode() != 1 {
		t.Errorf("ended with %v, want status 1", err)
	}
	if stdout.Len() > 0 || !strings.Contains(stderr.String(), "wss") || strings.Contains(stderr.String(), token) {
		t.Errorf("stdout %q, stderr %q; want an error that names wss and not the token", stdout.String(), stderr.String())
	}
	mu.Lock()
	defer mu.Unlock()
	if got := strings.Join(calls, ", "); got != "POST StartSession, POST TerminateSession" {
		t.Errorf("the calls were %s; want the session to be started and ended, and no upgrade", got)
	}
}
