package main

// An operation is a row of the table: a load, and what it should cost.
type operation struct {
	kind  string
	name  string
	share float64 // of -ops
	warm  int     // runs before those that count
	bar   float64 // S it must not exceed; 0: there is none
	goal  float64 // S it is meant to come down to
	grows bool    // whether it writes to the database
	asks  bool    // about certificates that were issued before

	beside string // of another's server: the kind of ours it is compared with
}

// operations returns the rows, in the order they run: what is asked about has been issued before.
func operations() []operation {
	return []operation{
		{kind: kindIssue, name: "issue from the client's CSR", share: 1, warm: 256, bar: 40, goal: 22, grows: true},
		{kind: kindBatch, name: "issue in a batch of 100, each", share: 1, warm: 4, goal: 12, grows: true},
		{kind: kindRenewOpen, name: "renew over mTLS, connection open", share: 0.05, warm: 64, grows: true},
		{kind: kindRenew, name: "renew over mTLS, with its handshake", share: 0.05, warm: 64, grows: true},
		{kind: kindOCSPFresh, name: "OCSP, not cached, POST", share: 0.25, warm: 64, goal: 6, asks: true},
		{kind: kindOCSPGet, name: "OCSP, cached, GET", share: 2, warm: 1024, bar: 4, goal: 2, asks: true},
		{kind: kindOCSPPost, name: "OCSP, cached, POST", share: 2, warm: 1024, bar: 4, goal: 2, asks: true},
		{kind: kindToken, name: "access token over mTLS", share: 1, warm: 256, goal: 12, grows: true},
		{kind: kindIntrospect, name: "introspection over mTLS", share: 2, warm: 1024, goal: 4, asks: true},
		{kind: kindRevoke, name: "revoke", share: 0.1, warm: 64, goal: 25, grows: true, asks: true},
		{kind: kindCRL, name: "fetch a CRL", share: 0.5, warm: 64, asks: true},
		{kind: kindACME, name: "ACME order of one name by http-01", share: 0.05, warm: 32, bar: 150, goal: 64, grows: true},
		{kind: kindACMEAgain, name: "ACME order of a name proved before", share: 0.05, warm: 32, goal: 40, grows: true},
		{kind: kindACMEMany, name: "ACME order of 100 names by http-01", share: 0.002, warm: 1, goal: 12 * 64, grows: true},
		{kind: kindACMEManyAgain, name: "ACME order of 100 names proved before", share: 0.01, warm: 16, goal: 12 * 64, grows: true},
	}
}

// floors returns what the same requests cost servers that do nearly nothing.
func floors() []operation {
	return []operation{
		{kind: kindBareIssue, name: "bare server: verify the CSR, sign", share: 0.5, warm: 256},
		{kind: kindBareFixed, name: "bare server: fixed octets", share: 2, warm: 1024, asks: true},
	}
}

// Limits that are not in S.
const (
	barOctets   = 1200     // of database a certificate, indexes and facts included
	barReady    = 2.0      // seconds from start to ready on an existing data directory
	barResident = 80 << 20 // octets in RAM when idle
	barProgram  = 60e6     // octets of the stripped program
)
