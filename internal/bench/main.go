// Command bench measures what operations of a real segl cost, and writes docs/performance.md. `make bench` runs it.
//
// It builds segl as it is delivered, runs `segl dev` on its private Postgres, whose commits are durable, and has another
// process (this program again) make the load over loopback: TLS 1.3, kept-alive connections, keys made and requests
// written beforehand. What an operation costs is the CPU, user and system, that segl and every Postgres process below it
// used meanwhile, as the operating system counts it, in units of S: the thread CPU of one P-256 signature, measured in
// the same run. So a figure means the same on a fast machine and on a slow one, and nearly the same on a busy one; times
// and rates do not, and no test depends on any of them.
//
// It judges nothing: a bar that is missed is printed as missed, and the exit code says only whether it could measure.
// One run at a time.
package main

import (
	"context"
	"errors"
	"flag"
	"fmt"
	"os"
	"os/signal"
	"regexp"
	"syscall"
	"time"
)

// options are the flags.
type options struct {
	ops      int
	duration time.Duration
	only     *regexp.Regexp
	page     string
	program  string
	profiles string
	large    int
}

func main() {
	ctx, stop := signal.NotifyContext(context.Background(), os.Interrupt, syscall.SIGTERM)
	err := run(ctx, os.Args[1:])
	stop()
	switch {
	case errors.Is(err, flag.ErrHelp):
		os.Exit(2) //nolint:mnd // wrong use
	case err != nil:
		fmt.Fprintf(os.Stderr, "bench: error: %v\n", err) //nolint:errcheck // there is nobody else to tell
		os.Exit(1)
	}
}

// The names by which this program calls itself.
const (
	asLoad = "as-load"
	asBare = "as-bare"
)

func run(ctx context.Context, args []string) error {
	if len(args) == 1 && args[0] == asLoad {
		return load(os.Stdin, os.Stdout)
	}
	if len(args) == 1 && args[0] == asBare {
		return serveBare(os.Stdin, os.Stdout)
	}
	o, err := parseOptions(args)
	if err != nil {
		return err
	}
	b, err := newBench(o, os.Stdout)
	if err != nil {
		return err
	}
	defer os.RemoveAll(b.dir) //nolint:errcheck // a temporary directory
	return b.run(ctx)
}

func parseOptions(args []string) (options, error) {
	var o options
	var only string
	f := flag.NewFlagSet("bench", flag.ContinueOnError)
	f.IntVar(&o.ops, "ops", 20_000, "certificates to issue; other operations run in proportion")
	f.DurationVar(&o.duration, "duration", 2*time.Minute, "longest time for one operation")
	f.StringVar(&only, "only", "", "regular expression: measure these operations only, and write no page unless -o is given")
	f.StringVar(&o.page, "o", "", "page to write (default docs/performance.md, when everything is measured)")
	f.StringVar(&o.program, "segl", "", "measure this program instead of building one")
	f.StringVar(&o.profiles, "profiles", "", "directory for a CPU profile of segl during each operation")
	f.IntVar(&o.large, "large", 1_000_000, "certificates of the large ledger, 0 for none; a million take two minutes and 1 GB")
	if err := f.Parse(args); err != nil {
		return o, flag.ErrHelp
	}
	const fewest = 200
	if o.ops < fewest || f.NArg() > 0 {
		return o, fmt.Errorf("reading flags: want at least %d operations, and no arguments", fewest)
	}
	if o.large != 0 && o.large < fewest*largeWeeks {
		return o, fmt.Errorf("reading flag -large: want 0, or at least %d", fewest*largeWeeks)
	}
	if only == "" && o.page == "" {
		o.page = "docs/performance.md"
	}
	var err error
	if o.only, err = regexp.Compile(only); err != nil {
		return o, fmt.Errorf("reading flag -only: %w", err)
	}
	return o, nil
}
