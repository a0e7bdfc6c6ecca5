package cluster

import (
	"fmt"
	"os"
	"path/filepath"
	"syscall"
)

// longestSocket is what fits sockaddr_un.sun_path with its NUL: 108 octets on Linux, 104 elsewhere.
const longestSocket = 103

const socketDir = "run"

// paths are where things are for us, and how the server itself names them.
type paths struct {
	dir      string
	data     string
	password string
	log      string
	socket   string // the directory of the socket, as a client names it

	// As root, the account may be unable to walk to dir: somebody's 0700 home, or what mktemp -d makes, stands above it.
	// The server then inherits dir as file descriptor 3 and names it so; nobody's permissions need changing.
	serverDir    string
	serverSocket string
	inherit      bool
}

func choosePaths(dir string, who account) (paths, error) {
	p := paths{
		dir: dir, serverDir: dir,
		data: filepath.Join(dir, "data"), password: filepath.Join(dir, "password"), log: filepath.Join(dir, "postgres.log"),
		socket: filepath.Join(dir, socketDir),
	}
	if !who.reaches(dir) {
		if _, err := os.Stat("/proc/self/fd"); err != nil {
			return p, fmt.Errorf("user %s may not enter a directory above %s: choose one below /var/lib, or run as an ordinary user", who.name, dir)
		}
		p.inherit, p.serverDir = true, "/proc/self/fd/3"
	}
	p.serverSocket = filepath.Join(p.serverDir, socketDir)
	if len(p.socket)+len("/.s.PGSQL."+port) > longestSocket {
		p.socket = filepath.Join(runtimeDir(), shortName(dir))
		p.serverSocket = p.socket
	}
	return p, who.makeDir(p.socket)
}

// runtimeDir is a short directory for sockets that ends with the session or the machine.
func runtimeDir() string {
	if dir := os.Getenv("XDG_RUNTIME_DIR"); dir != "" && len(dir) < 40 && os.Geteuid() != 0 {
		return dir
	}
	return "/tmp"
}

// lockDir makes us the one owner of dir until the file is closed, or we are dead.
func lockDir(dir string) (*os.File, error) {
	f, err := os.OpenFile(filepath.Join(dir, "lock"), os.O_RDWR|os.O_CREATE, 0o600)
	if err != nil {
		return nil, err
	}
	if err := syscall.Flock(int(f.Fd()), syscall.LOCK_EX|syscall.LOCK_NB); err != nil {
		f.Close() //nolint:errcheck // nothing was written
		return nil, fmt.Errorf("%s is in use by another segl: stop that one, or name another directory", dir)
	}
	return f, nil
}
