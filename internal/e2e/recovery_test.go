package e2e_test

import (
	"context"
	"crypto/x509"
	"encoding/pem"
	"fmt"
	"io"
	"net/http"
	"net/url"
	"os"
	"os/exec"
	"path/filepath"
	"strings"
	"testing"
	"time"

	"github.com/jackc/pgx/v5"

	"codeberg.org/dataverket/segl/internal/e2e"
	"codeberg.org/dataverket/segl/internal/postgres/cluster"
	"codeberg.org/dataverket/segl/internal/postgres/postgrestest"
)

// A runbook is docs/recovery.md with what its commands take for granted.
type runbook struct {
	*e2e.Segl
	blocks map[string]string
	vars   map[string]string
}

func openRunbook(t *testing.T, s *e2e.Segl, pg *cluster.Cluster) *runbook {
	t.Helper()
	text, err := os.ReadFile("../../docs/recovery.md")
	if err != nil {
		t.Fatal(err)
	}
	r := &runbook{Segl: s, blocks: map[string]string{}, vars: map[string]string{}}
	for _, part := range strings.Split(string(text), "<!-- run: ")[1:] {
		name, rest, _ := strings.Cut(part, " -->\n```sh\n")
		block, _, ok := strings.Cut(rest, "```")
		if !ok {
			t.Fatalf("docs/recovery.md: block %.20q has no commands", part)
		}
		r.blocks[name] = block
	}
	dir := filepath.Dir(s.Dir)
	bin := filepath.Join(dir, "bin")
	for _, name := range []string{"keep", "backup", "bin"} {
		if err := os.MkdirAll(filepath.Join(dir, name), 0o700); err != nil {
			t.Fatal(err)
		}
	}
	if err := os.Symlink(e2e.Binary(t), filepath.Join(bin, "segl")); err != nil {
		t.Fatal(err)
	}
	r.vars = map[string]string{
		"KEEP": filepath.Join(dir, "keep"), "BACKUP": filepath.Join(dir, "backup"), "SEGL_CONFIG": filepath.Join(dir, "segl.yaml"),
		"SUPERUSER_URL": pg.SuperuserURL(), "PATH": bin + ":" + pg.BinDir() + ":" + os.Getenv("PATH"),
	}
	return r
}

// run runs a block of the page as it stands there, and returns what it printed.
func (r *runbook) run(t *testing.T, name string) string {
	t.Helper()
	for k, v := range r.vars {
		r.Env[k] = v
	}
	block, ok := r.blocks[name]
	if !ok {
		t.Fatalf("docs/recovery.md has no block %s", name)
	}
	delete(r.blocks, name)
	return r.Run(t, "sh", "-eu", "-c", block)
}

// configure writes the configuration of a server on the database at url, as this one is.
func (r *runbook) configure(t *testing.T, database string) {
	t.Helper()
	text := fmt.Sprintf("site: 1\ntrust_domain: segl.test\ndatabase: {url: %q}\npassphrase_file: %q\n", database, filepath.Join(r.Dir, "passphrase"))
	if err := os.WriteFile(r.vars["SEGL_CONFIG"], []byte(text), 0o600); err != nil {
		t.Fatal(err)
	}
}

func (r *runbook) issue(t *testing.T, name string) *x509.Certificate {
	t.Helper()
	prefix := filepath.Join(filepath.Dir(r.Dir), name)
	r.Run(t, "segl", "cert", "issue", "--profile", "server", "--name", name+".demo.test", "--out", prefix)
	b, err := os.ReadFile(prefix + ".pem")
	if err != nil {
		t.Fatal(err)
	}
	block, _ := pem.Decode(b)
	c, err := x509.ParseCertificate(block.Bytes)
	if err != nil {
		t.Fatal(err)
	}
	return c
}

