package proxy

import (
	"cmp"
	"errors"
	"fmt"
	"io"
	"regexp"
	"strings"

	"github.com/aws/smithy-go"

	"ssmproxy/ssmstream"
)

// hintedError is an error in words for the person, and what to do about it.
type hintedError struct {
	text  string
	hints []string
	cause error // AWS's own words, for -v
}

func (e *hintedError) Error() string { return e.text }
func (e *hintedError) Unwrap() error { return e.cause }

func errorWithHint(cause error, text string, hints ...string) error {
	return &hintedError{text, hints, cause}
}

// plainError is an error on one line, as it is.
func plainError(err error) string { return printable(oneLine(err.Error())) }

// situation is what an explanation may want to name.
type situation struct {
	options Options
	target  target
	region  string
	running bool   // there is, or was, a session
	source  string // of the credentials, in the SDK's words; empty while there are none
}

// explain words an error of the client's calls and of its data channel for the
// person.
func (c *client) explain(err error) error {
	c.mu.Lock()
	s := situation{c.options, c.target, c.cfg.Region, c.sessionID != "", c.source}
	c.mu.Unlock()
	return s.explain(err)
}

func (s situation) explain(err error) error {
	if err == nil {
		return nil
	}
	if hinted, ok := errors.AsType[*hintedError](err); ok {
		return hinted // worded where it happened
	}
	for _, explanation := range []func(error) error{
		s.explainStream, s.explainSettings, s.explainCredentials, s.explainLookup, s.explainKey, s.explainAPI, s.explainNetwork,
	} {
		if explained := explanation(err); explained != nil {
			return explained
		}
	}
	if _, ok := errors.AsType[*credentialsError](err); ok {
		return errorWithHint(err, "no AWS credentials"+s.forProfile()+": "+oneLine(innermost(err).Error()), "-v shows the details")
	}
	return errorWithHint(err, oneLine(err.Error()))
}

// explainStream words what the data channel itself says.
func (s situation) explainStream(err error) error {
	closed, isClosed := errors.AsType[*ssmstream.ClosedError](err)
	switch {
	case isClosed && strings.Contains(strings.ToLower(closed.Output), "unable to connect to specified port"):
		return errorWithHint(err,
			fmt.Sprintf("nothing on %s accepts connections on port %s", s.node(), s.target.port),
			"is the SSH server (sshd) running there, and listening on that port?",
			fmt.Sprintf("another port goes after the host: ssmproxy %s PORT, or Port in ~/.ssh/config", s.target.id))
	case isClosed:
		return errorWithHint(err, "the service closed the session: "+oneLine(strings.TrimSpace(closed.Output)))
	case errors.Is(err, ssmstream.ErrHandshake):
		return errorWithHint(err, fmt.Sprintf("%s does not answer, although Session Manager counts it as connected", s.node()),
			"the agent may be overloaded, restarting, or older than 2.3.672.0; try again, or restart amazon-ssm-agent")
	case err == io.ErrUnexpectedEOF:
		return errorWithHint(err, "the service closed the data channel without a word", "try again; -v shows how far it came")
	case errors.Is(err, ssmstream.ErrUpgradeRefused):
		return errorWithHint(err, "the service refused to open the session's data channel",
			"the policy of this user or role needs the statement "+policyStatement)
	case errors.Is(err, ssmstream.ErrSessionOver):
		return errorWithHint(err, "the connection was lost, and the session has ended meanwhile",
			"the instance ends a session when its sshd does; the account's idle timeout ends one that carries nothing, which ServerAliveInterval 60 in ~/.ssh/config prevents")
	}
	return nil
}

