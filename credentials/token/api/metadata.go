package api

import "codeberg.org/dataverket/segl/credentials/token"

// metadata describes the server, as RFC 8414 §2 and OpenID Connect Discovery 1.0 §3 name it. There is no authorization endpoint:
// nobody logs in here.
type metadata struct {
	Issuer                 string   `json:"issuer"`
	TokenEndpoint          string   `json:"token_endpoint"`
	JWKS                   string   `json:"jwks_uri"`
	IntrospectionEndpoint  string   `json:"introspection_endpoint"`
	RevocationEndpoint     string   `json:"revocation_endpoint"`
	Grants                 []string `json:"grant_types_supported"`
	TokenAuth              []string `json:"token_endpoint_auth_methods_supported"`
	TokenAuthAlgorithms    []string `json:"token_endpoint_auth_signing_alg_values_supported"`
	IntrospectionAuth      []string `json:"introspection_endpoint_auth_methods_supported"`
	RevocationAuth         []string `json:"revocation_endpoint_auth_methods_supported"`
	RevocationAlgorithms   []string `json:"revocation_endpoint_auth_signing_alg_values_supported"`
	ResponseTypes          []string `json:"response_types_supported"` // required, and of no meaning without that endpoint
	SubjectTypes           []string `json:"subject_types_supported"`
	IDTokenAlgorithms      []string `json:"id_token_signing_alg_values_supported"`
	Bound                  bool     `json:"tls_client_certificate_bound_access_tokens"` // RFC 8705 §3.3
	DPoPAlgorithms         []string `json:"dpop_signing_alg_values_supported"`          // RFC 9449 §5.1
	MTLSAliases            aliases  `json:"mtls_endpoint_aliases"`                      // RFC 8705 §5
	Claims                 []string `json:"claims_supported"`
	RevocationListEndpoint string   `json:"segl_revocations_endpoint"`
}

// aliases say where clients with certificates go: to the same addresses.
type aliases struct {
	Token         string `json:"token_endpoint"`
	Introspection string `json:"introspection_endpoint"`
	Revocation    string `json:"revocation_endpoint"`
}

func describe(s *token.Server) metadata {
	base := s.Issuer()
	asserted := []string{"ES256", "ES384", "EdDSA", "RS256", "PS256"}
	a := aliases{base + "/oauth2/token", base + "/oauth2/introspect", base + "/oauth2/revoke"}
	return metadata{
		Issuer: base, TokenEndpoint: a.Token, JWKS: base + "/oauth2/jwks", IntrospectionEndpoint: a.Introspection, RevocationEndpoint: a.Revocation,
		Grants:    []string{token.ClientCredentials, token.TokenExchange},
		TokenAuth: []string{"tls_client_auth", "private_key_jwt"}, TokenAuthAlgorithms: asserted,
		IntrospectionAuth: []string{"tls_client_auth"}, RevocationAuth: []string{"tls_client_auth", "private_key_jwt"}, RevocationAlgorithms: asserted,
		ResponseTypes: []string{"id_token"}, SubjectTypes: []string{"public"}, IDTokenAlgorithms: s.Algorithms(), Bound: true,
		DPoPAlgorithms: asserted, MTLSAliases: a,
		Claims:                 []string{"iss", "sub", "aud", "client_id", "jti", "iat", "exp", "scope", "cnf", "act", "segl_crt", "segl_bnd", "segl_from"},
		RevocationListEndpoint: base + "/oauth2/revocations",
	}
}
