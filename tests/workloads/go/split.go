// split_go TRUTH_FILE PERCENT_ALPHA SECONDS [SEED [LONGER]]
//
// Two functions share one locked thread's CPU time in random slices; how much each had is measured by the thread's
// own clock. LONGER makes the slices so many times longer: a slow sampler then needs fewer samples for the same truth.
package main

import (
	"fmt"
	"math/rand"
	"os"
	"os/signal"
	"runtime"
	"strconv"
	"syscall"
	"time"
	"unsafe"
)

var sink uint64

//go:noinline
func workAlpha(rounds uint64) {
	value := rounds | 1
	for i := uint64(0); i < rounds; i++ {
		value = value*6364136223846793005 + i
	}
	sink += value
}

//go:noinline
func workBeta(rounds uint64) {
	value := rounds | 1
	for i := uint64(0); i < rounds; i++ {
		value = value*2685821657736338717 + i
	}
	sink += value
}

const clockThreadCPU = 3

func threadCPU() int64 {
	var t syscall.Timespec
	syscall.Syscall(syscall.SYS_CLOCK_GETTIME, clockThreadCPU, uintptr(unsafe.Pointer(&t)), 0)
	return t.Nano()
}

func number(text string) int64 {
	n, err := strconv.ParseInt(text, 10, 64)
	if err != nil {
		fmt.Fprintln(os.Stderr, err)
		os.Exit(2)
	}
	return n
}

func main() {
	if len(os.Args) < 4 {
		fmt.Fprintln(os.Stderr, "usage: split_go TRUTH_FILE PERCENT_ALPHA SECONDS [SEED]")
		os.Exit(2)
	}
	runtime.LockOSThread()
	percent, seconds, seed := number(os.Args[2]), number(os.Args[3]), int64(42)
	if len(os.Args) > 4 {
		seed = number(os.Args[4])
	}
	longer := uint64(1)
	if len(os.Args) > 5 {
		longer = uint64(number(os.Args[5]))
	}
	truth, err := os.OpenFile(os.Args[1], os.O_WRONLY|os.O_CREATE|os.O_APPEND|os.O_TRUNC, 0o644)
	if err != nil {
		fmt.Fprintln(os.Stderr, err)
		os.Exit(2)
	}
	stop := make(chan os.Signal, 1)
	signal.Notify(stop, syscall.SIGTERM, syscall.SIGINT)
	random := rand.New(rand.NewSource(seed))
	end := time.Now().Add(time.Duration(seconds) * time.Second)
	var alpha, beta int64
	write := func() {
		fmt.Fprintf(truth, "{\"unix_ns\":%d,\"alpha_ns\":%d,\"beta_ns\":%d}\n", time.Now().UnixNano(), alpha, beta)
	}
	next := time.Now()
	for time.Now().Before(end) && len(stop) == 0 {
		if time.Now().After(next) {
			write()
			next = time.Now().Add(50 * time.Millisecond)
		}
		rounds := longer * (100000 + uint64(random.Int63n(1500000)))
		first := random.Int63n(100) < percent
		before := threadCPU()
		if first {
			workAlpha(rounds)
		} else {
			workBeta(rounds)
		}
		if first {
			alpha += threadCPU() - before
		} else {
			beta += threadCPU() - before
		}
	}
	write()
}
