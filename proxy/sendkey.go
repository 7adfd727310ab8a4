package proxy

import (
	"context"
	"fmt"
	"time"

	"github.com/aws/aws-sdk-go-v2/aws"
	"github.com/aws/aws-sdk-go-v2/service/ec2instanceconnect"
)

// keyFresh is how long a key may be on the instance before the session stands.
// It is good for 60 s, and ssh has to log in with it.
const keyFresh = 20 * time.Second

// keyPush is a public key on its way to the instance.
type keyPush struct {
	done chan struct{} // closed when err is set
	err  error
}

// keyToSend reads the key that --send-key asks for, empty without it.
func (c *client) keyToSend(ctx context.Context) (string, error) {
	if c.options.SendKey == "" {
		return "", nil
	}
	if err := canTakeKeys(c.node()); err != nil {
		return "", err
	}
	return publicKey(ctx, c.options.SendKey)
}

// sendKey starts to push the key. Without one it returns nil.
func (c *client) sendKey(ctx context.Context, key string) *keyPush {
	if key == "" {
		return nil
	}
	p := &keyPush{done: make(chan struct{})}
	go func() { // ends with the call, or ctx
		defer close(p.done)
		p.err = c.sendPublicKey(ctx, key)
	}()
	return p
}

// wait returns when the key is there, or the reason why it isn't.
func (p *keyPush) wait() error {
	if p == nil {
		return nil
	}
	<-p.done
	return p.err
}

// over tells whether the key is there, or never will be.
func (p *keyPush) over() bool {
	if p == nil {
		return false
	}
	select {
	case <-p.done:
		return true
	default:
		return false
	}
}

// sendPublicKey makes the call. The zone, which it once asked for, it finds
// itself.
func (c *client) sendPublicKey(ctx context.Context, key string) error {
	api := ec2instanceconnect.NewFromConfig(c.config(), func(o *ec2instanceconnect.Options) {
		o.Retryer = aws.NopRetryer{} // insist has rules of its own
		o.RetryMaxAttempts = 0
	})
	if err := mustBeHTTPS("AWS_ENDPOINT_URL_EC2_INSTANCE_CONNECT", api.Options().BaseEndpoint); err != nil {
		return err
	}
	start := time.Now()
	err := c.insist(ctx, func(ctx context.Context) error {
		ctx, cancel := context.WithTimeout(ctx, attemptTimeout)
		defer cancel()
		_, err := api.SendSSHPublicKey(ctx, &ec2instanceconnect.SendSSHPublicKeyInput{
			InstanceId:     aws.String(c.node()),
			InstanceOSUser: aws.String(c.options.User),
			SSHPublicKey:   aws.String(key),
		})
		return err
	})
	if err != nil {
		return fmt.Errorf("push the public key: %w", err)
	}
	c.log.Info("public key pushed", "user", c.options.User, took(start))
	return nil
}

// canTakeKeys refuses what is no EC2 instance.
func canTakeKeys(id string) error {
	if !(target{id: id}).managedNode() {
		return nil
	}
	return errorWithHint(nil, fmt.Sprintf("no key can be pushed to %s: EC2 Instance Connect knows EC2 instances only, and this is a managed node", id),
		"put the public key into the user's ~/.ssh/authorized_keys there, and leave out --send-key")
}
