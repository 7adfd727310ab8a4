package proxy

import (
	"bufio"
	"cmp"
	"context"
	"errors"
	"fmt"
	"net/url"
	"os"
	"os/exec"
	"runtime"
	"strings"
	"time"

	"github.com/aws/aws-sdk-go-v2/aws"
	"github.com/aws/aws-sdk-go-v2/config"
	"github.com/aws/aws-sdk-go-v2/service/ssooidc"
	oidctypes "github.com/aws/aws-sdk-go-v2/service/ssooidc/types"
)

// Signing in is the device authorization of RFC 8628, as aws sso login
// --use-device-code does it.
const (
	clientName   = "ssmproxy"
	deviceGrant  = "urn:ietf:params:oauth:grant-type:device_code"
	defaultScope = "sso:account:access" // the CLI's, where a session names none

	pollInterval = 5 * time.Second // where the service doesn't say (RFC 8628, section 3.2)
	slowDown     = 5 * time.Second // added where it says so (section 3.5)
)

// login lets the person sign in with a browser, and keeps the token where the
// CLI would. The caller has the entry's lock.
func (s *ssoRole) login(ctx context.Context, t *terminal) error {
	client, err := s.register(ctx)
	if err != nil {
		return fmt.Errorf("sign in to SSO: %w", err)
	}
	api := s.oidc()
	device, err := api.StartDeviceAuthorization(ctx, &ssooidc.StartDeviceAuthorizationInput{
		ClientId: &client.ClientID, ClientSecret: &client.ClientSecret, StartUrl: &s.startURL,
	})
	if err != nil {
		return fmt.Errorf("sign in to SSO: %w", err)
	}
	limit := time.Duration(device.ExpiresIn) * time.Second
	stop := s.show(t, device, limit)
	defer stop()
	ctx, cancel := context.WithTimeout(ctx, limit)
	defer cancel()
	interval := cmp.Or(time.Duration(device.Interval)*time.Second, pollInterval)
	for {
		select {
		case <-time.After(interval):
		case <-ctx.Done():
			return s.unanswered(ctx.Err())
		}
		out, err := api.CreateToken(ctx, &ssooidc.CreateTokenInput{
			ClientId: &client.ClientID, ClientSecret: &client.ClientSecret,
			GrantType: aws.String(deviceGrant), DeviceCode: device.DeviceCode,
		})
		if err == nil {
			s.keep(client, out)
			s.chain.log.Info("signed in to SSO")
			return nil
		}
		if _, pending := errors.AsType[*oidctypes.AuthorizationPendingException](err); pending {
			continue
		}
		if _, fast := errors.AsType[*oidctypes.SlowDownException](err); fast {
			interval += slowDown
			continue
		}
		if _, late := errors.AsType[*oidctypes.ExpiredTokenException](err); late || ctx.Err() != nil {
			return s.unanswered(err)
		}
		if _, refused := errors.AsType[*oidctypes.AccessDeniedException](err); refused {
			return errorWithHint(err, "the sign-in to SSO was refused in the browser")
		}
		return fmt.Errorf("sign in to SSO: %w", err)
	}
}

func (s *ssoRole) unanswered(err error) error {
	return errorWithHint(err, "nobody signed in to SSO in time", "try again, or run "+s.loginCommand())
}

// loginCommand is the AWS CLI's way to do the same.
func (s *ssoRole) loginCommand() string {
	if s.profile.Profile == "default" {
		return "aws sso login"
	}
	return "aws sso login --profile " + s.profile.Profile
}

// show tells the person what to do, starts a browser and counts the time until
// stop.
func (s *ssoRole) show(t *terminal, device *ssooidc.StartDeviceAuthorizationOutput, limit time.Duration) (stop func()) {
	page, code := aws.ToString(device.VerificationUri), aws.ToString(device.UserCode)
	u := &ui{w: t.out, terminal: true}
	u.line(fmt.Sprintf("sign in to %s for profile %s:", cmp.Or(s.session, s.startURL), s.profile.Profile))
	u.line(fmt.Sprintf("open %s and enter the code %s", page, code))
	if complete := aws.ToString(device.VerificationUriComplete); complete != "" {
		u.line(fmt.Sprintf("or open %s and see that it shows that code", complete))
	}
	// Not the address with the code in it: others on this machine may read the
	// arguments of a program.
	if err := openBrowser(page); err != nil {
		s.chain.log.Debug("no browser", "error", plainError(err))
	}
	return u.countUp("you to sign in", limit)
}

// register makes ssmproxy known to the service, unless the last token was given to
// a client that still is.
func (s *ssoRole) register(ctx context.Context) (ssoToken, error) {
	var client ssoToken
	last, err := s.readToken()
	if err == nil && last.registered() && last.StartURL == s.startURL {
		client.ClientID, client.ClientSecret, client.RegistrationExpiresAt = last.ClientID, last.ClientSecret, last.RegistrationExpiresAt
		return client, nil
	}
	in := &ssooidc.RegisterClientInput{ClientName: aws.String(clientName), ClientType: aws.String("public")}
	if s.session != "" {
		in.Scopes = registrationScopes(s.session)
	}
	out, err := s.oidc().RegisterClient(ctx, in)
	if err != nil {
		return client, err
	}
	client.ClientID, client.ClientSecret = aws.ToString(out.ClientId), aws.ToString(out.ClientSecret)
	client.RegistrationExpiresAt = &cacheTime{time.Unix(out.ClientSecretExpiresAt, 0)}
	return client, nil
}

// registrationScopes reads sso_registration_scopes of a session from the
// configuration file; the SDK does not.
func registrationScopes(session string) []string {
	scopes := []string{defaultScope}
	f, err := os.Open(cmp.Or(os.Getenv("AWS_CONFIG_FILE"), config.DefaultSharedConfigFilename()))
	if err != nil {
		return scopes
	}
	defer f.Close()
	inside := false
	for lines := bufio.NewScanner(f); lines.Scan(); {
		line := strings.TrimSpace(lines.Text())
		if strings.HasPrefix(line, "[") {
			name := strings.Fields(strings.Trim(line, "[] \t"))
			inside = len(name) == 2 && name[0] == "sso-session" && name[1] == session
			continue
		}
		name, value, ok := strings.Cut(line, "=")
		if inside && ok && strings.TrimSpace(name) == "sso_registration_scopes" {
			scopes = strings.FieldsFunc(value, func(r rune) bool { return r == ',' || r == ' ' || r == '\t' })
		}
	}
	return scopes
}

// openBrowser starts one where there is a person to see it: not on the far end
// of an ssh.
func openBrowser(page string) error {
	if u, err := url.Parse(page); err != nil || u.Scheme != "https" || u.Host == "" {
		return errors.New("not an https:// address")
	}
	if os.Getenv("SSH_CONNECTION") != "" || os.Getenv("SSH_TTY") != "" {
		return errors.New("this is an SSH session")
	}
	command := []string{"xdg-open", page}
	switch runtime.GOOS {
	case "darwin":
		command[0] = "open"
	case "windows":
		command = []string{"rundll32", "url.dll,FileProtocolHandler", page}
	default:
		if os.Getenv("DISPLAY") == "" && os.Getenv("WAYLAND_DISPLAY") == "" {
			return errors.New("no display")
		}
	}
	cmd := exec.Command(command[0], command[1:]...)
	detach(cmd)
	if err := cmd.Start(); err != nil {
		return err
	}
	go cmd.Wait() // ends with the program, or with this process
	return nil
}
