package ledger_test

import (
	"bytes"
	"compress/gzip"
	"errors"
	"io"
	"slices"
	"strconv"
	"strings"
	"testing"
	"time"

	"codeberg.org/dataverket/segl/ca"
	"codeberg.org/dataverket/segl/ca/ledger"
	"codeberg.org/dataverket/segl/internal/cert"
	"codeberg.org/dataverket/segl/internal/pkitest"
	"codeberg.org/dataverket/segl/internal/uid"
)

// old is a house with an epoch that is long over: certificates of several kinds, one of them revoked, one open intent
// abandoned. Authorities are of another epoch, years from expiring.
func old(t *testing.T) (h *pkitest.House, e uid.Epoch, serials []cert.Serial) {
	t.Helper()
	h = pkitest.New(t)
	h.Advance(2 * uid.EpochLength)
	_, err := h.Ledger.MakeEpochs(t.Context(), h.Now())
	must(t, err)
	e = uid.EpochOf(h.Now())
	for i, names := range [][]string{{"dns:a.demo.test"}, {"dns:b.demo.test", "dns:a.demo.test"}, {"dns:c.demo.test"}} {
		c, err := h.Issue(t.Context(), demo, ca.Request{
			Scope: pkitest.Demo, Profile: "server", CSR: pkitest.CSR(t, pkitest.Key(t), names...), Origin: ca.Origin{ID: uid.New(uid.Order, 1, h.Now())},
		})
		must(t, err)
		serials = append(serials, c.Serial)
		if i == 1 {
			_, err = h.Revoke(t.Context(), demo, c.Serial, cert.Superseded)
			must(t, err)
		}
	}
	open := intent(h.Now())
	must(t, h.Ledger.Intend(t.Context(), open))
	h.Advance(time.Hour)
	_, err = h.Abandon(t.Context())
	must(t, err)
	h.Advance(100 * 24 * time.Hour)
	_, err = h.Ledger.MakeEpochs(t.Context(), h.Now())
	must(t, err)
	return h, e, append(serials, open.Serial)
}

func archived(t *testing.T, h *pkitest.House, e uid.Epoch) []byte {
	t.Helper()
	var file bytes.Buffer
	w, err := h.Ledger.Archive(t.Context(), e, h.Now(), &file)
	must(t, err)
	must(t, h.Ledger.Archived(t.Context(), e, "epoch.gz", w, h.Now()))
	return file.Bytes()
}

// everything is all that the ledger has of serials, as text.
func everything(t *testing.T, h *pkitest.House, serials []cert.Serial) string {
	t.Helper()
	var b strings.Builder
	for _, s := range serials {
		for _, sql := range []string{
			`SELECT coalesce(string_agg(to_jsonb(o)::text, '; '), '') FROM outcome o WHERE serial = $1`,
			`SELECT coalesce(string_agg(to_jsonb(o)::text, '; '), '') FROM revocation o WHERE serial = $1`,
			`SELECT coalesce(string_agg(to_jsonb(o)::text, '; '), '') FROM origin o WHERE serial = $1`,
			`SELECT coalesce(string_agg(to_jsonb(o)::text, '; ' ORDER BY mark), '') FROM further_name o WHERE serial = $1`,
			`SELECT coalesce(string_agg(to_jsonb(o)::text, '; ' ORDER BY xid, id), '') FROM fact o WHERE serial = $1`,
			`SELECT coalesce(string_agg((to_jsonb(o) - 'tbs')::text, '; '), '') FROM intent o WHERE serial = $1`,
		} {
			var text string
			must(t, h.DB.QueryRow(t.Context(), sql, s.Bytes()).Scan(&text))
			b.WriteString(text + "\n")
		}
		if rec, err := h.Ledger.BySerial(t.Context(), s); err == nil {
			b.Write(rec.TBS)
		}
	}
	return b.String()
}

