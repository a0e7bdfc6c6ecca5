package postgres

// VerifierOf is verifier with a salt of the test's own.
var VerifierOf = verifierOf
