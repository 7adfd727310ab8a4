package ssmtest

import (
	"regexp"
	"slices"
	"strings"
	"time"

	"golang.org/x/crypto/ssh"

	"ssmproxy/ssmstream"
)

// PushedKey is what SendSSHPublicKey of EC2 Instance Connect was given.
type PushedKey struct {
	InstanceID string
	User       string
	Key        string // in the form of authorized_keys
}

// The constraints of SendSSHPublicKey's parameters, and what there are keys of,
// by the EC2 Instance Connect API Reference and "Requirements for key pairs" in
// the EC2 User Guide.
var (
	eicInstance = regexp.MustCompile(`^i-[a-f0-9]{8,30}$`)
	eicUser     = regexp.MustCompile(`^[A-Za-z_][A-Za-z0-9@._-]{0,30}[A-Za-z0-9$_-]?$`)
	eicKeyTypes = []string{ssh.KeyAlgoRSA, ssh.KeyAlgoED25519}
)

const (
	eicKeyMin = 80
	eicKeyMax = 4096
)

func (s *Server) callSendSSHPublicKey(_ *Credentials, body []byte) (any, *CallError) {
	var in struct {
		InstanceID     string `json:"InstanceId"`
		InstanceOSUser string
		SSHPublicKey   string
	}
	if err := decodeInput(body, &in); err != nil {
		return nil, err
	}
	if !eicInstance.MatchString(in.InstanceID) || len(in.InstanceOSUser) > 32 || !eicUser.MatchString(in.InstanceOSUser) {
		return nil, invalidArgs("the instance ID or the OS user does not match its pattern")
	}
	key, _, _, _, err := ssh.ParseAuthorizedKey([]byte(in.SSHPublicKey))
	if n := len(in.SSHPublicKey); n < eicKeyMin || n > eicKeyMax || err != nil || !slices.Contains(eicKeyTypes, key.Type()) {
		return nil, invalidArgs("the SSH public key is not one of a supported type and length")
	}
	if err := s.permit("ec2-instance-connect:SendSSHPublicKey", s.nodeARN(in.InstanceID)); err != nil {
		return nil, err
	}
	if nodes := s.nodes(); len(nodes) > 0 {
		i := slices.IndexFunc(nodes, func(n Node) bool { return n.InstanceID == in.InstanceID })
		if i < 0 {
			return nil, &CallError{Code: "EC2InstanceNotFoundException", Message: "The specified instance was not found."}
		}
		if nodes[i].Stopped {
			return nil, &CallError{Code: "EC2InstanceStateInvalidException", Message: "Unable to connect because the instance is not in a valid state."}
		}
	}
	s.push(PushedKey{in.InstanceID, in.InstanceOSUser, strings.TrimSpace(in.SSHPublicKey)})
	return struct {
		RequestID string `json:"RequestId"`
		Success   bool
	}{ssmstream.NewUUID().String(), true}, nil
}

func invalidArgs(why string) *CallError {
	return &CallError{Code: "InvalidArgsException", Message: "One of the parameters is not valid: " + why}
}

// push makes a key good for as long as it is to be.
func (s *Server) push(key PushedKey) {
	s.mu.Lock()
	s.pushed = append(s.pushed, key)
	s.mu.Unlock()
	if s.cfg.KeyPushed == nil {
		return
	}
	expire := s.cfg.KeyPushed(key)
	s.wg.Go(func() {
		timer := time.NewTimer(s.cfg.KeyLifetime)
		defer timer.Stop()
		select {
		case <-timer.C:
		case <-s.done:
		}
		expire()
	})
}

// PushedKeys returns the keys that SendSSHPublicKey has accepted, in their
// order, those that are no longer good included.
func (s *Server) PushedKeys() []PushedKey {
	s.mu.Lock()
	defer s.mu.Unlock()
	return slices.Clone(s.pushed)
}
