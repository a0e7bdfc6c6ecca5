package e2e_test

import (
	"bytes"
	"encoding/json"
	"errors"
	"fmt"
	"math/rand/v2"
	"net/http"
	"os"
	"os/exec"
	"os/user"
	"path/filepath"
	"strconv"
	"strings"
	"syscall"
	"testing"
	"text/template"
	"time"

	"codeberg.org/dataverket/segl/internal/e2e"
)

// A flock is a Patroni cluster of three on three etcd, all on loopback: a leader, a synchronous standby that every commit waits
// for, and one more.
type flock struct {
	t       *testing.T
	dir     string
	members [3]member
	who     *syscall.Credential // nil: ourselves
}

type member struct {
	Name                        string
	Postgres, REST, Etcd, Peer  string // addresses
	Dir, Bin                    string
	EtcdHosts, Peers, Superuser string
	etcd, patroni               *exec.Cmd
}

// Postgres 15 on three nodes as an operator would set it up: no commit is answered before a second node has it.
const patroniConf = `scope: ledger
name: {{.Name}}
restapi: {listen: {{.REST}}, connect_address: {{.REST}}}
etcd3: {hosts: [{{.EtcdHosts}}]}
bootstrap:
  dcs:
    ttl: 20
    loop_wait: 5
    retry_timeout: 5
    maximum_lag_on_failover: 1048576
    synchronous_mode: true
    synchronous_mode_strict: true
    synchronous_node_count: 1
    failsafe_mode: true
    postgresql:
      use_pg_rewind: true
      use_slots: true
      parameters: {hot_standby: "on", wal_log_hints: "on", max_connections: 100}
  initdb: [encoding: UTF8, locale: C, data-checksums]
postgresql:
  listen: {{.Postgres}}
  connect_address: {{.Postgres}}
  data_dir: {{.Dir}}/data
  bin_dir: {{.Bin}}
  pgpass: {{.Dir}}/pgpass
  parameters: {unix_socket_directories: "{{.Dir}}"}
  pg_hba: [host all all 127.0.0.1/32 trust, host replication all 127.0.0.1/32 trust, local all all trust]
  authentication:
    superuser: {username: postgres, password: unused}
    replication: {username: replicator, password: unused}
    rewind: {username: rewinder, password: unused}
`

func newFlock(t *testing.T) *flock {
	t.Helper()
	f := &flock{t: t, dir: loneDir(t), who: postgresUser(t)}
	bins, err := filepath.Glob("/usr/lib/postgresql/*/bin") // Patroni is Debian's, so its Postgres is too
	if err != nil || len(bins) == 0 {
		t.Fatalf("no Postgres for Patroni: %v", err)
	}
	etcd, patroni := e2e.Need(t, "etcd", "etcd-server"), e2e.Need(t, "patroni", "patroni")
	var clients, peers []string
	for i := range f.members {
		m := &f.members[i]
		m.Name, m.Bin = "n"+strconv.Itoa(i+1), bins[len(bins)-1]
		m.Dir = filepath.Join(f.dir, m.Name)
		for _, addr := range []*string{&m.Postgres, &m.REST, &m.Etcd, &m.Peer} {
			*addr = "127.0.0.1:" + clientPort(t)
		}
		clients, peers = append(clients, `"`+m.Etcd+`"`), append(peers, m.Name+"=http://"+m.Peer)
	}
	for i := range f.members {
		m := &f.members[i]
		m.EtcdHosts, m.Peers = strings.Join(clients, ", "), strings.Join(peers, ",")
		f.own(m.Dir)
		var conf bytes.Buffer
		if err := template.Must(template.New("patroni").Parse(patroniConf)).Execute(&conf, m); err != nil {
			t.Fatal(err)
		}
		if err := os.WriteFile(m.file("patroni.yml"), conf.Bytes(), 0o644); err != nil {
			t.Fatal(err)
		}
	}
	t.Cleanup(f.stop)
	for i := range f.members {
		f.startEtcd(&f.members[i], etcd)
	}
	for i := range f.members {
		f.startPatroni(&f.members[i], patroni)
	}
	f.whole()
	return f
}

