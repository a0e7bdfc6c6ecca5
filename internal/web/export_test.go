package web

// IssuerOf is issuer.
func IssuerOf(token string) string { return issuer(token) }
