package ssmtest

import (
	"bytes"
	"context"
	"crypto/tls"
	"encoding/json"
	"errors"
	"fmt"
	"io"
	"net/http"

	"ssmproxy/ssmstream"
)

// Resumer returns one that resumes the session by a real, signed API call, with
// the newest credentials.
func (s *Server) Resumer(sessionID string) ssmstream.Resumer { return sessionResumer{s, sessionID} }

type sessionResumer struct {
	s  *Server
	id string
}

func (r sessionResumer) ResumeSession(ctx context.Context) (ssmstream.Grant, error) {
	var out sessionOutput
	err := r.s.callRenewing(ctx, "AmazonSSM.ResumeSession", sessionInput{r.id}, &out)
	var failure *CallError
	switch {
	case errors.As(err, &failure) && failure.Code == "DoesNotExistException":
		return ssmstream.Grant{}, ssmstream.ErrSessionOver
	case errors.As(err, &failure) && failure != nil && permanent[failure.Code]:
		return ssmstream.Grant{}, ssmstream.Permanent(err)
	case err != nil:
		return ssmstream.Grant{}, err
	case out.TokenValue == "":
		return ssmstream.Grant{}, ssmstream.ErrSessionOver
	}
	return ssmstream.Grant{StreamURL: out.StreamURL, Token: out.TokenValue}, nil
}

var permanent = map[string]bool{
	"AccessDeniedException":       true,
	"ExpiredTokenException":       true,
	"UnrecognizedClientException": true,
}

// callRenewing is call, and again where the credentials were rotated while it
// was on its way: a client takes them afresh from their source.
func (s *Server) callRenewing(ctx context.Context, target string, in, out any) error {
	for {
		used := s.keys.latest().AccessKeyID
		err := s.call(ctx, target, in, out)
		var failure *CallError
		if !errors.As(err, &failure) || failure.Code != ErrExpired.Code || used == s.keys.latest().AccessKeyID {
			return err
		}
	}
}

// call makes one API call over a connection of its own.
func (s *Server) call(ctx context.Context, target string, in, out any) error {
	body, err := json.Marshal(in)
	if err != nil {
		return err
	}
	r, err := http.NewRequestWithContext(ctx, http.MethodPost, s.URL()+"/", bytes.NewReader(body))
	if err != nil {
		return err
	}
	r.Header.Set("Content-Type", "application/x-amz-json-1.1")
	r.Header.Set("X-Amz-Target", target)
	signRequest(r, body, "ssm", s.Region(), s.keys.latest())
	transport := &http.Transport{
		TLSClientConfig:   &tls.Config{RootCAs: s.authority.pool},
		DisableKeepAlives: true,
	}
	answer, err := (&http.Client{Transport: transport}).Do(r)
	if err != nil {
		return err
	}
	defer answer.Body.Close()
	data, err := io.ReadAll(answer.Body)
	if err != nil {
		return fmt.Errorf("%s: %w", target, err)
	}
	if answer.StatusCode != http.StatusOK {
		return asCallError(answer.StatusCode, data)
	}
	return json.Unmarshal(data, out)
}
