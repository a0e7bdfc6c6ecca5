package seal

import (
	"bufio"
	"bytes"
	"crypto/sha256"
	"crypto/x509"
	"encoding/hex"
	"encoding/pem"
	"errors"
	"fmt"
	"strings"
	"time"

	"codeberg.org/dataverket/segl/internal/cert"
)

// GapAccepted is the fact that an operator accepted a gap.
const GapAccepted = "ledger.gap"

// ErrNotFenced: there is no gap to accept.
var ErrNotFenced = errors.New("the ledger is not fenced: there is no gap to accept")

// A Gap is a time of which the ledger knows nothing any more. What was issued in it that nobody has evidence of cannot be
// named, so it can be on no list; OCSP answers revoked for every serial of the site that was made in the gap and is not in
// the ledger.
type Gap struct {
	Head   Head   // where the ledger ends
	Why    string // it is fenced
	Site   byte
	Begins time.Time // the last that is known
	Ends   time.Time
	Lost   []Evidence // serials that somebody has evidence of and the ledger does not know: they go on the list
}

// Evidence is a certificate, or the serial of one, that was kept outside the ledger.
type Evidence struct {
	Serial    cert.Serial
	Authority string
	NotAfter  time.Time
	TBS       []byte // nil where only the serial is known
}

// Confirmation is what whoever has read the plan types to have it done. It is another one as soon as anything differs.
func (g Gap) Confirmation() string {
	h := sha256.New()
	fmt.Fprintf(h, "%d %d %s %q %d", g.Head.Era, g.Head.Size, g.Head.Last, g.Why, g.Site)
	for _, e := range g.Lost {
		fmt.Fprintf(h, " %s/%s", e.Serial, e.Authority)
	}
	return "accept-" + hex.EncodeToString(h.Sum(nil)[:5])
}

// unknownLife is how long a certificate of which only the serial is known is taken to be valid: longer than any is.
const unknownLife = 400 * 24 * time.Hour

// maxEvidence bounds what is read at once.
const maxEvidence = 1 << 20

// ParseEvidence reads certificates in PEM, and lines of a serial and the name of the authority that signed it. A
// certificate must be signed by one of authorities, so that nobody puts strangers' serials on our lists.
func ParseEvidence(b []byte, authorities map[string]*x509.Certificate) ([]Evidence, error) {
	var (
		out  []Evidence
		seen = map[cert.Serial]bool{}
		add  = func(e Evidence) {
			if !seen[e.Serial] {
				seen[e.Serial], out = true, append(out, e)
			}
		}
	)
	for {
		block, rest := pem.Decode(b)
		if block == nil {
			break
		}
		b = append(bytes.Clone(b[:bytes.Index(b, []byte("-----BEGIN"))]), rest...)
		e, err := evidenceOf(block.Bytes, authorities)
		if err != nil {
			return nil, err
		}
		add(e)
	}
	lines := bufio.NewScanner(bytes.NewReader(b))
	for n := 1; lines.Scan(); n++ {
		fields := strings.Fields(lines.Text())
		if len(fields) == 0 || strings.HasPrefix(fields[0], "#") {
			continue
		}
		serial, err := cert.ParseSerial(fields[0])
		if err != nil {
			return nil, fmt.Errorf("line %d: %w", n, err)
		}
		if len(fields) != 2 || authorities[fields[1]] == nil { //nolint:mnd // a serial and an authority
			return nil, fmt.Errorf("line %d: %s: want the name of the authority that signed it after the serial: a list is one authority's", n, serial)
		}
		add(Evidence{Serial: serial, Authority: fields[1], NotAfter: serial.Time().Add(unknownLife)})
	}
	if len(out) > maxEvidence {
		return nil, fmt.Errorf("%d serials: give at most %d at a time", len(out), maxEvidence)
	}
	return out, lines.Err()
}

func evidenceOf(der []byte, authorities map[string]*x509.Certificate) (Evidence, error) {
	c, err := x509.ParseCertificate(der)
	if err != nil {
		return Evidence{}, fmt.Errorf("reading a certificate: %w", err)
	}
	serial, err := cert.SerialFromInt(c.SerialNumber)
	if err != nil {
		return Evidence{}, fmt.Errorf("certificate %s: %w", c.Subject, err)
	}
	for name, a := range authorities {
		if bytes.Equal(a.RawSubject, c.RawIssuer) && c.CheckSignatureFrom(a) == nil {
			return Evidence{Serial: serial, Authority: name, NotAfter: c.NotAfter, TBS: c.RawTBSCertificate}, nil
		}
	}
	return Evidence{}, fmt.Errorf("certificate %s: no authority of this ledger signed it", serial)
}
