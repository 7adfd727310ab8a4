package ssmtest

import "fmt"

// Profiles returns the text of ~/.aws/config and of ~/.aws/credentials with a
// profile for each way to credentials:
//
//	base        a user's access key
//	role        a role, assumed by base
//	mfa         a role that takes an MFA code, assumed by base
//	chain       a role, assumed by mfa
//	sso         a role by single sign-on, in the session corp
//	sso-legacy  the same without a session, as older configurations have it
//	sso-mfa     a role that takes an MFA code, assumed by sso
func (s *Server) Profiles() (config, credentials string) {
	c := s.UserCredentials()
	credentials = fmt.Sprintf("[base]\naws_access_key_id = %s\naws_secret_access_key = %s\n", c.AccessKeyID, c.SecretAccessKey)
	profile := func(name, text string) {
		config += fmt.Sprintf("[profile %s]\nregion = %s\n%s\n", name, s.Region(), text)
	}
	const role, mfa = "role_arn = arn:aws:iam::" + accountID + ":role/Deploy\n", "role_arn = arn:aws:iam::" + accountID + ":role/Admin\nmfa_serial = " + mfaSerial + "\n"
	const by = "sso_account_id = " + accountID + "\nsso_role_name = " + ssoRole + "\n"
	portal := "sso_start_url = " + s.SSOStartURL() + "\nsso_region = us-east-2\n"
	profile("base", "")
	profile("role", role+"source_profile = base\n")
	profile("mfa", mfa+"source_profile = base\n")
	profile("chain", role+"source_profile = mfa\n")
	profile("sso", by+"sso_session = corp\n")
	profile("sso-legacy", by+portal)
	profile("sso-mfa", mfa+"source_profile = sso\n")
	config += "[sso-session corp]\n" + portal + "sso_registration_scopes = " + accessScope + "\n"
	return config, credentials
}