// listed reports which lists name c, by their numbers.
func (r *runbook) listed(t *testing.T, c *x509.Certificate) (numbers []string) {
	t.Helper()
	res, err := http.Get(r.Env["SEGL_PUBLIC_URL"] + "/crls.pem") //nolint:forbidigo,noctx // a test server's
	if err != nil {
		t.Fatal(err)
	}
	defer res.Body.Close() //nolint:errcheck // only read
	b, err := io.ReadAll(res.Body)
	if err != nil {
		t.Fatal(err)
	}
	for block, rest := pem.Decode(b); block != nil; block, rest = pem.Decode(rest) {
		l, err := x509.ParseRevocationList(block.Bytes)
		if err != nil {
			t.Fatal(err)
		}
		for _, e := range l.RevokedCertificateEntries {
			if e.SerialNumber.Cmp(c.SerialNumber) == 0 {
				numbers = append(numbers, l.Number.String())
			}
		}
	}
	return numbers
}

// within waits for something that happens by itself.
func within(t *testing.T, what string, ok func() bool) {
	t.Helper()
	for end := time.Now().Add(30 * time.Second); !ok(); {
		if time.Now().After(end) {
			t.Fatalf("%s: not within 30 s", what)
		}
		time.Sleep(100 * time.Millisecond) //nolint:forbidigo // another process is waited for
	}
}

// sealed waits until the checkpoint file covers what was done so far.
func (r *runbook) sealed(t *testing.T) {
	t.Helper()
	within(t, "sealing", func() bool {
		kept, err := os.ReadFile(filepath.Join(r.Dir, "checkpoint"))
		return err == nil && string(kept) == r.Run(t, "segl", "ledger", "checkpoint") &&
			strings.Contains(r.Run(t, "segl", "ledger", "verify"), " 0 not sealed yet")
	})
}

// fenced sees that nothing is issued, that it is said what to do, and that status goes on.
func (r *runbook) fenced(t *testing.T, c *x509.Certificate) {
	t.Helper()
	out, err := r.Try(t, "segl", "cert", "issue", "--timeout", "2s", "--profile", "server", "--name", "b.demo.test", "--out", filepath.Join(r.Dir, "no"))
	if exit, ok := err.(*exec.ExitError); !ok || exit.ExitCode() != 6 || !strings.Contains(out, "recovery.md") { //nolint:errorlint // as exec returns it
		t.Errorf("a fenced ledger issues, or does not say what to do: %v\n%s", err, out)
	}
	if r.listed(t, c) != nil {
		t.Error("the restored ledger knows of a revocation after its backup")
	}
	r.Run(t, "segl", "cert", "show", fmt.Sprintf("%x", c.SerialNumber))
}

// accept follows the page to its end.
func (r *runbook) accept(t *testing.T, lost *x509.Certificate) {
	t.Helper()
	file := filepath.Join(r.vars["KEEP"], "lost.pem")
	if err := os.WriteFile(file, pem.EncodeToMemory(&pem.Block{Type: "CERTIFICATE", Bytes: lost.Raw}), 0o600); err != nil {
		t.Fatal(err)
	}
	if out := r.run(t, "plan"); !strings.Contains(out, "--confirm accept-") {
		t.Fatalf("the plan asks for no confirmation: %s", out)
	}
	args := []string{"ledger", "accept-gap", "--config", r.vars["SEGL_CONFIG"], "--serials", filepath.Join(r.vars["KEEP"], "evidence.txt")}
	if out, err := r.Try(t, "segl", append(args, "--confirm", "yes")...); err == nil {
		t.Errorf("any word confirms: %s", out)
	}
	name, _, _ := strings.Cut(r.Run(t, "segl", append(args, "-o", "name")...), "\n")
	r.vars["WORDS"] = name
	r.run(t, "accept")
}

