package ssmtest

import (
	"regexp"
	"slices"

	"ssmproxy/ssmstream"
)

type sessionOutput struct {
	SessionID  string `json:"SessionId"`
	StreamURL  string `json:"StreamUrl,omitempty"`
	TokenValue string `json:",omitempty"`
}

func sessionOutputOf(id string, g ssmstream.Grant) sessionOutput {
	return sessionOutput{SessionID: id, StreamURL: g.StreamURL, TokenValue: g.Token}
}

var (
	anyTarget = regexp.MustCompile(`^m?i-[0-9a-f]{8,17}$`)
	anyPort   = regexp.MustCompile(`^(0|[1-9][0-9]{0,3}|[1-5][0-9]{4}|6[0-4][0-9]{3}|65[0-4][0-9]{2}|655[0-2][0-9]|6553[0-5])$`)
)

func (s *Server) callStartSession(_ *Credentials, body []byte) (any, *CallError) {
	var in struct {
		Target       string
		DocumentName string
		Reason       string
		Parameters   map[string][]string
	}
	if err := decodeInput(body, &in); err != nil {
		return nil, err
	}
	if in.Target == "" {
		return nil, &CallError{Code: "ValidationException", Message: "1 validation error detected: Value null at 'target' failed to satisfy constraint: Member must not be null"}
	}
	if len(in.Reason) > 256 {
		return nil, &CallError{Code: "ValidationException", Message: "1 validation error detected: Value at 'reason' failed to satisfy constraint: Member must have length less than or equal to 256"}
	}
	if err := s.permit("ssm:StartSession", s.nodeARN(in.Target)); err != nil {
		return nil, err
	}
	if in.DocumentName != sshDocument && !slices.Contains(s.cfg.Documents, in.DocumentName) {
		return nil, &CallError{Code: "InvalidDocument", Message: "Document with name " + in.DocumentName + " does not exist."}
	}
	port := "22"
	for name, values := range in.Parameters {
		if name != "portNumber" || len(values) != 1 || !anyPort.MatchString(values[0]) {
			return nil, &CallError{Code: "InvalidParameters", Message: "Parameter \"" + name + "\" has an invalid value or is not defined in document."}
		}
		port = values[0]
	}
	if !s.connected(in.Target) {
		return nil, &CallError{Code: "TargetNotConnected", Message: in.Target + " is not connected."}
	}
	sess := s.newSession(in.Target, port)
	return sessionOutputOf(sess.id, sess.grant()), nil
}

func (s *Server) nodeARN(id string) string {
	if (Node{InstanceID: id}).resourceType() == "ManagedInstance" {
		return "arn:aws:ssm:" + s.Region() + ":" + accountID + ":managed-instance/" + id
	}
	return "arn:aws:ec2:" + s.Region() + ":" + accountID + ":instance/" + id
}

func (s *Server) sessionARN(id string) string {
	return "arn:aws:ssm:" + s.Region() + ":" + accountID + ":session/" + id
}

func (s *Server) connected(target string) bool {
	nodes := s.nodes()
	if len(nodes) == 0 {
		return anyTarget.MatchString(target)
	}
	return slices.ContainsFunc(nodes, func(n Node) bool {
		return n.InstanceID == target && n.PingStatus == "Online"
	})
}

// SetNodes changes the account's managed nodes, as by one that comes online.
func (s *Server) SetNodes(nodes ...Node) {
	s.mu.Lock()
	defer s.mu.Unlock()
	s.managed = withNodeDefaults(nodes, s.cfg.AgentVersion)
}

func (s *Server) nodes() []Node {
	s.mu.Lock()
	defer s.mu.Unlock()
	return s.managed
}

type sessionInput struct {
	SessionID string `json:"SessionId"`
}

func (s *Server) sessionOf(body []byte, action string) (*session, *CallError) {
	var in sessionInput
	if err := decodeInput(body, &in); err != nil {
		return nil, err
	}
	if err := s.permit(action, s.sessionARN(in.SessionID)); err != nil {
		return nil, err
	}
	sess := s.session(in.SessionID)
	if sess == nil {
		return nil, &CallError{Code: "DoesNotExistException", Message: "Session " + in.SessionID + " does not exist"}
	}
	return sess, nil
}

// callResumeSession gives no token for a session that has ended, as the service
// does, nor for one that was presigned.
func (s *Server) callResumeSession(_ *Credentials, body []byte) (any, *CallError) {
	sess, err := s.sessionOf(body, "ssm:ResumeSession")
	if err != nil {
		return nil, err
	}
	if sess.isEnded() || s.cfg.PresignedURL {
		return sessionOutput{SessionID: sess.id}, nil
	}
	return sessionOutputOf(sess.id, sess.grant()), nil
}

func (s *Server) callTerminateSession(_ *Credentials, body []byte) (any, *CallError) {
	sess, err := s.sessionOf(body, "ssm:TerminateSession")
	if err != nil {
		return nil, err
	}
	sess.end(CauseAPI, "")
	return sessionOutput{SessionID: sess.id}, nil
}
