package audit_test

import (
	"strings"
	"testing"
	"time"
	"unicode/utf8"

	"codeberg.org/dataverket/segl/internal/audit"
	"codeberg.org/dataverket/segl/internal/cert"
	"codeberg.org/dataverket/segl/internal/identity"
	"codeberg.org/dataverket/segl/internal/pkitest"
	"codeberg.org/dataverket/segl/internal/postgres"
	"codeberg.org/dataverket/segl/internal/postgres/postgrestest"
)

// opened is a database with the scopes and today's partitions.
func opened(t *testing.T) *postgres.DB {
	t.Helper()
	return pkitest.On(t, postgrestest.Open(t)).DB
}

func write(t *testing.T, db *postgres.DB, facts ...audit.Fact) error {
	t.Helper()
	_, err := db.Exec(t.Context(), audit.Insert, audit.Columns(facts...)...)
	return err
}

func TestAFactSaysWhoDidWhatToWhat(t *testing.T) {
	db, serial := opened(t), cert.NewSerial(1, time.Now())
	who := identity.Caller{Actor: "spiffe://segl.test/tenant/demo/web", Act: "spiffe://segl.test/tenant/demo/gateway"}
	err := write(t, db,
		audit.Fact{At: time.Now(), Who: who, Scope: pkitest.Demo, What: "test.full", Serial: serial, Subject: "a", Why: "because"},
		audit.Fact{At: time.Now(), Who: identity.System("test"), What: "test.bare", Refused: true},
		audit.Fact{At: time.Now(), Who: who, Scope: pkitest.Scope("nobody/knows"), What: "test.elsewhere", Refused: true})
	if err != nil {
		t.Fatal(err)
	}
	for what, want := range map[string]string{
		"test.full":      "demo/shop/dev true spiffe://segl.test/tenant/demo/web spiffe://segl.test/tenant/demo/gateway " + serial.String() + " a because",
		"test.bare":      "- false duty:test - - - -",
		"test.elsewhere": "- false spiffe://segl.test/tenant/demo/web spiffe://segl.test/tenant/demo/gateway - - -",
	} {
		var got string
		err := db.QueryRow(t.Context(), `
			SELECT concat_ws(' ', coalesce(s.path, '-'), f.allowed::text, f.actor, coalesce(f.act, '-'), coalesce(encode(f.serial, 'hex'), '-'),
			       coalesce(f.subject, '-'), coalesce(f.why, '-'))
			FROM   fact f
			LEFT   JOIN scope s ON s.id = f.scope
			WHERE  f.what = $1`, what).Scan(&got)
		if err != nil || got != want {
			t.Errorf("%s is\n%s, want\n%s (%v)", what, got, want, err)
		}
	}
}

func TestAFactNeverFailsForWhatAStrangerWrote(t *testing.T) {
	db := opened(t)
	for name, s := range map[string]string{
		"a NUL": "a\x00b", "broken UTF-8": "a\xff", "a surrogate": "a\xed\xa0\x80", "many": strings.Repeat("a", 100_000),
		"a rune across the bound": strings.Repeat("a", 255) + "é", "quotes": `'";--\`, "only NUL": "\x00",
	} {
		f := audit.Fact{At: time.Now(), Who: identity.Caller{Actor: s, Act: s}, What: "test." + name, Refused: true, Subject: s, Why: s}
		if err := write(t, db, f); err != nil {
			t.Errorf("%s: %v", name, err)
			continue
		}
		var subject string
		err := db.QueryRow(t.Context(), `
			SELECT subject
			FROM   fact
			WHERE  what = $1`, f.What).Scan(&subject)
		if err != nil || len(subject) > 300 || !utf8.ValidString(subject) || strings.Contains(subject, "\x00") {
			t.Errorf("%s: stored %d octets, %v", name, len(subject), err)
		}
	}
}

func TestFactsOfATimeWithoutAPartitionAreRefused(t *testing.T) {
	if err := write(t, opened(t), audit.Fact{At: time.Now().AddDate(-1, 0, 0), What: "test.old"}); err == nil {
		t.Fatal("took a fact of last year")
	}
}
