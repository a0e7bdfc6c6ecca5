package main

import (
	"bufio"
	"context"
	"encoding/json"
	"errors"
	"fmt"
	"io"
	"net/url"
	"os"
	"os/exec"
	"path/filepath"
	"time"

	"github.com/jackc/pgx/v5"
)

// peers returns what step-ca is measured at, each with the operation of ours that it stands beside. Few are enough: one
// costs many times what ours does.
func peers() []operation {
	return []operation{
		{kind: kindPeerSign, name: "step-ca: sign with a one-time token", share: 0.03, warm: 64, grows: true, beside: kindIssue},
		{kind: kindPeerOrder, name: "step-ca: ACME order of one name by http-01", share: 0.015, warm: 32, grows: true, beside: kindACME},
	}
}

// buildPeer builds step-ca from its module in this tree. Where that cannot be (its modules may not be in reach), the page
// says so, and everything else is measured all the same.
func (b *bench) buildPeer(ctx context.Context) {
	const within = 15 * time.Minute // nothing of it is in the build cache at first
	ctx, cancel := context.WithTimeout(ctx, within)
	defer cancel()
	fmt.Fprintln(os.Stderr, "bench: building step-ca, which may take minutes the first time") //nolint:errcheck // for whoever waits
	program := filepath.Join(b.dir, "stepca")
	cmd := exec.CommandContext(ctx, "go", "build", "-C", "internal/interop", "-trimpath", "-ldflags", "-s -w", "-o", program, "./stepca")
	if out, err := cmd.CombinedOutput(); err != nil {
		fmt.Fprintf(os.Stderr, "bench: no step-ca: %v\n%s", err, out) //nolint:errcheck // for whoever waits
		return
	}
	b.peer = program
}

var errNoPeer = errors.New("step-ca could not be fetched or built here")

func (b *bench) wantsPeer() bool {
	for _, op := range peers() {
		if b.wanted(op) {
			return true
		}
	}
	return false
}

// measurePeer measures step-ca on the Postgres of a running segl, which has nothing to do meanwhile.
func (b *bench) measurePeer(ctx context.Context, beside subject) error {
	if !b.wantsPeer() {
		return nil
	}
	if b.peer == "" {
		for _, op := range peers() {
			b.page.rows = append(b.page.rows, row{operation: op, outcome: outcome{Absent: errNoPeer.Error()}})
		}
		return nil
	}
	db, database, err := peerDatabase(ctx, beside.env["SEGL_DATABASE_URL"])
	if err != nil {
		return err
	}
	defer db.Close(ctx) //nolint:errcheck // it only read
	cmd := exec.CommandContext(ctx, b.peer, "-database", database, "-dir", b.dir, "-http-01", fmt.Sprint(beside.port))
	log, err := os.Create(filepath.Join(b.dir, "stepca.log"))
	if err != nil {
		return err
	}
	defer log.Close() //nolint:errcheck // read below by its name
	cmd.Stderr = log
	in, err1 := cmd.StdinPipe()
	out, err2 := cmd.StdoutPipe()
	if err := errors.Join(err1, err2); err != nil {
		return err
	}
	if err := cmd.Start(); err != nil {
		return fmt.Errorf("starting step-ca: %w", err)
	}
	err = b.measurePeerAt(ctx, out, subject{pid: cmd.Process.Pid, postgres: beside.pid, db: db, port: beside.port})
	in.Close()                                                        //nolint:errcheck // it ends then
	late := time.AfterFunc(stopWithin, func() { cmd.Process.Kill() }) //nolint:errcheck // it may be gone already
	defer late.Stop()
	if waited := cmd.Wait(); err == nil && waited != nil {
		err = fmt.Errorf("running step-ca: %w", waited)
	}
	if err != nil {
		said, _ := os.ReadFile(log.Name()) //nolint:errcheck // the error is told in any case
		err = fmt.Errorf("%w\n%s", err, said[max(0, len(said)-2048):])
	}
	return err
}

// measurePeerAt measures the step-ca that tells out where it is.
func (b *bench) measurePeerAt(ctx context.Context, out io.Reader, at subject) error {
	var told struct{ URL, Directory, Root, Issuer, KeyID, Key string }
	line, err := readLine(bufio.NewReader(out))
	if err == nil {
		err = json.Unmarshal([]byte(line), &told)
	}
	if err != nil {
		return fmt.Errorf("starting step-ca: %w", err)
	}
	at.env = map[string]string{
		"SEGL_URL": told.URL, "SEGL_ACME_DIRECTORY": told.Directory, "SEGL_ROOT": told.Root, "SEGL_SCOPE": "demo/shop/dev",
		envIssuer: told.Issuer, envKeyID: told.KeyID, envKey: told.Key,
	}
	for _, op := range peers() {
		if b.wanted(op) {
			if err := b.measure(ctx, at, op); err != nil {
				return err
			}
		}
	}
	return nil
}

// peerDatabase makes a database beside segl's, with the same settings, and connects to it. The administrator of a private
// cluster has the password of segl's role.
func peerDatabase(ctx context.Context, ours string) (*pgx.Conn, string, error) {
	u, err := url.Parse(ours)
	if err != nil {
		return nil, "", errors.New("reading the address of segl's database: it is no URL")
	}
	password, _ := u.User.Password()
	u.User = url.UserPassword("postgres", password)
	admin, err := pgx.Connect(ctx, u.String())
	if err != nil {
		return nil, "", fmt.Errorf("making a database for step-ca: %w", err)
	}
	defer admin.Close(ctx) //nolint:errcheck // it did its work
	if _, err := admin.Exec(ctx, `CREATE DATABASE stepca`); err != nil {
		return nil, "", fmt.Errorf("making a database for step-ca: %w", err)
	}
	u.Path = "/stepca"
	db, err := pgx.Connect(ctx, u.String())
	return db, u.String(), err
}
