package proxy

import (
	"encoding/json"
	"testing"
	"time"

	"github.com/aws/aws-sdk-go-v2/aws"
	"github.com/aws/aws-sdk-go-v2/config"
)

// The names were made by botocore 1.43.11 from the same arguments.
func TestCacheFilesAreNamedLikeTheCLIs(t *testing.T) {
	t.Parallel()
	const admin = "arn:aws:iam::123456789012:role/Admin"
	for _, test := range []struct {
		profile config.SharedConfig
		want    string
	}{
		{config.SharedConfig{RoleARN: admin}, "51e7b105b5040ce662656c8dc6ab4de70c4de7ad"},
		{config.SharedConfig{RoleARN: admin, MFASerial: "arn:aws:iam::123456789012:mfa/demo"}, "87aa92f48fc0df8c0aa627c46e96fe4ba5f0959b"},
		{config.SharedConfig{RoleARN: admin, MFASerial: "GAHT12345678", RoleSessionName: "me", ExternalID: "a\"b\\cé😀\x7f<&>",
			RoleDurationSeconds: aws.Duration(12 * time.Hour)}, "a9d7435bc65decb2a79d9f0b04fee9e8c68233c3"},
	} {
		if got := roleEntry(roleArguments(&test.profile)).key; got != test.want {
			t.Errorf("%v: %s, want %s", roleArguments(&test.profile), got, test.want)
		}
	}
	if got := ssoEntry("123456789012", "Developer", "", "https://example.com/start").key; got != "e22a96085e8c7508d1ba8229ef3c10384d790291" {
		t.Errorf("SSO by start URL: %s", got)
	}
	if got := ssoEntry("123456789012", "Developer", "corp", "https://example.com/start").key; got != "5ff7ef65433a1f661637cbf499bb9f479b3d3f64" {
		t.Errorf("SSO by session: %s", got)
	}
	if got := tokenEntry("corp").key; got != "ee0bfd2552fbd840c02cc48b6e823320543c450f" {
		t.Errorf("token: %s", got)
	}
}

func TestPythonString(t *testing.T) {
	t.Parallel()
	for in, want := range map[string]string{
		"plain /<&>~":       `"plain /<&>~"`,
		"\"\\\b\f\n\r\t":    `"\"\\\b\f\n\r\t"`,
		"\x00\x1f\x7f":      `"\u0000\u001f\u007f"`,
		"é\u2028\U0001f600": `"\u00e9\u2028\ud83d\ude00"`,
	} {
		if got := pythonString(in); got != want {
			t.Errorf("%q: %s, want %s", in, got, want)
		}
	}
}

func TestTimesOfEveryCLIAreRead(t *testing.T) {
	t.Parallel()
	want := time.Date(2026, 11, 22, 9, 30, 0, 0, time.UTC)
	for _, text := range []string{"2026-11-22T09:30:00Z", "2026-11-22T09:30:00UTC", "2026-11-22T09:30:00+00:00", "2026-11-22T10:30:00+01:00"} {
		var got cacheTime
		if err := json.Unmarshal([]byte(`"`+text+`"`), &got); err != nil || !got.Equal(want) {
			t.Errorf("%s: %v, %v", text, got, err)
		}
	}
	var got cacheTime
	if err := json.Unmarshal([]byte(`"soon"`), &got); err == nil {
		t.Error("no error")
	}
	if text, err := json.Marshal(cacheTime{want}); err != nil || string(text) != `"2026-11-22T09:30:00Z"` {
		t.Errorf("written as %s, %v", text, err)
	}
}
