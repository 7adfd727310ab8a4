package proxy

import (
	"context"
	"crypto/tls"
	"crypto/x509"
	"errors"
	"fmt"
	"net"
	"net/http"
	"net/url"
	"os"
	"syscall"

	"github.com/aws/smithy-go"
)

// explainNetwork words what stands between here and the service.
func (s situation) explainNetwork(err error) error {
	if e, ok := errors.AsType[*proxyError](err); ok {
		return explainProxy(err, e)
	}
	if e := sdkProxyError(err); e != nil {
		return explainProxy(err, e)
	}
	if isTLSFailure(err) {
		return explainTLS(err)
	}
	if e, ok := errors.AsType[*net.DNSError](err); ok {
		if e.IsNotFound {
			return errorWithHint(err, fmt.Sprintf("host %s not found", e.Name),
				fmt.Sprintf("is the network up, and %s a region?", s.region),
				"behind a proxy, HTTPS_PROXY has to name it")
		}
		return errorWithHint(err, fmt.Sprintf("the name %s cannot be looked up", e.Name), "is the network up?")
	}
	where := remote(err)
	if isTimeout(err) {
		return errorWithHint(err, "no answer from "+where,
			"is the network up, and may it be reached from here? behind a proxy, HTTPS_PROXY has to name it")
	}
	if e, ok := errors.AsType[*net.OpError](err); ok {
		if errors.Is(e, syscall.ECONNREFUSED) {
			return errorWithHint(err, where+" refuses connections", "behind a proxy, HTTPS_PROXY has to name it")
		}
		return errorWithHint(err, fmt.Sprintf("no connection to %s: %v", where, innermost(e)), "is the network up?")
	}
	return nil
}

// sdkProxyError recognizes a proxy's failure in an error of the SDK's own calls,
// where net/http leaves an operation's name or the status text of the answer
// to CONNECT.
func sdkProxyError(err error) *proxyError {
	call, ok := errors.AsType[*url.Error](err)
	if !ok {
		return nil
	}
	u, parseErr := url.Parse(call.URL)
	if parseErr != nil {
		return nil
	}
	via, proxyErr := http.ProxyFromEnvironment(&http.Request{URL: u})
	if proxyErr != nil || via == nil {
		return nil
	}
	e := &proxyError{addr: via.Host, err: call.Err}
	if op, ok := errors.AsType[*net.OpError](err); ok && (op.Op == "proxyconnect" || op.Op == "socks connect") {
		return e
	}
	for status := 400; status < 600; status++ {
		if text := http.StatusText(status); text != "" && call.Err.Error() == text {
			e.status = status
			return e
		}
	}
	return nil
}

func explainProxy(err error, e *proxyError) error {
	const settings = "HTTPS_PROXY names the proxy, NO_PROXY the hosts to be reached without it"
	switch {
	case e.status == http.StatusProxyAuthRequired:
		return errorWithHint(err, fmt.Sprintf("the proxy %s asks for a user name and password", e.addr),
			"give them in HTTPS_PROXY: http://USER:PASSWORD@"+e.addr)
	case e.status != 0:
		return errorWithHint(err, fmt.Sprintf("the proxy %s refuses the connection: %v", e.addr, e.err), settings)
	case isTLSFailure(e.err):
		return explainTLS(err)
	}
	return errorWithHint(err, fmt.Sprintf("no connection through the proxy %s: %v", e.addr, innermost(e.err)), settings)
}

// isTLSFailure tells whether err is a certificate that cannot be trusted, or a
// peer that speaks no TLS.
func isTLSFailure(err error) bool {
	_, verify := errors.AsType[*tls.CertificateVerificationError](err)
	_, record := errors.AsType[tls.RecordHeaderError](err)
	_, alert := errors.AsType[tls.AlertError](err)
	return verify || record || alert
}

func explainTLS(err error) error {
	if e, ok := errors.AsType[x509.HostnameError](err); ok {
		return errorWithHint(err, fmt.Sprintf("the certificate presented for %s is for another host", e.Host),
			"something on the way answers in its place: a proxy, a captive portal, a wrong DNS entry")
	}
	if e, ok := errors.AsType[x509.CertificateInvalidError](err); ok && e.Reason == x509.Expired {
		return errorWithHint(err, "the certificate of the service has expired, or is not valid yet", "is the clock of this machine right?")
	}
	if _, ok := errors.AsType[*tls.CertificateVerificationError](err); ok {
		hint := "where a proxy inspects TLS, AWS_CA_BUNDLE has to name a file with its certificate authority"
		if bundle := os.Getenv("AWS_CA_BUNDLE"); bundle != "" {
			hint = fmt.Sprintf("AWS_CA_BUNDLE names %s, which does not vouch for it", bundle)
		}
		return errorWithHint(err, fmt.Sprintf("the certificate presented for %s is not trusted", remote(err)), hint)
	}
	return errorWithHint(err, fmt.Sprintf("no TLS connection to %s: %v", remote(err), innermost(err)),
		"something on the way may answer in its place: a proxy, a captive portal")
}

// isNetwork tells whether err is the network's, not a service's answer.
func isNetwork(err error) bool {
	if _, ok := errors.AsType[smithy.APIError](err); ok {
		return false
	}
	// Not net.Error: a missing file's errno is one, too.
	_, isURL := errors.AsType[*url.Error](err)
	_, isOp := errors.AsType[*net.OpError](err)
	_, isDNS := errors.AsType[*net.DNSError](err)
	return isURL || isOp || isDNS || errors.Is(err, context.DeadlineExceeded)
}

func isTimeout(err error) bool {
	e, ok := errors.AsType[net.Error](err)
	return ok && e.Timeout() || errors.Is(err, context.DeadlineExceeded)
}

// remote names the host that err is about.
func remote(err error) string {
	if e, ok := errors.AsType[*hostError](err); ok {
		return e.addr
	}
	if e, ok := errors.AsType[*url.Error](err); ok {
		if u, err := url.Parse(e.URL); err == nil && u.Host != "" {
			return u.Host
		}
	}
	if e, ok := errors.AsType[*net.OpError](err); ok && e.Addr != nil {
		return e.Addr.String()
	}
	return "the service"
}