func TestAnEpochIsArchivedDroppedAndRestored(t *testing.T) {
	h, e, serials := old(t)
	before := everything(t, h, serials)
	if err := h.Ledger.Drop(t.Context(), e, h.Now()); !errors.Is(err, ledger.ErrNotArchived) {
		t.Fatalf("dropped without an archive: %v", err)
	}
	file := archived(t, h, e)
	must(t, h.Ledger.Drop(t.Context(), e, h.Now()))
	must(t, h.Ledger.Drop(t.Context(), e, h.Now())) // again: nothing is left to do
	// Another replica closed the week while this one dropped it; what comes back is known by nothing that was known before.
	_, err := h.DB.Exec(t.Context(), `
		INSERT INTO closed_epoch (site, epoch, level, marks, ends, made_at)
		VALUES (1, $1, 0, 0, '{}', now())`, int32(e))
	must(t, err)
	_, err = h.DB.Exec(t.Context(), `
		INSERT INTO closed_epoch_block (site, epoch, block, bits)
		VALUES (1, $1, 0, $2)`, int32(e), make([]byte, 16))
	must(t, err)
	for _, s := range serials {
		if _, err := h.Ledger.BySerial(t.Context(), s); !errors.Is(err, ca.ErrNotFound) {
			t.Errorf("%s: %v, want ErrNotFound", s, err)
		}
		if err := h.Ledger.Stands(t.Context(), s); !errors.Is(err, ca.ErrNotFound) {
			t.Errorf("%s stands: %v, want ErrNotFound", s, err)
		}
		if err := h.Ledger.Revoke(t.Context(), revocation(s)); !errors.Is(err, ca.ErrNotFound) {
			t.Errorf("%s was revoked: %v, want ErrNotFound", s, err)
		}
	}
	if got := chosen(t, h, ca.Query{Name: named(t, "dns:a.demo.test")}); len(got) != 0 {
		t.Errorf("found %v after the drop", got)
	}
	if n := number(t, h.DB, `SELECT count(*) FROM pg_class WHERE relname LIKE '%e' || $1`, strconv.Itoa(int(e))); n != 0 {
		t.Errorf("%d tables are left", n)
	}
	r, err := h.Ledger.Restore(t.Context(), bytes.NewReader(file), h.Now())
	must(t, err)
	if r.Epoch != e || r.Rows[serials[0].UID().Partition("intent")] != int64(len(serials)) {
		t.Errorf("restored %+v", r)
	}
	if after := everything(t, h, serials); after != before {
		t.Errorf("restored as\n%s\nwas\n%s", after, before)
	}
	if got := chosen(t, h, ca.Query{Name: named(t, "dns:a.demo.test")}); len(got) != 2 {
		t.Errorf("found %v after it was restored, want two", got)
	}
	if _, err := h.Ledger.Restore(t.Context(), bytes.NewReader(file), h.Now()); err == nil {
		t.Error("restored what is there")
	}
	must(t, h.Ledger.Drop(t.Context(), e, h.Now()))
}

func TestDropRefusesWhatTheArchiveDoesNotHave(t *testing.T) {
	h, e, serials := old(t)
	archived(t, h, e)
	must(t, h.Ledger.Revoke(t.Context(), revocation(serials[0])))
	if err := h.Ledger.Drop(t.Context(), e, h.Now()); !errors.Is(err, ledger.ErrNotArchived) {
		t.Fatalf("dropped with a row that the file has not: %v", err)
	}
	if _, err := h.Ledger.BySerial(t.Context(), serials[0]); err != nil {
		t.Error(err)
	}
	archived(t, h, e)
	must(t, h.Ledger.Drop(t.Context(), e, h.Now()))
}

func TestDropRefusesAWeekWithAValidCertificate(t *testing.T) {
	h, e, serials := old(t)
	archived(t, h, e)
	last, err := h.Ledger.BySerial(t.Context(), serials[0])
	must(t, err)
	for _, s := range serials {
		rec, err := h.Ledger.BySerial(t.Context(), s)
		must(t, err)
		if rec.NotAfter.After(last.NotAfter) {
			last = rec
		}
	}
	if err := h.Ledger.Drop(t.Context(), e, last.NotAfter); !errors.Is(err, ledger.ErrValid) {
		t.Fatalf("dropped in the last second of a certificate: %v", err)
	}
	if _, err := h.Ledger.BySerial(t.Context(), last.Serial); err != nil {
		t.Error(err)
	}
	must(t, h.Ledger.Drop(t.Context(), e, last.NotAfter.Add(time.Second)))
}

func TestDropEndsWhatACrashLeft(t *testing.T) {
	h, e, serials := old(t)
	archived(t, h, e)
	_, err := h.DB.Exec(t.Context(), `UPDATE epoch_archive SET dropped_at = now()`)
	must(t, err)
	name := serials[0].UID().Partition("outcome")
	_, err = h.DB.Exec(t.Context(), `ALTER TABLE outcome DETACH PARTITION `+name)
	must(t, err)
	_, err = h.DB.Exec(t.Context(), `DROP TABLE `+serials[0].UID().Partition("revocation"))
	must(t, err)
	must(t, h.Ledger.Drop(t.Context(), e, h.Now()))
	if n := number(t, h.DB, `SELECT count(*) FROM pg_class WHERE relname LIKE '%e' || $1`, strconv.Itoa(int(e))); n != 0 {
		t.Errorf("%d tables are left", n)
	}
}

func TestArchiveRefusesAnOpenEpoch(t *testing.T) {
	h, _, _ := old(t)
	now := uid.EpochOf(h.Now())
	for name, at := range map[string]time.Time{"now's": h.Now(), "one that has just ended": now.End().Add(time.Minute)} {
		if _, err := h.Ledger.Archive(t.Context(), now, at, io.Discard); !errors.Is(err, ledger.ErrOpen) {
			t.Errorf("%s: %v, want ErrOpen", name, err)
		}
	}
	if _, err := h.Ledger.Archive(t.Context(), 1, h.Now(), io.Discard); err == nil {
		t.Error("archived an epoch that never was")
	}
}

