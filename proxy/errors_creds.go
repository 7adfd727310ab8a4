package proxy

import (
	"cmp"
	"errors"
	"fmt"
	"io/fs"
	"os"
	"strings"

	"github.com/aws/aws-sdk-go-v2/config"
	"github.com/aws/aws-sdk-go-v2/credentials/processcreds"
	"github.com/aws/aws-sdk-go-v2/credentials/ssocreds"
	"github.com/aws/aws-sdk-go-v2/credentials/stscreds"
	"github.com/aws/smithy-go"
)

// credentialsError says that err happened on the way to the settings and
// credentials, before any call that needs them.
type credentialsError struct{ err error }

func (e *credentialsError) Error() string { return "credentials: " + e.err.Error() }
func (e *credentialsError) Unwrap() error { return e.err }

func noRegion(o Options) error {
	hint := "give --region REGION, set AWS_REGION, or set region in ~/.aws/config"
	if p := o.profileName(); p != "" {
		hint = fmt.Sprintf("give --region REGION, set AWS_REGION, or run aws configure set region REGION --profile %s", p)
	}
	return errorWithHint(nil, "no AWS region is set", hint)
}

// explainSettings words what is wrong with the AWS settings themselves.
func (s situation) explainSettings(err error) error {
	if e, ok := errors.AsType[config.SharedConfigProfileNotExistError](err); ok {
		hint := "aws configure list-profiles shows what there is"
		switch {
		case s.options.profileInHost:
			hint += "; HOST names this one, which ssh turns to small letters: %n in place of %h in ProxyCommand leaves them"
		case s.options.Profile == "":
			hint += "; AWS_PROFILE names this one"
		}
		return errorWithHint(err, fmt.Sprintf("profile %q does not exist", e.Profile), hint)
	}
	if e, ok := errors.AsType[config.SharedConfigLoadError](err); ok {
		return errorWithHint(err, fmt.Sprintf("%s cannot be read: %v", e.Filename, e.Err))
	}
	if strings.Contains(err.Error(), "custom CA bundle PEM file") {
		return errorWithHint(err, "AWS_CA_BUNDLE names a file without certificates in PEM form",
			"it may also come from ca_bundle in ~/.aws/config")
	}
	if e, ok := errors.AsType[*fs.PathError](err); ok && e.Path == os.Getenv("AWS_CA_BUNDLE") {
		return errorWithHint(err, fmt.Sprintf("AWS_CA_BUNDLE names %s, which cannot be read: %v", e.Path, e.Err))
	}
	return nil
}

// explainCredentials words why there are no credentials, where that is neither
// a service's answer nor the network's fault.
func (s situation) explainCredentials(err error) error {
	if _, ok := errors.AsType[*credentialsError](err); !ok {
		return nil
	}
	if need, ok := errors.AsType[*codeNeeded](err); ok {
		return s.explainCode(need)
	}
	if need, ok := errors.AsType[*signInNeeded](err); ok {
		return errorWithHint(err, "the SSO session of profile "+need.sso.profile.Profile+" has expired", need.sso.loginCommand()+" renews it")
	}
	if text := mfaRefusal(err); text != "" {
		return errorWithHint(err, text, "each code is good once, and for 30 seconds; the device's clock has to be right",
			"mfa_serial in ~/.aws/config names the device")
	}
	text := err.Error()
	if noCredentials(text) {
		return errorWithHint(err, "no AWS credentials found"+s.forProfile(),
			"sign in with aws sso login or aws login, or set up keys with aws configure",
			"--profile NAME or AWS_PROFILE chooses a profile")
	}
	if isNetwork(err) {
		return nil
	}
	if _, ok := errors.AsType[*ssocreds.InvalidTokenError](err); ok || strings.Contains(text, "SSO token") {
		return s.expiredSSO(err)
	}
	if strings.Contains(text, "login token") || strings.Contains(text, "reauthenticate") {
		return errorWithHint(err, "the AWS sign-in"+s.ofProfile()+" has expired", "aws login"+s.profileFlag()+" renews it")
	}
	if _, ok := errors.AsType[*processcreds.ProviderError](err); ok {
		return errorWithHint(err, "the credential_process"+s.ofProfile()+" failed", "run its command by hand to see why")
	}
	return nil
}

// explainCode words that an MFA code is needed and there is nobody to ask for it.
func (s situation) explainCode(need *codeNeeded) error {
	if s.running {
		return errorWithHint(need, "the AWS credentials have expired",
			fmt.Sprintf("connect again: the MFA code of %s for profile %s is asked for then", need.serial, need.profile))
	}
	return errorWithHint(need, fmt.Sprintf("the role of profile %s asks for an MFA code of %s, and there is no terminal to ask on", need.profile, need.serial),
		"connect once from a terminal, with ssh or with aws --profile "+need.profile+" sts get-caller-identity: what that gets serves here too, until it expires",
		"or set SSH_ASKPASS to a program that asks, and DISPLAY or SSH_ASKPASS_REQUIRE=force, as for ssh's own questions")
}

// mfaRefusal says what STS has against an MFA code; empty if nothing.
func mfaRefusal(err error) string {
	api, ok := errors.AsType[smithy.APIError](err)
	switch {
	case !ok:
		return ""
	case isWrongCode(err):
		return "AWS did not accept the MFA code"
	case strings.Contains(api.ErrorMessage(), "unable to validate MFA code"):
		return "AWS does not know the MFA device as one of yours"
	}
	return ""
}

// noCredentials tells whether the chain of sources came to its end: the EC2
// instance metadata service, and found none.
func noCredentials(text string) bool {
	return strings.Contains(text, "EC2 IMDS role") || strings.Contains(text, "static credentials are empty")
}

func (s situation) expiredSSO(err error) error {
	return errorWithHint(err, "the SSO session"+s.ofProfile()+" has expired", "aws sso login"+s.profileFlag()+" renews it")
}

// renewal says how to get fresh credentials, by where these came from.
func (s situation) renewal() string {
	switch {
	case s.source == "EnvConfigCredentials":
		return "they come from the environment: export AWS_ACCESS_KEY_ID, AWS_SECRET_ACCESS_KEY and AWS_SESSION_TOKEN afresh, or unset them to use a profile"
	case s.source == ssocreds.ProviderName, s.source == stscreds.ProviderName:
		return "they come from the cache that the AWS CLI and ssmproxy share: remove ~/.aws/cli/cache, and connect again"
	case s.source == processcreds.ProviderName:
		return "they come from the credential_process" + s.ofProfile()
	case strings.HasPrefix(s.source, "SharedConfigCredentials"):
		_, file, _ := strings.Cut(s.source, ": ")
		return "they come from " + cmp.Or(file, "~/.aws/credentials") + s.ofProfile() + ": put fresh ones there"
	}
	return "sign in again, with aws sso login" + s.profileFlag() + " or as this profile is used to"
}

func (s situation) ofProfile() string {
	if p := s.options.profileName(); p != "" {
		return " of profile " + p
	}
	return ""
}

func (s situation) forProfile() string {
	if p := s.options.profileName(); p != "" {
		return " for profile " + p
	}
	return ""
}

func (s situation) profileFlag() string {
	if p := s.options.profileName(); p != "" {
		return " --profile " + p
	}
	return ""
}

// innermost is the cause that no other error is under.
func innermost(err error) error {
	for {
		next := errors.Unwrap(err)
		if next == nil {
			return err
		}
		err = next
	}
}