func (m *member) file(name string) string { return filepath.Join(m.Dir, name) }

// loneDir is short enough for a socket's path, and others may enter it.
func loneDir(t *testing.T) string {
	t.Helper()
	dir, err := os.MkdirTemp("", "segl-flock-")
	if err == nil {
		err = os.Chmod(dir, 0o755)
	}
	if err != nil {
		t.Fatal(err)
	}
	t.Cleanup(func() { os.RemoveAll(dir) })
	return dir
}

// postgresUser returns whom to run a Postgres as: it refuses to be root.
func postgresUser(t *testing.T) *syscall.Credential {
	t.Helper()
	if os.Getuid() != 0 {
		return nil
	}
	u, err := user.Lookup("postgres")
	if err != nil {
		t.Fatal(err)
	}
	uid, err := strconv.ParseUint(u.Uid, 10, 32)
	gid, err2 := strconv.ParseUint(u.Gid, 10, 32)
	if err := errors.Join(err, err2); err != nil {
		t.Fatal(err)
	}
	return &syscall.Credential{Uid: uint32(uid), Gid: uint32(gid)} //nolint:gosec // parsed as 32 bits
}

// own makes a directory for whoever runs the programs.
func (f *flock) own(dir string) {
	f.t.Helper()
	err := os.Mkdir(dir, 0o700)
	if err == nil && f.who != nil {
		err = os.Chown(dir, int(f.who.Uid), int(f.who.Gid))
	}
	if err != nil {
		f.t.Fatal(err)
	}
}

// start runs a program of a member's, in a process group of its own, so that it can be killed with all it started.
func (f *flock) start(m *member, log, program string, args ...string) *exec.Cmd {
	f.t.Helper()
	out, err := os.OpenFile(filepath.Join(f.dir, m.Name+"-"+log), os.O_CREATE|os.O_APPEND|os.O_WRONLY, 0o644)
	if err != nil {
		f.t.Fatal(err)
	}
	defer out.Close()
	cmd := exec.Command(program, args...)
	cmd.Dir, cmd.Stdout, cmd.Stderr = m.Dir, out, out
	cmd.Env = append(os.Environ(), "HOME="+m.Dir)
	cmd.SysProcAttr = &syscall.SysProcAttr{Setpgid: true, Credential: f.who}
	if err := cmd.Start(); err != nil {
		f.t.Fatal(err)
	}
	return cmd
}

func (f *flock) startEtcd(m *member, program string) {
	f.t.Helper()
	m.etcd = f.start(m, "etcd.log", program, "--name", m.Name, "--data-dir", m.file("etcd"), "--unsafe-no-fsync",
		"--listen-client-urls", "http://"+m.Etcd, "--advertise-client-urls", "http://"+m.Etcd,
		"--listen-peer-urls", "http://"+m.Peer, "--initial-advertise-peer-urls", "http://"+m.Peer, "--initial-cluster", m.Peers)
}

func (f *flock) startPatroni(m *member, program string) {
	f.t.Helper()
	m.patroni = f.start(m, "patroni.log", program, m.file("patroni.yml"))
}

// end kills what a command started. Postgres leaves its parent's process group, and is found by its pid file.
func end(cmd *exec.Cmd, more ...int) {
	if cmd == nil || cmd.Process == nil {
		return
	}
	syscall.Kill(-cmd.Process.Pid, syscall.SIGKILL)
	for _, pid := range more {
		syscall.Kill(pid, syscall.SIGKILL)
	}
	cmd.Wait()
}

// postmaster returns the pid of a member's Postgres, 0 if it has none.
func (m *member) postmaster() int {
	text, err := os.ReadFile(m.file("data/postmaster.pid"))
	if err != nil {
		return 0
	}
	first, _, _ := strings.Cut(string(text), "\n")
	pid, err := strconv.Atoi(first)
	if err != nil {
		return 0
	}
	return pid
}

