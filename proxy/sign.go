package proxy

import (
	"context"
	"net/http"
	"time"

	v4 "github.com/aws/aws-sdk-go-v2/aws/signer/v4"
)

// signingName is the service name of the data channel's SigV4 signature.
const signingName = "ssmmessages"

// emptyPayload is the SHA-256 of nothing, in hexadecimal.
const emptyPayload = "e3b0c44298fc1c149afbf4c8996fb92427ae41e4649b934ca495991b7852b855"

// SignUpgrade signs the websocket's upgrade. It implements ssmstream.Signer.
//
// Only the host and the X-Amz headers are signed: what the websocket library
// and proxies on the way add or change does not count, and a request of our
// own takes the signer's changes to the URL.
func (c *client) SignUpgrade(ctx context.Context, r *http.Request) error {
	creds, err := c.credentials(ctx)
	if err != nil {
		return c.resumeError(err)
	}
	c.mu.Lock()
	region, skew := c.cfg.Region, c.skew
	c.mu.Unlock()
	address := *r.URL
	signed := &http.Request{Method: r.Method, URL: &address, Host: r.Host, Header: http.Header{}}
	at := time.Now().Add(skew)
	if err := v4.NewSigner().SignHTTP(ctx, creds, signed, emptyPayload, signingName, region, at); err != nil {
		return err
	}
	for _, name := range []string{"Authorization", "X-Amz-Date", "X-Amz-Security-Token"} {
		if value := signed.Header.Get(name); value != "" {
			r.Header.Set(name, value)
		}
	}
	return nil
}
