package cluster

import "syscall"

// setDeathSignal has the kernel send sig to the child when the thread that started it ends (PR_SET_PDEATHSIG, prctl(2)).
func setDeathSignal(attr *syscall.SysProcAttr, sig syscall.Signal) { attr.Pdeathsig = sig }
