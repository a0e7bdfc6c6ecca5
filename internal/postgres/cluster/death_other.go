//go:build !linux

package cluster

import "syscall"

// setDeathSignal does nothing here: a postmaster that outlives us is stopped by the next Start.
func setDeathSignal(*syscall.SysProcAttr, syscall.Signal) {}
