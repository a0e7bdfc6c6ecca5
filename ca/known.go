package ca

import "codeberg.org/dataverket/segl/internal/cert"

// A Known is a serial that the ledger knows, and what became of its intent: open, issued, revoked or abandoned. Open ends
// in issued or abandoned, issued may end in revoked, and nothing goes back.
type Known struct {
	Serial cert.Serial
	State  string
}
