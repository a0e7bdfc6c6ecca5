package softkms_test

import (
	"context"
	"errors"
	"fmt"
	"strings"
	"sync"
	"testing"
	"time"

	"github.com/jackc/pgx/v5"

	"codeberg.org/dataverket/segl/internal/postgres"
	"codeberg.org/dataverket/segl/internal/postgres/postgrestest"
	"codeberg.org/dataverket/segl/kms"
	"codeberg.org/dataverket/segl/kms/kmstest"
	"codeberg.org/dataverket/segl/kms/softkms"
)

const right = "correct horse battery staple"

func passphrase(t *testing.T, s string) softkms.Passphrase {
	t.Helper()
	p, err := softkms.NewPassphrase(s)
	if err != nil {
		t.Fatal(err)
	}
	return p
}

func config(t *testing.T, db *postgres.DB, s string) softkms.Config {
	t.Helper()
	return softkms.Config{DB: db, Passphrase: passphrase(t, s), Now: func() time.Time { return time.Unix(1_800_000_000, 0) }, Iterations: 1000}
}

func open(t *testing.T, db *postgres.DB) *softkms.Keyring {
	t.Helper()
	ring, err := softkms.Open(t.Context(), config(t, db, right))
	if err != nil {
		t.Fatal(err)
	}
	return ring
}

func TestKeyringConforms(t *testing.T) {
	db := postgrestest.Open(t)
	kmstest.Run(t, func(t *testing.T) kms.Keyring { return open(t, db) })
}

func TestOpenUsesTheIterationsOWASPAsksFor(t *testing.T) {
	db := postgrestest.Open(t)
	cfg := config(t, db, right)
	cfg.Iterations = 0
	for range 2 {
		if _, err := softkms.Open(t.Context(), cfg); err != nil {
			t.Fatal(err)
		}
	}
	cfg.Iterations = 999
	if _, err := softkms.Open(t.Context(), cfg); err == nil {
		t.Error("999 iterations were taken")
	}
	var n int
	if err := db.QueryRow(t.Context(), `SELECT iterations FROM kms_seal`).Scan(&n); err != nil || n != 600_000 {
		t.Errorf("%d iterations, %v", n, err)
	}
}

func TestOpenRefusesAnotherPassphrase(t *testing.T) {
	db := postgrestest.Open(t)
	open(t, db)
	for _, wrong := range []string{right + " ", strings.ToUpper(right), "x"} {
		_, err := softkms.Open(t.Context(), config(t, db, wrong))
		if !errors.Is(err, softkms.ErrPassphrase) {
			t.Errorf("got %v", err)
		}
		if err != nil && len(wrong) > 1 && strings.Contains(err.Error(), wrong) {
			t.Error("the error tells the passphrase")
		}
	}
	if _, err := softkms.Open(t.Context(), softkms.Config{DB: db, Now: time.Now}); err == nil {
		t.Error("opened without a passphrase")
	}
}

func TestFirstOpensRaceToOneSeal(t *testing.T) {
	db := postgrestest.Open(t)
	rings := make([]*softkms.Keyring, 4)
	var wg sync.WaitGroup
	for i := range rings {
		wg.Go(func() {
			ring, err := softkms.Open(t.Context(), config(t, db, right))
			if err != nil {
				t.Error(err)
			}
			rings[i] = ring
		})
	}
	wg.Wait()
	sealed, err := rings[0].Seal(t.Context(), "p", []byte("secret"))
	if err != nil {
		t.Fatal(err)
	}
	for _, ring := range rings[1:] {
		if _, err := ring.Open(t.Context(), "p", sealed); err != nil {
			t.Error(err)
		}
	}
}

func TestAlteredSealIsRefused(t *testing.T) {
	for what, sql := range map[string]string{
		"few iterations":     `UPDATE kms_seal SET iterations = 1`,
		"endless iterations": `UPDATE kms_seal SET iterations = 2000000000`,
		"other iterations":   `UPDATE kms_seal SET iterations = 1001`,
		"other salt":         `UPDATE kms_seal SET salt = '\x00'`,
		"no proof":           `UPDATE kms_seal SET proof = ''`,
	} {
		t.Run(what, func(t *testing.T) {
			db := postgrestest.Open(t)
			open(t, db)
			exec(t, db, sql)
			if _, err := softkms.Open(t.Context(), config(t, db, right)); err == nil {
				t.Error("opened")
			}
		})
	}
}

// Each row differs from what Create wrote in one thing.
func TestAlteredKeyIsRefused(t *testing.T) {
	for what, sql := range map[string]string{
		"another's name":      `UPDATE kms_key SET name = 'moved' WHERE name = 'one'`,
		"another's algorithm": `UPDATE kms_key SET name = 'moved', algorithm = 'p384' WHERE name = 'one'`,
		"another's sealed half": `UPDATE kms_key SET name = 'moved',
			sealed = (SELECT sealed FROM kms_key WHERE name = 'two') WHERE name = 'one'`,
		"sealed half altered": `UPDATE kms_key SET name = 'moved', sealed = set_byte(sealed, 40, 255 - get_byte(sealed, 40)) WHERE name = 'one'`,
		"sealed half gone":    `UPDATE kms_key SET name = 'moved', sealed = '' WHERE name = 'one'`,
	} {
		t.Run(what, func(t *testing.T) {
			db := postgrestest.Open(t)
			twoKeys(t, open(t, db))
			exec(t, db, sql)
			if _, err := open(t, db).Key(t.Context(), "moved"); err == nil || errors.Is(err, kms.ErrNotFound) {
				t.Errorf("got %v", err)
			}
		})
	}
}