func (f *flock) stop() {
	for i := range f.members {
		m := &f.members[i]
		if pid := m.postmaster(); pid != 0 {
			end(m.patroni, pid)
		} else {
			end(m.patroni)
		}
		end(m.etcd)
		if log, err := os.ReadFile(filepath.Join(f.dir, m.Name+"-patroni.log")); err == nil && f.t.Failed() {
			lines := strings.Split(string(log), "\n")
			f.t.Logf("%s:\n%s", m.Name, strings.Join(lines[max(0, len(lines)-40):], "\n"))
		}
	}
}

// state is what a member's REST interface says of the cluster.
type state struct {
	Members []struct{ Name, Role, State string }
}

// whole waits until there is a leader, a synchronous standby and a third, all running; and returns the leader.
func (f *flock) whole() *member {
	f.t.Helper()
	var leader *member
	e2e.Eventually(f.t, 2*time.Minute, func() error {
		s, err := f.ask()
		if err != nil {
			return err
		}
		roles := map[string]int{}
		for _, m := range s.Members {
			if m.State == "running" || m.State == "streaming" {
				roles[m.Role]++
			}
			for i := range f.members {
				if m.Role == "leader" && f.members[i].Name == m.Name {
					leader = &f.members[i]
				}
			}
		}
		if roles["leader"] != 1 || roles["sync_standby"] != 1 || roles["replica"] != 1 {
			return fmt.Errorf("the cluster is %v", s.Members)
		}
		return nil
	})
	return leader
}

func (f *flock) ask() (s state, err error) {
	for i := range f.members {
		var a e2e.Answer
		if a, err = e2e.Ask(f.t.Context(), &http.Client{Timeout: 2 * time.Second}, http.MethodGet, "http://"+f.members[i].REST+"/cluster", nil); err == nil {
			return s, json.Unmarshal(a.Body, &s)
		}
	}
	return s, err
}

// url names all three: a client finds the one that takes writes.
func (f *flock) url() string {
	var hosts []string
	for i := range f.members {
		hosts = append(hosts, f.members[i].Postgres)
	}
	return "postgres://postgres@" + strings.Join(hosts, ",") + "/postgres?target_session_attrs=read-write&connect_timeout=2&sslmode=disable"
}

// A leader dies, is asked to step down, or the agreement is lost among those that elect it, while clients issue, renew and
// revoke. Whatever any client was told stays true.
func TestNothingThatWasAnsweredIsLostByFailover(t *testing.T) {
	if howOften() == kills {
		t.Skip("a cluster of three takes minutes: make soak, or SEGL_SOAK=1")
	}
	choose := rand.New(rand.NewPCG(seed(t), 0)) //nolint:gosec // a test's choices
	f := newFlock(t)
	s := e2e.Start(t, "--database-url", f.url())
	l := startLoad(t, s, choose)
	etcd, patroni := e2e.Need(t, "etcd", "etcd-server"), e2e.Need(t, "patroni", "patroni")
	for range 5 {
		l.letAnswer(100)
		leader, at := f.whole(), time.Now()
		pid := leader.postmaster()
		end(leader.patroni, append(children(t, pid), pid)...)
		l.back("leader", at)
		f.startPatroni(leader, patroni)
		f.whole()
	}
	for range 3 {
		l.letAnswer(100)
		leader, at := f.whole(), time.Now()
		s.Run(t, "patronictl", "-c", leader.file("patroni.yml"), "switchover", "--master", leader.Name, "--force")
		l.back("switchover", at)
		f.whole()
	}
	for _, m := range []*member{&f.members[0], &f.members[1]} { // two of three: nobody can be elected
		end(m.etcd)
	}
	at := time.Now()
	for range 10 {
		l.letAnswer(20)
		pause(t, choose, 4*time.Second)
	}
	l.back("quorum of etcd", at)
	for _, m := range []*member{&f.members[0], &f.members[1]} {
		f.startEtcd(m, etcd)
	}
	f.whole()
	l.stop()
	s.Stop(t)
	s.Begin(t, "--clock-offset", "1m")
	l.finish()
	l.judge()
}
