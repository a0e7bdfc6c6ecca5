// Command segl is a platform's daily certificate authority: the server, and the command line that operates it.
//
// This package is the command line alone: a file a noun, each command reading flags and environment, asking the server
// over its HTTP API as anybody could, and printing the answer. It decides nothing about certificates, holds no key of an
// authority and never opens the ledger's database, save for `dev`, `serve` and `migrate`, which start what cmd/segl/server
// wires. stdout is the answer, stderr is for people, the exit code is for scripts (failure.go). The contract is
// docs/cli.md. The package is larger than others are; its nouns do not know one another.
package main

import (
	"context"
	"os"
	"os/signal"
	"syscall"
	"time"
)

func main() {
	ctx, stop := signal.NotifyContext(context.Background(), os.Interrupt, syscall.SIGTERM)
	context.AfterFunc(ctx, stop) // a second signal ends it at once
	p := &program{in: os.Stdin, out: os.Stdout, err: os.Stderr, env: os.Getenv, now: time.Now}
	code := withHeapFloor(os.Getenv, func() int { return p.run(ctx, os.Args[1:]) })
	stop()
	os.Exit(code)
}