func TestKeyWithAnothersPublicHalfIsRefused(t *testing.T) {
	db := postgrestest.Open(t)
	twoKeys(t, open(t, db))
	exec(t, db, `UPDATE kms_key SET public = (SELECT public FROM kms_key WHERE name = 'two') WHERE name = 'one'`)
	if _, err := open(t, db).Key(t.Context(), "one"); err == nil {
		t.Error("loaded")
	}
	if _, err := open(t, db).Key(t.Context(), "two"); err != nil {
		t.Error(err)
	}
}

// A private key that somebody copied into a sealed secret, or the other way round, does not open.
func TestSealedSecretsAndSealedKeysDoNotMix(t *testing.T) {
	db := postgrestest.Open(t)
	ring := open(t, db)
	twoKeys(t, ring)
	var sealed []byte
	if err := db.QueryRow(t.Context(), `SELECT sealed FROM kms_key WHERE name = 'one'`).Scan(&sealed); err != nil {
		t.Fatal(err)
	}
	if _, err := ring.Open(t.Context(), "one\x00p256", sealed); !errors.Is(err, kms.ErrSealed) {
		t.Errorf("a private key opened as a secret: %v", err)
	}
}

func TestDatabaseThatDoesNotAnswerIsUnavailable(t *testing.T) {
	db := postgrestest.Open(t)
	twoKeys(t, open(t, db))
	ring := open(t, db)
	tx, err := db.Begin(t.Context())
	if err != nil {
		t.Fatal(err)
	}
	defer tx.Rollback(t.Context()) //nolint:errcheck // only lets the table go
	if _, err := tx.Exec(t.Context(), `LOCK TABLE kms_key IN ACCESS EXCLUSIVE MODE`); err != nil {
		t.Fatal(err)
	}
	ctx, cancel := context.WithTimeout(t.Context(), 50*time.Millisecond)
	defer cancel()
	if _, err := ring.Key(ctx, "one"); !errors.Is(err, kms.ErrUnavailable) {
		t.Errorf("loading: %v", err)
	}
	if _, err := ring.Create(ctx, "three", kms.P256); !errors.Is(err, kms.ErrUnavailable) && !errors.Is(err, context.DeadlineExceeded) {
		t.Errorf("creating: %v", err)
	}
}

func TestKeysInUseNeedNoDatabase(t *testing.T) {
	db := postgrestest.Open(t)
	ring := open(t, db)
	one, _ := twoKeys(t, ring)
	db.Close()
	if _, err := ring.Key(t.Context(), "one"); err != nil {
		t.Errorf("a key in use needs the database: %v", err)
	}
	if err := kms.Prove(t.Context(), one); err != nil {
		t.Errorf("signing needs the database: %v", err)
	}
}

func TestPrintingKeyringAndKeysShowsNoSecret(t *testing.T) {
	db := postgrestest.Open(t)
	cfg := config(t, db, right)
	ring := open(t, db)
	one, _ := twoKeys(t, ring)
	for _, v := range []any{cfg.Passphrase, &cfg.Passphrase, struct{ p softkms.Passphrase }{cfg.Passphrase}, one} {
		for _, verb := range []string{"%v", "%+v", "%#v", "%s", "%q", "%x", "%d"} {
			s := fmt.Sprintf(verb, v)
			if strings.Contains(s, "horse") || strings.Contains(s, fmt.Sprintf("%x", "horse")) || strings.Contains(s, "D:") {
				t.Errorf("%s of %T: %s", verb, v, s)
			}
		}
	}
	if b, err := cfg.Passphrase.MarshalText(); err != nil || string(b) != "REDACTED" {
		t.Errorf("%s, %v", b, err)
	}
}

func TestPrivateKeysAreNotReadableInTheDatabase(t *testing.T) {
	db := postgrestest.Open(t)
	twoKeys(t, open(t, db))
	rows, err := db.Query(t.Context(), `SELECT sealed FROM kms_key`)
	if err != nil {
		t.Fatal(err)
	}
	all, err := pgx.CollectRows(rows, pgx.RowTo[[]byte])
	if err != nil || len(all) != 2 {
		t.Fatal(len(all), err)
	}
	for _, sealed := range all {
		if strings.Contains(string(sealed), "\x06\x07\x2a\x86\x48\xce\x3d\x02\x01") { // id-ecPublicKey, in every such PKCS #8
			t.Error("a private key stands in the clear")
		}
	}
}

func twoKeys(t *testing.T, ring *softkms.Keyring) (one, two kms.Key) {
	t.Helper()
	one, err := ring.Create(t.Context(), "one", kms.P256)
	if err != nil {
		t.Fatal(err)
	}
	two, err = ring.Create(t.Context(), "two", kms.P256)
	if err != nil {
		t.Fatal(err)
	}
	return one, two
}

func exec(t *testing.T, db *postgres.DB, sql string) {
	t.Helper()
	if _, err := db.Exec(t.Context(), sql); err != nil {
		t.Fatal(err)
	}
}
