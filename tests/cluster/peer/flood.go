package main

import (
	"bytes"
	"fmt"
	"io"
	"maps"
	"net/http"
	"sync"
	"time"
)

// quiet is how long nothing must change before it is how it stays.
const quiet = time.Second

// flood opens as many requests as it is told to, each with a body of which it sends all bytes but the last, and holds
// them until each has come so far or has been refused. It prints how many are then held, and what became of the others.
func flood(url string, requests, length int) {
	var lock sync.Mutex
	reached, refused, answers, broken := 0, 0, map[string]int{}, 0
	changed := make(chan struct{}, 2*requests)
	release := make(chan struct{})
	var group sync.WaitGroup
	for range requests {
		group.Go(func() {
			arrived, ended := false, false
			body := &stuck{left: length - 1, release: release, reached: sync.OnceFunc(func() {
				lock.Lock()
				if !ended {
					arrived = true
					reached++
				}
				lock.Unlock()
				changed <- struct{}{}
			})}
			request, err := http.NewRequest(http.MethodPost, url, body)
			if err != nil {
				fail(64, err)
			}
			request.ContentLength = int64(length)
			request.Header.Set("Content-Type", "application/json")
			request.Header.Set("Accept", "application/json, text/event-stream")
			answer, err := http.DefaultTransport.RoundTrip(request)
			if err == nil {
				io.Copy(io.Discard, answer.Body)
				answer.Body.Close()
			}
			lock.Lock()
			if err == nil {
				answers[fmt.Sprint(answer.StatusCode)]++
			} else {
				broken++
			}
			// What was sent whole may be refused all the same, once it has been read.
			ended = true
			if refused++; arrived {
				reached--
			}
			lock.Unlock()
			changed <- struct{}{}
		})
	}
	limit := time.After(30 * time.Second)
	for settled := false; !settled; {
		select {
		case <-changed:
		case <-time.After(quiet):
			lock.Lock()
			settled = reached+refused == requests
			lock.Unlock()
		case <-limit:
			fail(1, "not all requests were held or answered in 30 s")
		}
	}
	lock.Lock()
	told := map[string]any{"held": reached, "answers": maps.Clone(answers), "broken": broken}
	lock.Unlock()
	close(release)
	group.Wait()
	say(told)
}

// stuck is a body that stands still before its end.
type stuck struct {
	left    int
	release chan struct{}
	reached func()
}

func (body *stuck) Read(into []byte) (int, error) {
	if body.left == 0 {
		body.reached()
		<-body.release
		return 0, io.ErrUnexpectedEOF
	}
	length := min(body.left, len(into))
	copy(into, bytes.Repeat([]byte(" "), length))
	body.left -= length
	return length, nil
}
