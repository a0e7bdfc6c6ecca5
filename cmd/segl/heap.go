package main

import "runtime"

// heapFloor is memory that is asked for and never touched, so that it takes no RAM.
const heapFloor = 32 << 20

// withHeapFloor runs do with a heap that seems larger by heapFloor than it is. The collector runs each time the heap has doubled,
// and a small server's doubles many times a second under load, for which it would spend a tenth of its time. A large heap is
// collected as ever: GOGC in its place would let that grow several times as large. Whoever sets GOGC or GOMEMLIMIT decides.
func withHeapFloor(env func(string) string, do func() int) int {
	if env("GOGC") != "" || env("GOMEMLIMIT") != "" {
		return do()
	}
	floor := make([]byte, heapFloor)
	defer runtime.KeepAlive(floor)
	return do()
}