func restoredDatabase(t *testing.T, pg *cluster.Cluster) string {
	t.Helper()
	ctx := context.WithoutCancel(t.Context())
	conn, err := pgx.Connect(ctx, pg.SuperuserURL())
	if err != nil {
		t.Fatal(err)
	}
	defer conn.Close(ctx) //nolint:errcheck // only one statement
	if _, err := conn.Exec(ctx, `CREATE DATABASE restored OWNER segl TEMPLATE template0`); err != nil {
		t.Fatal(err)
	}
	u, err := url.Parse(pg.URL())
	if err != nil {
		t.Fatal(err)
	}
	u.Path = "/restored"
	return u.String()
}

func TestTheRunbookRestoresADump(t *testing.T) {
	e2e.Need(t, "curl", "curl")
	pg := postgrestest.Cluster(t, nil)
	r := openRunbook(t, e2e.Start(t, "--database-url", pg.URL()), pg)

	kept := r.issue(t, "kept")
	r.run(t, "dump")
	lost := r.issue(t, "lost")
	r.Run(t, "segl", "cert", "revoke", fmt.Sprintf("%x", kept.SerialNumber), "--reason", "superseded")
	within(t, "listing", func() bool { return len(r.listed(t, kept)) > 0 })
	before := r.listed(t, kept)
	r.sealed(t)
	r.run(t, "keep")
	r.Stop(t)

	r.vars["RESTORED_URL"] = restoredDatabase(t, pg)
	r.run(t, "restore")
	r.configure(t, r.vars["RESTORED_URL"])
	r.Begin(t, "--database-url", r.vars["RESTORED_URL"])
	r.fenced(t, kept)
	r.accept(t, lost)

	within(t, "issuing again", func() bool {
		_, err := r.Try(t, "segl", "cert", "issue", "--profile", "server", "--name", "again.demo.test", "--out", filepath.Join(r.Dir, "again"))
		return err == nil
	})
	for name, c := range map[string]*x509.Certificate{"lost": lost, "kept, and revoked after the backup": kept} {
		within(t, "listing what was "+name, func() bool { return len(r.listed(t, c)) > 0 })
	}
	if after := r.listed(t, kept); len(after[0]) < len(before[0]) || len(after[0]) == len(before[0]) && after[0] <= before[0] {
		t.Errorf("lists were number %s and are number %s", before, after)
	}
	within(t, "sealing the new era", func() bool {
		return strings.HasPrefix(r.Run(t, "segl", "ledger", "checkpoint"), "segl.test/ledger/1/era")
	})
	r.run(t, "verify")
	if out := r.Run(t, "segl", "ledger", "show", "--what", "ledger.gap"); !strings.Contains(out, "restored from a dump") {
		t.Errorf("the gap is no fact: %s", out)
	}
}

// fromBase starts a cluster on a copy of a base backup of another.
func fromBase(t *testing.T, of *cluster.Cluster, base string, settings map[string]string) *cluster.Cluster {
	t.Helper()
	dir, err := os.MkdirTemp("", "segl-base-")
	if err != nil {
		t.Fatal(err)
	}
	t.Cleanup(func() { os.RemoveAll(dir) }) //nolint:errcheck // a temporary directory
	owner := "--reference=" + of.DataDir()
	for _, args := range [][]string{
		{"cp", "-R", base, filepath.Join(dir, "data")}, {"cp", filepath.Join(of.Dir(), "password"), dir},
		{"chown", "-R", owner, dir}, {"chmod", "0700", filepath.Join(dir, "data")},
	} {
		if out, err := exec.Command(args[0], args[1:]...).CombinedOutput(); err != nil { //nolint:gosec // our own words
			t.Fatalf("%v: %v: %s", args, err, out)
		}
	}
	if settings["restore_command"] != "" {
		signal := filepath.Join(dir, "data", "recovery.signal")
		if err := os.WriteFile(signal, nil, 0o644); err != nil { //nolint:gosec // empty
			t.Fatal(err)
		}
	}
	pg, err := cluster.Start(t.Context(), cluster.Config{Dir: dir, Settings: settings})
	if err != nil {
		t.Fatal(err)
	}
	t.Cleanup(func() { pg.Stop() }) //nolint:errcheck // it served its purpose
	within(t, "recovering", func() bool { return superuser(t, pg, `SELECT pg_is_in_recovery()::text`) == "false" })
	return pg
}

