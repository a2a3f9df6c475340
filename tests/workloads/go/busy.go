// busy_go SECONDS: what Go programs do: goroutines, channels, maps, sorting, JSON, garbage.
package main

import (
	"encoding/json"
	"fmt"
	"os"
	"sort"
	"strconv"
	"strings"
	"time"
)

type item struct {
	Name   string
	Values []int
	Tags   map[string]string
}

func makeItem(n int) item {
	tags := map[string]string{}
	for i := 0; i < 8; i++ {
		tags["key"+strconv.Itoa(i*n%31)] = strings.Repeat("v", i)
	}
	values := make([]int, 64)
	for i := range values {
		values[i] = (i*7919 + n) % 1009
	}
	return item{Name: fmt.Sprintf("item-%d", n), Values: values, Tags: tags}
}

func work(n int) int {
	one := makeItem(n)
	text, err := json.Marshal(one)
	if err != nil {
		panic(err)
	}
	var back item
	if err := json.Unmarshal(text, &back); err != nil {
		panic(err)
	}
	sort.Slice(back.Values, func(i, j int) bool { return back.Values[i] < back.Values[j] })
	return back.Values[0] + len(text)
}

func main() {
	seconds := 10
	if len(os.Args) > 1 {
		if n, err := strconv.Atoi(os.Args[1]); err == nil {
			seconds = n
		}
	}
	end := time.Now().Add(time.Duration(seconds) * time.Second)
	jobs, done := make(chan int, 16), make(chan int, 16)
	for w := 0; w < 4; w++ {
		go func() {
			for n := range jobs {
				done <- work(n)
			}
		}()
	}
	sum, open := 0, 0
	for n := 0; time.Now().Before(end); n++ {
		jobs <- n
		open++
		if open == 16 {
			sum += <-done
			open--
		}
	}
	close(jobs)
	for ; open > 0; open-- {
		sum += <-done
	}
	fmt.Println(sum)
}