func TestRestoreRefuses(t *testing.T) {
	h, e, _ := old(t)
	file := archived(t, h, e)
	must(t, h.Ledger.Drop(t.Context(), e, h.Now()))
	text := plain(t, file)
	all := strings.SplitAfter(strings.TrimSuffix(text, "\n"), "\n")
	for name, c := range map[string][]byte{
		"nothing":               nil,
		"what is not gzip":      []byte(text),
		"a file cut short":      file[:len(file)-20],
		"no end":                packed(t, strings.Join(all[:len(all)-1], "")),
		"a row altered":         packed(t, strings.Replace(text, `"profile":"server"`, `"profile":"client"`, 1)),
		"a row left out":        packed(t, strings.Join(slices.Delete(slices.Clone(all), 2, 3), "")),
		"a row twice":           packed(t, strings.Join(slices.Insert(slices.Clone(all), 2, all[2]), "")),
		"something at the end":  packed(t, text+"{}\n"),
		"another site's":        packed(t, strings.Replace(text, `"site":1`, `"site":2`, 1)),
		"another ledger's":      packed(t, strings.Replace(text, `demo/shop/dev`, `demo/shop/test`, 1)),
		"a later format":        packed(t, strings.Replace(text, `segl-epoch/1`, `segl-epoch/2`, 1)),
		"another epoch's table": packed(t, strings.Replace(text, `"table":"intent_10`, `"table":"scope`, 1)),
	} {
		if _, err := h.Ledger.Restore(t.Context(), bytes.NewReader(c), h.Now()); !errors.Is(err, ledger.ErrArchive) {
			t.Errorf("%s: %v, want ErrArchive", name, err)
		}
	}
	if n := number(t, h.DB, `SELECT count(*) FROM pg_class WHERE relname LIKE 'intent%e' || $1`, strconv.Itoa(int(e))); n != 0 {
		t.Error("a refused restoration left tables")
	}
}

func plain(t *testing.T, file []byte) string {
	t.Helper()
	z, err := gzip.NewReader(bytes.NewReader(file))
	must(t, err)
	text, err := io.ReadAll(z)
	must(t, err)
	return string(text)
}

func packed(t *testing.T, text string) []byte {
	t.Helper()
	var b bytes.Buffer
	z := gzip.NewWriter(&b)
	_, err := z.Write([]byte(text))
	must(t, errors.Join(err, z.Close()))
	return b.Bytes()
}

func TestAnEpochIsExpiredWhenEverythingInItIs(t *testing.T) {
	h, e, serials := old(t)
	last, err := h.Ledger.BySerial(t.Context(), serials[0])
	must(t, err)
	state := func(keep ledger.Retention) string {
		t.Helper()
		all, err := h.Ledger.Epochs(t.Context(), keep, h.Now())
		must(t, err)
		for _, v := range all {
			if v.Epoch == e {
				return v.State
			}
		}
		return "gone"
	}
	since := h.Now().Sub(last.NotAfter)
	for name, c := range map[string]struct {
		keep ledger.Retention
		want string
	}{
		"everything at once":              {ledger.Retention{}, ledger.Expired},
		"certificates kept":               {ledger.Retention{Certificates: since + time.Hour}, ledger.Closed},
		"certificates kept long enough":   {ledger.Retention{Certificates: since - time.Hour}, ledger.Expired},
		"one profile kept longer":         {ledger.Retention{Profiles: map[string]time.Duration{"server": since + time.Hour}}, ledger.Closed},
		"another profile kept longer":     {ledger.Retention{Profiles: map[string]time.Duration{"workload": since + time.Hour}}, ledger.Expired},
		"facts kept longer":               {ledger.Retention{Facts: 200 * 24 * time.Hour}, ledger.Closed},
		"a profile kept less than others": {ledger.Retention{Certificates: since + time.Hour, Profiles: map[string]time.Duration{"server": 0}}, ledger.Expired},
	} {
		if got := state(c.keep); got != c.want {
			t.Errorf("%s: %s, want %s", name, got, c.want)
		}
	}
	file := archived(t, h, e)
	if got := state(ledger.Retention{}); got != ledger.Archived {
		t.Errorf("archived: %s", got)
	}
	must(t, h.Ledger.Drop(t.Context(), e, h.Now()))
	if got := state(ledger.Retention{}); got != ledger.Dropped {
		t.Errorf("dropped: %s", got)
	}
	_, err = h.Ledger.Restore(t.Context(), bytes.NewReader(file), h.Now())
	must(t, err)
	if got := state(ledger.Retention{}); got != ledger.Restored {
		t.Errorf("restored: %s", got)
	}
}

// TestTheOpenEpochIsNeverExpired holds the ends of an epoch's life to its week.
func TestTheOpenEpochIsNeverExpired(t *testing.T) {
	h, _, _ := old(t)
	all, err := h.Ledger.Epochs(t.Context(), ledger.Retention{}, h.Now())
	must(t, err)
	states := map[uid.Epoch]string{}
	for _, v := range all {
		states[v.Epoch] = v.State
	}
	now := uid.EpochOf(h.Now())
	for e, want := range map[uid.Epoch]string{now: ledger.Open, now + 1: ledger.Ahead, now + 4: ledger.Ahead} {
		if states[e] != want {
			t.Errorf("epoch %d of %d is %s, want %s", e, now, states[e], want)
		}
	}
}
