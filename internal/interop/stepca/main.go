// Command stepca runs step-ca as its authors built it, on a Postgres, for internal/bench to measure beside segl.
//
// It is in a module of its own, so that what step-ca requires stays out of segl's. It makes a root, an intermediate and
// an issuing key (all P-256, like segl's), configures a JWK provisioner for requests that carry a one-time token and an
// ACME provisioner for http-01, serves both over TLS on a loopback port, and tells on stdout, in one line of JSON, what a
// client needs: see place. It ends when stdin does. Nothing in it is for use outside measurements: the authority and the
// provisioner's private key are made anew at each start, and the key is told.
package main

import (
	"encoding/json"
	"flag"
	"fmt"
	"io"
	"log"
	"net"
	"os"

	"github.com/smallstep/certificates/acme"
	"github.com/smallstep/certificates/ca"
)

// options are the flags.
type options struct {
	database string // URL of a Postgres database that is there, and empty
	dir      string // where keys and certificates are written
	answers  int    // loopback port where http-01 responses are
}

// A place is what a client needs to know.
type place struct {
	URL       string `json:"url"`       // of the API: /1.0/sign is below
	Directory string `json:"directory"` // of ACME
	Root      string `json:"root"`      // file with the root certificate, in PEM
	Issuer    string `json:"issuer"`    // claim "iss" of a token
	KeyID     string `json:"keyID"`     // header "kid" of a token
	Key       string `json:"key"`       // that signs tokens with ES256: PKCS #8, in PEM
}

func main() {
	if err := run(os.Args[1:], os.Stdin, os.Stdout); err != nil {
		fmt.Fprintf(os.Stderr, "stepca: error: %v\n", err)
		os.Exit(1)
	}
}

func run(args []string, in io.Reader, out io.Writer) error {
	o, err := parseOptions(args)
	if err != nil {
		return err
	}
	address, err := freeAddress()
	if err != nil {
		return err
	}
	cfg, at, err := configure(o, address)
	if err != nil {
		return err
	}
	if err := sendValidation(o.answers); err != nil {
		return err
	}
	log.SetOutput(os.Stderr)
	server, err := ca.New(cfg, ca.WithQuiet(true))
	if err != nil {
		return fmt.Errorf("making step-ca: %w", err)
	}
	ended := make(chan error, 1)
	go func() { ended <- server.Run() }()
	if err := answering(address, ended); err != nil {
		return err
	}
	if err := json.NewEncoder(out).Encode(at); err != nil {
		return err
	}
	if _, err := io.Copy(io.Discard, in); err != nil {
		return err
	}
	return server.Stop()
}

func parseOptions(args []string) (options, error) {
	var o options
	f := flag.NewFlagSet("stepca", flag.ContinueOnError)
	f.StringVar(&o.database, "database", "", "`URL` of an empty Postgres database")
	f.StringVar(&o.dir, "dir", "", "`directory` for keys and certificates")
	f.IntVar(&o.answers, "http-01", 0, "loopback `port` where http-01 responses are")
	if err := f.Parse(args); err != nil {
		return o, err
	}
	if o.database == "" || o.dir == "" || o.answers == 0 || f.NArg() > 0 {
		return o, fmt.Errorf("reading flags: want -database, -dir and -http-01, and no arguments")
	}
	return o, nil
}

// sendValidation has every http-01 request go to a port of this machine, whatever the name that is validated, so that no
// name has to resolve. step-ca's validator takes the proxy of the environment, and has no other way to be told; that it
// keeps its connection to the proxy open is to its favour.
func sendValidation(port int) error {
	acme.InsecurePortHTTP01 = port
	return os.Setenv("HTTP_PROXY", fmt.Sprintf("http://127.0.0.1:%d", port))
}

// freeAddress finds a port that nobody listens on: step-ca has to know its own before it listens.
func freeAddress() (string, error) {
	ln, err := net.Listen("tcp", "127.0.0.1:0")
	if err != nil {
		return "", fmt.Errorf("finding a free port: %w", err)
	}
	return ln.Addr().String(), ln.Close()
}

// answering waits until somebody listens at address.
func answering(address string, ended <-chan error) error {
	for {
		select {
		case err := <-ended:
			return fmt.Errorf("starting step-ca: %w", err)
		default:
		}
		c, err := net.Dial("tcp", address)
		if err == nil {
			return c.Close()
		}
	}
}
