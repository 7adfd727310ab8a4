package ssmtest

import (
	"errors"
	"strings"
	"testing"
	"time"

	"github.com/aws/aws-sdk-go-v2/aws"
	"github.com/aws/aws-sdk-go-v2/credentials"
	"github.com/aws/aws-sdk-go-v2/service/sts"
	"github.com/aws/smithy-go"
)

// stsClient is AWS's own client of STS, with the user's access key.
func stsClient(t *testing.T, s *Server, c Credentials) *sts.Client {
	t.Helper()
	return sts.New(sts.Options{
		Region:           s.Region(),
		BaseEndpoint:     aws.String(s.URL()),
		Credentials:      credentials.NewStaticCredentialsProvider(c.AccessKeyID, c.SecretAccessKey, c.SessionToken),
		HTTPClient:       httpClient(t, s),
		RetryMaxAttempts: 1,
	})
}

func roleInput(role string) *sts.AssumeRoleInput {
	return &sts.AssumeRoleInput{RoleArn: aws.String("arn:aws:iam::" + accountID + ":role/" + role), RoleSessionName: aws.String("me")}
}

func wantCode(t *testing.T, err error, code, words string) {
	t.Helper()
	var failure smithy.APIError
	if !errors.As(err, &failure) {
		t.Fatalf("error %v, want %s", err, code)
	}
	if failure.ErrorCode() != code || !strings.Contains(failure.ErrorMessage(), words) {
		t.Errorf("%s: %s, want %s: %s", failure.ErrorCode(), failure.ErrorMessage(), code, words)
	}
}

func TestAssumedRolesCredentialsAreGood(t *testing.T) {
	t.Parallel()
	s := newServer(t, Config{})
	in := roleInput("Deploy")
	in.DurationSeconds = aws.Int32(900)
	out, err := stsClient(t, s, s.UserCredentials()).AssumeRole(t.Context(), in)
	if err != nil {
		t.Fatal(err)
	}
	if left := time.Until(*out.Credentials.Expiration); left > 15*time.Minute || left < 14*time.Minute {
		t.Errorf("good for %v", left)
	}
	c := Credentials{AccessKeyID: *out.Credentials.AccessKeyId, SecretAccessKey: *out.Credentials.SecretAccessKey, SessionToken: *out.Credentials.SessionToken}
	who, err := stsClient(t, s, c).GetCallerIdentity(t.Context(), nil)
	if err != nil || *who.Arn != *out.AssumedRoleUser.Arn {
		t.Errorf("%v, %v", who, err)
	}
	s.ExpireCredentials()
	_, err = stsClient(t, s, c).GetCallerIdentity(t.Context(), nil)
	wantCode(t, err, "ExpiredToken", "expired")
}

func TestRoleThatTakesAnMFACode(t *testing.T) {
	t.Parallel()
	s := newServer(t, Config{})
	api := stsClient(t, s, s.UserCredentials())
	_, err := api.AssumeRole(t.Context(), roleInput("Admin"))
	wantCode(t, err, "AccessDenied", "is not authorized to perform: sts:AssumeRole")

	in := roleInput("Admin")
	in.SerialNumber, in.TokenCode = aws.String(s.MFASerial()), aws.String(s.MFACode())
	if _, err := api.AssumeRole(t.Context(), in); err != nil {
		t.Error(err)
	}
	_, err = api.AssumeRole(t.Context(), in)
	wantCode(t, err, "AccessDenied", "MultiFactorAuthentication failed with invalid MFA one time pass code.")

	in.SerialNumber = aws.String("arn:aws:iam::123456789012:mfa/other")
	_, err = api.AssumeRole(t.Context(), in)
	wantCode(t, err, "AccessDenied", "unable to validate MFA code")
}

func TestSTSRefusesWhatIsNotSignedRight(t *testing.T) {
	t.Parallel()
	s := newServer(t, Config{})
	c := s.UserCredentials()
	c.SecretAccessKey = "wrong"
	_, err := stsClient(t, s, c).AssumeRole(t.Context(), roleInput("Deploy"))
	wantCode(t, err, "SignatureDoesNotMatch", "does not match")
	c.AccessKeyID = "AKIAUNKNOWN"
	_, err = stsClient(t, s, c).AssumeRole(t.Context(), roleInput("Deploy"))
	wantCode(t, err, "InvalidClientTokenId", "invalid")
}
