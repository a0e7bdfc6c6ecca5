package e2e

import (
	"os/exec"
	"syscall"
)

// dieWithUs has a child end when a test binary is killed: by SIGTERM, so that it can stop its Postgres.
func dieWithUs(cmd *exec.Cmd) { cmd.SysProcAttr = &syscall.SysProcAttr{Pdeathsig: syscall.SIGTERM} }