// explainAPI words what an AWS service answers.
func (s situation) explainAPI(err error) error {
	api, ok := errors.AsType[smithy.APIError](err)
	if !ok {
		return nil
	}
	code, message := api.ErrorCode(), api.ErrorMessage()
	switch {
	case strings.Contains(message, "Signature expired"), strings.Contains(message, "Signature not yet current"),
		code == "RequestTimeTooSkewed", code == "RequestInTheFuture":
		return errorWithHint(err, "the clock of this machine is wrong, AWS refuses its signatures",
			"set the clock, or let NTP do it (timedatectl set-ntp true)")
	case isThrottle(err):
		return errorWithHint(err, fmt.Sprintf("AWS is throttling %s in this account and region", operation(err)),
			"many sessions are being opened at once; try again in a minute")
	}
	switch code {
	case "TargetNotConnected":
		return errorWithHint(err, fmt.Sprintf("%s is not connected to Session Manager in %s%s", s.node(), s.region, s.waited()),
			"is the instance running, and the SSM agent on it (amazon-ssm-agent)? --wait 2m waits for one that is starting",
			"does its instance profile allow the agent in (policy AmazonSSMManagedInstanceCore), and can it reach the service?",
			fmt.Sprintf("is it in %s, and in this account? --region and --profile choose others", s.region))
	case "AccessDeniedException", "AccessDenied", "UnauthorizedOperation":
		return s.accessDenied(err, message)
	case "ExpiredToken", "ExpiredTokenException", "RequestExpired", "TokenRefreshRequired":
		if operation(err) == "CreateToken" { // of SSO OIDC
			return s.expiredSSO(err)
		}
		return errorWithHint(err, "the AWS credentials have expired", s.renewal())
	case "UnauthorizedException", "InvalidGrantException": // SSO and SSO OIDC
		return s.expiredSSO(err)
	case "UnrecognizedClientException", "InvalidClientTokenId":
		return errorWithHint(err, fmt.Sprintf("AWS does not accept the credentials in %s", s.region),
			"deleted or mistyped keys, temporary ones without AWS_SESSION_TOKEN, and a region that the account has not enabled look like this",
			s.renewal())
	case "InvalidSignatureException", "SignatureDoesNotMatch", "IncompleteSignature", "IncompleteSignatureException":
		return errorWithHint(err, "AWS does not accept the signature", "is the secret access key the one that belongs to the access key?",
			s.renewal())
	case "InvalidDocument", "InvalidDocumentOperation", "InvalidDocumentVersion", "InvalidDocumentContent":
		return errorWithHint(err, fmt.Sprintf("session document %q cannot be used in %s", s.options.Document, s.region),
			"--document names it; "+defaultDocument+" exists everywhere")
	case "InvalidParameters", "ParameterNotFound":
		return errorWithHint(err, fmt.Sprintf("session document %q does not take a port number", s.options.Document),
			"a document for SSH has the parameter portNumber, like "+defaultDocument)
	case "InternalServerError", "InternalServerException", "InternalFailure", "ServiceUnavailable", "ServiceUnavailableException", "ServiceException":
		return errorWithHint(err, fmt.Sprintf("the service failed at %s: %s", operation(err), code),
			"try again; health.aws.amazon.com says how it is doing")
	}
	return errorWithHint(err, strings.TrimRight(fmt.Sprintf("%s failed: %s: %s", operation(err), code, oneLine(message)), ". :"))
}

// denial is how AWS says who may not do what to which, and why.
var denial = regexp.MustCompile(`(?:User: (\S+) is )?not authorized to perform: (\S+?)(?: on resource: (\S+?))?(?:,? (because .+|with an explicit deny.*))?$`)

func (s situation) accessDenied(err error, message string) error {
	m := denial.FindStringSubmatch(strings.TrimRight(oneLine(message), ". "))
	if m == nil {
		text := "access denied: " + operation(err)
		return errorWithHint(err, text, "AWS says: "+cmp.Or(strings.TrimRight(oneLine(message), ". "), "nothing more"))
	}
	who, action, resource, why := m[1], m[2], m[3], m[4]
	text := "access denied: " + action
	need := "allow " + action
	if resource != "" {
		text += " on " + resource
		need += " on " + resource
	}
	who = cmp.Or(who, "this user or role")
	if operation(err) == "DescribeInstanceInformation" {
		return errorWithHint(err, text, fmt.Sprintf("the policy of %s has to %s, for hosts given by name; the instance's ID needs no look-up", who, need))
	}
	switch {
	case strings.Contains(why, "explicit deny"):
		return errorWithHint(err, text, fmt.Sprintf("a policy forbids it to %s: %s", who, why))
	default:
		return errorWithHint(err, text, fmt.Sprintf("the policy of %s has to %s", who, need))
	}
}

// operation names the call that failed, like StartSession.
func operation(err error) string {
	if op, ok := errors.AsType[*smithy.OperationError](err); ok {
		return op.OperationName
	}
	return "the call"
}
