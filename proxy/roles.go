package proxy

import (
	"context"
	"errors"
	"strings"
	"sync"
	"time"

	"github.com/aws/aws-sdk-go-v2/aws"
	awsmiddleware "github.com/aws/aws-sdk-go-v2/aws/middleware"
	"github.com/aws/aws-sdk-go-v2/config"
	"github.com/aws/aws-sdk-go-v2/service/sts"
	"github.com/aws/aws-sdk-go-v2/service/sts/types"
	"github.com/aws/smithy-go"
)

// roleClient makes the AssumeRole call of one role, or finds its answer where
// the AWS CLI or another ssmproxy has left it.
type roleClient struct {
	chain *chain
	api   *sts.Client

	once   sync.Once
	source aws.CredentialsProvider // of the credentials that assume the role
}

// AssumeRole implements stscreds.AssumeRoleAPIClient.
func (r *roleClient) AssumeRole(ctx context.Context, in *sts.AssumeRoleInput, options ...func(*sts.Options)) (*sts.AssumeRoleOutput, error) {
	p := r.chain.roleProfile(in)
	if p == nil {
		return r.api.AssumeRole(ctx, in, options...)
	}
	entry := roleEntry(roleArguments(p))
	if cached, good := entry.readCredentials(refreshWindow(p)); good {
		r.chain.log.Info("role found in the AWS CLI's cache", "role", p.RoleARN)
		return cached.assumed(), nil
	}
	// The SDK asks for 15 minutes where the profile doesn't say; by the CLI's
	// reckoning those would be over at once.
	in.DurationSeconds = nil
	if d := p.RoleDurationSeconds; d != nil && *d != 0 {
		in.DurationSeconds = aws.Int32(int32(*d / time.Second))
	}
	source := r.sourceCredentials()
	if p.MFASerial != "" {
		if code := r.chain.takeCode(entry); code != "" {
			in.TokenCode = aws.String(code)
		} else if cached, good := entry.readCredentials(0); good && !r.chain.asking.Load() {
			return cached.assumed(), nil
		} else if _, err := source.Retrieve(ctx); err != nil {
			return nil, err // first things first: a code lives only for 30 s
		} else {
			return nil, &codeNeeded{profile: p.Profile, serial: p.MFASerial, entry: entry}
		}
	}
	out, err := r.api.AssumeRole(ctx, in, append(options, func(o *sts.Options) { o.Credentials = source })...)
	if err != nil {
		return nil, err
	}
	if err := entry.write(cacheable(out)); err != nil {
		r.chain.log.Info("the role's credentials cannot be cached", "error", plainError(err))
	}
	return out, nil
}

// sourceCredentials is where the call's own credentials come from; they are
// asked for once, however often the code is mistyped.
func (r *roleClient) sourceCredentials() aws.CredentialsProvider {
	r.once.Do(func() {
		r.source = r.api.Options().Credentials
		if isSSO(r.source) {
			r.source = r.chain.sso
		}
		if _, cached := r.source.(*aws.CredentialsCache); !cached {
			r.source = aws.NewCredentialsCache(r.source)
		}
	})
	return r.source
}

// roleProfile finds the profile that the call is made for: the one in use or
// one of its sources.
func (ch *chain) roleProfile(in *sts.AssumeRoleInput) *config.SharedConfig {
	for p := ch.profile; p != nil; p = p.Source {
		if p.RoleARN == aws.ToString(in.RoleArn) && p.MFASerial == aws.ToString(in.SerialNumber) {
			return p
		}
	}
	return nil
}

// roleArguments are those that botocore's AssumeRoleProvider passes on.
func roleArguments(p *config.SharedConfig) map[string]any {
	args := map[string]any{"RoleArn": p.RoleARN}
	for name, value := range map[string]string{
		"RoleSessionName": p.RoleSessionName, "ExternalId": p.ExternalID, "SerialNumber": p.MFASerial,
	} {
		if value != "" {
			args[name] = value
		}
	}
	if p.RoleDurationSeconds != nil {
		args["DurationSeconds"] = int(*p.RoleDurationSeconds / time.Second)
	}
	return args
}

// refreshWindow is refreshBefore, but less where the profile wants credentials
// that don't live much longer: those would never be used.
func refreshWindow(p *config.SharedConfig) time.Duration {
	if d := p.RoleDurationSeconds; d != nil && *d > 0 {
		return min(refreshBefore, *d/4)
	}
	return refreshBefore
}

// assumed is what STS answered when the credentials were new.
func (c cachedCredentials) assumed() *sts.AssumeRoleOutput {
	out := &sts.AssumeRoleOutput{Credentials: &types.Credentials{
		AccessKeyId:     &c.Credentials.AccessKeyID,
		SecretAccessKey: &c.Credentials.SecretAccessKey,
		SessionToken:    &c.Credentials.SessionToken,
		Expiration:      &c.Credentials.Expiration.Time,
	}}
	if u := c.AssumedRoleUser; u != nil {
		out.AssumedRoleUser = &types.AssumedRoleUser{Arn: &u.Arn, AssumedRoleId: &u.AssumedRoleID}
	}
	return out
}

// cacheable is STS's answer as the CLI keeps it.
func cacheable(out *sts.AssumeRoleOutput) cachedCredentials {
	var c cachedCredentials
	if k := out.Credentials; k != nil {
		c.Credentials.AccessKeyID = aws.ToString(k.AccessKeyId)
		c.Credentials.SecretAccessKey = aws.ToString(k.SecretAccessKey)
		c.Credentials.SessionToken = aws.ToString(k.SessionToken)
		c.Credentials.Expiration.Time = aws.ToTime(k.Expiration)
	}
	if u := out.AssumedRoleUser; u != nil {
		c.AssumedRoleUser = &assumedRoleUser{aws.ToString(u.AssumedRoleId), aws.ToString(u.Arn)}
		if parts := strings.Split(aws.ToString(u.Arn), ":"); len(parts) > 4 {
			c.Credentials.AccountID = parts[4]
		}
	}
	id, _ := awsmiddleware.GetRequestIDMetadata(out.ResultMetadata)
	c.ResponseMetadata = &responseMetadata{RequestID: id, HTTPStatusCode: 200}
	return c
}

// isWrongCode tells whether STS refused the MFA code: mistyped, too old, or used
// before.
func isWrongCode(err error) bool {
	api, ok := errors.AsType[smithy.APIError](err)
	return ok && api.ErrorCode() == "AccessDenied" && strings.Contains(api.ErrorMessage(), "invalid MFA one time pass code")
}
