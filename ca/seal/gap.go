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
// named, so it can be on no list: OCSP answers unknown for it (RFC 6960 §2.2), and it is good until it expires for whoever asks
// only lists. What was revoked in it is good again, unless somebody kept a list.
type Gap struct {
	Head   Head   // where the ledger ends
	Why    string // it is fenced
	Site   byte
	Begins time.Time // the last that is known
	Ends   time.Time
	Lost   []Evidence // serials that somebody has evidence of and the ledger does not know: they go on the list
	Undone []Evidence // serials that a list has as revoked and the ledger no longer: they go on it again
}

// Evidence is a certificate, or the serial of one, that was kept outside the ledger, or an entry of a list.
type Evidence struct {
	Serial    cert.Serial
	Authority string
	NotAfter  time.Time
	TBS       []byte     // nil where only the serial is known
	Revoked   *time.Time // since when, by a list
	Reason    cert.Reason
}

// Confirmation is what whoever has read the plan types to have it done. It is another one as soon as anything differs.
func (g Gap) Confirmation() string {
	h := sha256.New()
	fmt.Fprintf(h, "%d %d %s %q %d", g.Head.Era, g.Head.Size, g.Head.Last, g.Why, g.Site) //nolint:errcheck // a hash takes everything
	for _, e := range append(append([]Evidence{}, g.Lost...), g.Undone...) {
		fmt.Fprintf(h, " %s/%s/%t", e.Serial, e.Authority, e.Revoked != nil) //nolint:errcheck // a hash takes everything
	}
	return "accept-" + hex.EncodeToString(h.Sum(nil)[:5])
}

// Era is the one that begins when the gap is accepted: seconds from 2020 to then. Counting on from the ledger's own would give a
// ledger that was restored to before a gap the number again which another tree, that somebody may remember, has already.
func (g Gap) Era() int {
	since2020 := g.Ends.Sub(time.Date(2020, time.January, 1, 0, 0, 0, 0, time.UTC))
	return max(g.Head.Era+1, int(since2020/time.Second))
}

// unknownLife is how long a certificate of which only the serial is known is taken to be valid: longer than any is.
const unknownLife = 400 * 24 * time.Hour

// maxEvidence bounds what is read at once.
const maxEvidence = 1 << 20

// ParseEvidence reads certificates and lists in PEM, and lines of a serial and the name of the authority that signed it. What
// is in PEM must be signed by one of authorities, so that nobody puts strangers' serials on our lists.
func ParseEvidence(b []byte, authorities map[string]*x509.Certificate) ([]Evidence, error) {
	var (
		out  []Evidence
		seen = map[cert.Serial]int{}
		add  = func(e Evidence) {
			i, ok := seen[e.Serial]
			switch {
			case !ok:
				seen[e.Serial], out = len(out), append(out, e)
			case e.Revoked != nil:
				out[i].Revoked, out[i].Reason = e.Revoked, e.Reason
			case e.TBS != nil:
				out[i].TBS, out[i].NotAfter = e.TBS, e.NotAfter
			}
		}
	)
	for {
		block, rest := pem.Decode(b)
		if block == nil {
			break
		}
		b = append(bytes.Clone(b[:bytes.Index(b, []byte("-----BEGIN"))]), rest...)
		found, err := evidenceOf(block, authorities)
		if err != nil {
			return nil, err
		}
		for _, e := range found {
			add(e)
		}
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

func evidenceOf(block *pem.Block, authorities map[string]*x509.Certificate) ([]Evidence, error) {
	if block.Type == "X509 CRL" {
		return listed(block.Bytes, authorities)
	}
	c, err := x509.ParseCertificate(block.Bytes)
	if err != nil {
		return nil, fmt.Errorf("reading a certificate: %w", err)
	}
	serial, err := cert.SerialFromInt(c.SerialNumber)
	if err != nil {
		return nil, fmt.Errorf("certificate %s: %w", c.Subject, err)
	}
	for name, a := range authorities {
		if bytes.Equal(a.RawSubject, c.RawIssuer) && c.CheckSignatureFrom(a) == nil {
			return []Evidence{{Serial: serial, Authority: name, NotAfter: c.NotAfter, TBS: c.RawTBSCertificate}}, nil
		}
	}
	return nil, fmt.Errorf("certificate %s: no authority of this ledger signed it", serial)
}

// listed returns the entries of a list.
func listed(der []byte, authorities map[string]*x509.Certificate) ([]Evidence, error) {
	l, err := x509.ParseRevocationList(der)
	if err != nil {
		return nil, fmt.Errorf("reading a list: %w", err)
	}
	for name, a := range authorities {
		if !bytes.Equal(a.RawSubject, l.RawIssuer) || l.CheckSignatureFrom(a) != nil {
			continue
		}
		var out []Evidence
		for _, r := range l.RevokedCertificateEntries {
			serial, err := cert.SerialFromInt(r.SerialNumber)
			if err != nil {
				return nil, fmt.Errorf("list %s of %s: %w", l.Number, name, err)
			}
			at := r.RevocationTime
			reason, err := cert.ReasonFromCode(r.ReasonCode)
			if err != nil {
				reason = cert.Unspecified
			}
			out = append(out, Evidence{Serial: serial, Authority: name, NotAfter: serial.Time().Add(unknownLife), Revoked: &at, Reason: reason})
		}
		return out, nil
	}
	return nil, fmt.Errorf("a list of %s: no authority of this ledger signed it", l.Issuer)
}
