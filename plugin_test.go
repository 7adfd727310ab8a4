//go:build unix

package main

import (
	"bytes"
	"encoding/json"
	"fmt"
	"os"
	"os/exec"
	"strings"
	"testing"

	"ssmproxy/ssmstream"
	"ssmproxy/ssmstream/ssmtest"
)

// plugin is AWS's own client. What it cannot work with is no service to test
// ssmproxy against.
const plugin = "session-manager-plugin"

// throughPlugin prepares an ssh that goes through AWS's own client, in a session
// that is open already, as aws ssm start-session leaves it.
func (w *world) throughPlugin(t *testing.T, args ...string) *exec.Cmd {
	t.Helper()
	id, g := w.service.StartSession(w.instance)
	// It ends no session; what ssh leaves behind is not for the test to count.
	t.Cleanup(func() { w.service.CloseSessions("") })
	response, err := json.Marshal(map[string]string{"SessionId": id, "StreamUrl": g.StreamURL, "TokenValue": g.Token})
	if err != nil {
		t.Fatal(err)
	}
	proxy := fmt.Sprintf(`ProxyCommand=%s AWS_SSM_START_SESSION_RESPONSE %s StartSession "" '{"Target":"%s"}' %s`,
		plugin, w.service.Region(), w.instance, w.service.URL())
	cmd := w.command("ssh", append([]string{"-o", proxy, w.dest}, args...)...)
	cmd.Env = append(cmd.Env, "AWS_SSM_START_SESSION_RESPONSE="+string(response))
	for _, setting := range w.env {
		if bundle, ok := strings.CutPrefix(setting, "AWS_CA_BUNDLE="); ok {
			cmd.Env = append(cmd.Env, "SSL_CERT_FILE="+bundle) // for its websocket
		}
	}
	return cmd
}

// acknowledged is 0 when the agent's output is, and less before.
func (w *world) acknowledged() int64 {
	st := w.service.Stats()
	return int64(st.FromClient.Messages[ssmstream.Acknowledge] - st.FromAgent.Messages[ssmstream.OutputStreamData])
}

func TestAWSsOwnClientIsServed(t *testing.T) {
	t.Parallel()
	need(t, "ssh", plugin)
	config := ssmtest.Config{}
	if os.Getenv("SSMPROXY_REQUIRE_SSHD") != "" { // a person's plugin may be older than signatures, CI's is not
		config = ssmtest.Config{RefuseUnsigned: true, MinClientVersion: "1.2.764.0"}
	}
	w := build(t, config)
	data := randomBytes(100_000)
	cmd := w.throughPlugin(t, "cat")
	cmd.Stdin = bytes.NewReader(data)
	if got := run(t, cmd); got != string(data) {
		t.Errorf("%d of %d bytes came back, or other ones", len(got), len(data))
	}
}

func TestAWSsOwnClientResumes(t *testing.T) {
	t.Parallel()
	need(t, "ssh", plugin)
	w := build(t, ssmtest.Config{})
	k := talk(t, w.throughPlugin(t, "sh"))
	for cuts := range 3 {
		fmt.Fprintf(k.in, "echo %d\n", cuts)
		if err := k.expect(fmt.Sprint(cuts)); err != nil {
			t.Fatal(err)
		}
		// What it could not acknowledge before a cut it writes twice
		// (HandleOutputMessage in its streaming.go).
		if err := reach(t.Context(), w.acknowledged, 0); err != nil {
			t.Fatal(err)
		}
		w.service.CutAll()
		if err := reach(t.Context(), w.resumed, int64(cuts)+1); err != nil {
			t.Fatal(err)
		}
	}
	fmt.Fprintln(k.in, "exit")
	if err := k.Wait(); err != nil {
		t.Errorf("%v; stderr: %s", err, &k.stderr)
	}
}