// superuser runs a statement and returns its one value.
func superuser(t *testing.T, pg *cluster.Cluster, sql string) (value string) {
	t.Helper()
	conn, err := pgx.Connect(t.Context(), pg.SuperuserURL())
	if err != nil {
		t.Fatal(err)
	}
	defer conn.Close(context.WithoutCancel(t.Context())) //nolint:errcheck // only one statement
	if err := conn.QueryRow(t.Context(), sql).Scan(&value); err != nil {
		t.Fatal(err)
	}
	return value
}

func TestTheRunbookRestoresABaseBackup(t *testing.T) {
	e2e.Need(t, "curl", "curl")
	archive, err := os.MkdirTemp("", "segl-wal-")
	if err != nil {
		t.Fatal(err)
	}
	t.Cleanup(func() { os.RemoveAll(archive) })      //nolint:errcheck // a temporary directory
	if err := os.Chmod(archive, 0o777); err != nil { //nolint:gosec // Postgres runs as another user
		t.Fatal(err)
	}
	pg := postgrestest.Cluster(t, map[string]string{"archive_mode": "on", "archive_command": "cp %p " + archive + "/%f"})
	r := openRunbook(t, e2e.Start(t, "--database-url", pg.URL()), pg)

	kept := r.issue(t, "kept")
	r.run(t, "base")
	lost := r.issue(t, "lost")
	r.Run(t, "segl", "cert", "revoke", fmt.Sprintf("%x", kept.SerialNumber), "--reason", "superseded")
	within(t, "listing", func() bool { return len(r.listed(t, kept)) > 0 })
	r.sealed(t)
	r.run(t, "keep")
	r.Stop(t)
	superuser(t, pg, `SELECT pg_switch_wal()::text`)
	if err := pg.Stop(); err != nil {
		t.Fatal(err)
	}
	base := filepath.Join(r.vars["BACKUP"], "base")

	t.Run("with all of the log nothing is missing", func(t *testing.T) {
		whole := fromBase(t, pg, base, map[string]string{"restore_command": "cp " + archive + "/%f %p", "recovery_target_timeline": "latest"})
		r.Begin(t, "--database-url", whole.URL())
		r.Run(t, "segl", "cert", "issue", "--profile", "server", "--name", "more.demo.test", "--out", filepath.Join(r.Dir, "more"))
		if len(r.listed(t, kept)) == 0 {
			t.Error("a revocation was undone")
		}
		r.Stop(t)
	})
	// What was just sealed is of another future than the one that follows: bring the file back to the last one of before.
	if err := os.WriteFile(filepath.Join(r.Dir, "checkpoint"), read(t, filepath.Join(r.vars["KEEP"], "checkpoint.txt")), 0o600); err != nil {
		t.Fatal(err)
	}
	t.Run("without the log it is fenced", func(t *testing.T) {
		older := fromBase(t, pg, base, nil)
		r.configure(t, older.URL())
		r.Begin(t, "--database-url", older.URL())
		r.fenced(t, kept)
		r.accept(t, lost)
		for name, c := range map[string]*x509.Certificate{"lost": lost, "kept, and revoked after the backup": kept} {
			within(t, "listing what was "+name, func() bool { return len(r.listed(t, c)) > 0 })
		}
		within(t, "sealing the new era", func() bool {
			return strings.HasPrefix(r.Run(t, "segl", "ledger", "checkpoint"), "segl.test/ledger/1/era")
		})
		r.run(t, "verify")
		r.Stop(t)
	})
}

func read(t *testing.T, file string) []byte {
	t.Helper()
	b, err := os.ReadFile(file)
	if err != nil {
		t.Fatal(err)
	}
	return b
}
