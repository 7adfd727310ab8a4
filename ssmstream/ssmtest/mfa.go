package ssmtest

import (
	"crypto/rand"
	"fmt"
	"math/big"
	"regexp"
	"sync"
)

const mfaSerial = "arn:aws:iam::" + accountID + ":mfa/demo"

// mfaDevice is the user's only MFA device. Like a key fob it shows another code
// each time it is looked at; as with the service each code is good once.
type mfaDevice struct {
	mu    sync.Mutex
	fresh map[string]bool // codes shown and not used yet
}

// MFASerial is the MFA device that roles of Config.MFARoles ask for.
func (s *Server) MFASerial() string { return mfaSerial }

// MFACode returns a new code of the device, good for one call.
func (s *Server) MFACode() string {
	d := &s.mfa
	d.mu.Lock()
	defer d.mu.Unlock()
	n, _ := rand.Int(rand.Reader, big.NewInt(1e6)) // never fails
	code := fmt.Sprintf("%06d", n)
	if d.fresh == nil {
		d.fresh = make(map[string]bool)
	}
	d.fresh[code] = true
	return code
}

var anyCode = regexp.MustCompile(`^\d{6}$`)

func (d *mfaDevice) verify(serial, code string) *CallError {
	if !anyCode.MatchString(code) {
		return &CallError{Code: "ValidationError", Message: "1 validation error detected: Value at 'tokenCode' failed to satisfy constraint: Member must satisfy regular expression pattern: [\\d]*"}
	}
	if serial != mfaSerial {
		return &CallError{Code: "AccessDenied", Message: "MultiFactorAuthentication failed, unable to validate MFA code.  Please verify your MFA serial number is valid and associated with this user."}
	}
	d.mu.Lock()
	defer d.mu.Unlock()
	if !d.fresh[code] {
		return &CallError{Code: "AccessDenied", Message: "MultiFactorAuthentication failed with invalid MFA one time pass code. "}
	}
	delete(d.fresh, code)
	return nil
}
