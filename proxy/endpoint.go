package proxy

import (
	"context"
	"errors"
	"fmt"
	"net"
	"net/url"
	"strings"

	"github.com/aws/aws-sdk-go-v2/aws"
	"github.com/aws/aws-sdk-go-v2/service/ssm"

	"ssmproxy/ssmstream"
)

// grant puts together what opens the data channel: StreamUrl as the service
// gave it, but for the host where AWS_ENDPOINT_URL_SSMMESSAGES names another.
func (c *client) grant(streamURL, token string) (ssmstream.Grant, error) {
	u, err := url.Parse(streamURL)
	if err != nil || u.Host == "" {
		return ssmstream.Grant{}, ssmstream.Permanent(errors.New("the service sent a StreamUrl that is not a URL"))
	}
	if u.Scheme != "wss" {
		return ssmstream.Grant{}, ssmstream.Permanent(errorWithHint(nil,
			fmt.Sprintf("the service sent a StreamUrl of scheme %q, only wss is safe", u.Scheme)))
	}
	host, err := c.gatewayOverride()
	if err != nil {
		return ssmstream.Grant{}, ssmstream.Permanent(err)
	}
	if host != "" {
		// Not by way of url.URL, which might write the rest in another way.
		streamURL = strings.Replace(streamURL, "//"+authority(streamURL), "//"+host, 1)
	}
	return ssmstream.Grant{StreamURL: streamURL, Token: token}, nil
}

// authority returns what stands between // and the path in an absolute URL.
func authority(rawURL string) string {
	_, rest, _ := strings.Cut(rawURL, "//")
	if end := strings.IndexAny(rest, "/?#"); end >= 0 {
		return rest[:end]
	}
	return rest
}

// gatewayOverride returns the host, with a port where it is not 443, that the
// settings name for the data channel: AWS_ENDPOINT_URL_SSMMESSAGES, or
// endpoint_url of ssmmessages in the profile's services section.
func (c *client) gatewayOverride() (string, error) {
	endpoint := configuredEndpoint(c.config().ConfigSources, "SSMMessages")
	if endpoint == "" {
		return "", nil
	}
	u, err := url.Parse(endpoint)
	if err != nil || u.Host == "" || u.Scheme != "https" && u.Scheme != "wss" {
		return "", errorWithHint(err, fmt.Sprintf("AWS_ENDPOINT_URL_SSMMESSAGES must be an https:// address, not %q", endpoint),
			"it may also come from endpoint_url in the services section of ~/.aws/config")
	}
	return strings.TrimSuffix(u.Host, ":443"), nil
}

// configuredEndpoint finds a service's own endpoint in the settings, by the
// rules of the SDK (internal/configsources, which others cannot import).
func configuredEndpoint(sources []any, sdkID string) string {
	ctx := context.Background()
	for _, source := range sources {
		if s, ok := source.(interface {
			GetIgnoreConfiguredEndpoints(context.Context) (bool, bool, error)
		}); ok {
			if ignore, found, err := s.GetIgnoreConfiguredEndpoints(ctx); err == nil && found {
				if ignore {
					return ""
				}
				break
			}
		}
	}
	for _, source := range sources {
		if s, ok := source.(interface {
			GetServiceBaseEndpoint(context.Context, string) (string, bool, error)
		}); ok {
			if endpoint, found, err := s.GetServiceBaseEndpoint(ctx, sdkID); err == nil && found {
				return endpoint
			}
		}
	}
	return ""
}

// gatewayAddr guesses the address of the data channel before the service has
// named it: that of the SSM endpoint, with the other service's name. It is
// empty where the settings lead to places of their own.
func (c *client) gatewayAddr(ctx context.Context) string {
	host, err := c.gatewayOverride()
	if err != nil {
		return ""
	}
	if host == "" {
		o := c.ssm().Options()
		if o.BaseEndpoint != nil {
			return ""
		}
		endpoint, err := ssm.NewDefaultEndpointResolverV2().ResolveEndpoint(ctx, ssm.EndpointParameters{
			Region:       aws.String(o.Region),
			UseFIPS:      aws.Bool(o.EndpointOptions.UseFIPSEndpoint == aws.FIPSEndpointStateEnabled),
			UseDualStack: aws.Bool(o.EndpointOptions.UseDualStackEndpoint == aws.DualStackEndpointStateEnabled),
		})
		if err != nil {
			return ""
		}
		rest, ok := strings.CutPrefix(endpoint.URI.Host, "ssm")
		if !ok {
			return ""
		}
		host = "ssmmessages" + rest
	}
	if _, _, err := net.SplitHostPort(host); err != nil {
		host = net.JoinHostPort(strings.Trim(host, "[]"), "443")
	}
	return host
}
