package main

import (
	"context"
	"flag"
	"fmt"
	"math/rand/v2"
	"net"
	"strings"
	"sync/atomic"
	"time"
)

// flood is what a relay has to stand: connections that say nothing, say it
// slowly, begin a handshake and leave it, or talk garbage; and garbage datagrams.
func flood(args []string) error {
	flags := flag.NewFlagSet("flood", flag.ExitOnError)
	long := flags.Duration("for", 10*time.Second, "how long")
	rate := flags.Int("rate", 300, "new connections a second, and ten times as many datagrams")
	open := flags.Int("open", 4000, "connections at once")
	flags.Parse(args)
	stop, cancel := context.WithTimeout(stopped(), *long)
	defer cancel()
	f := flooding{room: make(chan struct{}, *open)}
	for _, target := range flags.Args() {
		network, addr, _ := strings.Cut(target, ":")
		switch network {
		case "tcp":
			go f.connections(stop, addr, time.Second*time.Duration(flags.NArg())/time.Duration(*rate))
		case "udp":
			go f.datagrams(stop, addr, time.Second/time.Duration(*rate))
		default:
			return fmt.Errorf("%q is neither tcp:ADDR nor udp:ADDR", target)
		}
	}
	fmt.Println("flooding")
	<-stop.Done()
	fmt.Printf("made %d connections, %d of them refused or closed by the other side; sent %d datagrams\n",
		f.made.Load(), f.closed.Load(), f.sent.Load())
	return nil
}

type flooding struct {
	room               chan struct{}
	made, closed, sent atomic.Int64
}

func (f *flooding) connections(stop context.Context, addr string, every time.Duration) {
	tick := time.NewTicker(every)
	defer tick.Stop()
	for n := 0; ; n++ {
		select {
		case <-stop.Done():
			return
		case <-tick.C:
		}
		select {
		case f.room <- struct{}{}:
			go func() {
				defer func() { <-f.room }()
				f.connection(stop, addr, behaviours[n%len(behaviours)])
			}()
		default: // as many as there may be
		}
	}
}

// behaviours say what comes next on a connection, after the n-th piece, and
// when; nothing ends it.
var behaviours = []func(n int) ([]byte, time.Duration){
	func(int) ([]byte, time.Duration) { return nil, 0 },
	func(int) ([]byte, time.Duration) { return garbage(1), time.Second },
	func(n int) ([]byte, time.Duration) { return garbage(16 << 10), time.Duration(n) * time.Second },
	// The length of a frame that never comes.
	func(n int) ([]byte, time.Duration) { return first(n, []byte{0xff, 0xff, 0xff, 0xff}), 0 },
	// The head of a TLS record with a ClientHello, and no more of it.
	func(n int) ([]byte, time.Duration) {
		return first(n, append([]byte{22, 3, 1, 2, 0, 1, 0, 1, 252, 3, 3}, garbage(32)...)), 0
	},
	// A WebSocket, asked for without TLS, whose request does not end.
	func(n int) ([]byte, time.Duration) {
		return first(n, []byte("GET /fairway HTTP/1.1\r\nHost: relay\r\nUpgrade: websocket\r\n")), 0
	},
}

func first(n int, piece []byte) []byte {
	if n > 0 {
		return nil
	}
	return piece
}

func (f *flooding) connection(stop context.Context, addr string, next func(int) ([]byte, time.Duration)) {
	c, err := net.DialTimeout("tcp", addr, 5*time.Second)
	f.made.Add(1)
	if err != nil {
		f.closed.Add(1)
		return
	}
	defer c.Close()
	ended := make(chan struct{})
	go func() {
		defer close(ended)
		for answer := make([]byte, 4096); ; {
			if _, err := c.Read(answer); err != nil {
				return
			}
		}
	}()
	pause := make(<-chan time.Time)
	for n := 0; ; n++ {
		piece, wait := next(n)
		if piece != nil {
			c.SetWriteDeadline(time.Now().Add(5 * time.Second))
			if _, err := c.Write(piece); err != nil {
				f.closed.Add(1)
				return
			}
			pause = time.After(wait)
		}
		select {
		case <-stop.Done():
			return
		case <-ended:
			f.closed.Add(1)
			return
		case <-pause:
			pause = make(<-chan time.Time) // nothing more, unless there is
		}
	}
}

func (f *flooding) datagrams(stop context.Context, addr string, every time.Duration) {
	c, err := net.Dial("udp", addr)
	if err != nil {
		fmt.Println("no datagrams:", err)
		return
	}
	defer c.Close()
	tick := time.NewTicker(every)
	defer tick.Stop()
	for stop.Err() == nil {
		<-tick.C
		for range 10 {
			packet := garbage(1200)
			if rand.IntN(2) == 0 {
				// The head of a QUIC version 1 Initial with ids of eight bytes.
				copy(packet, []byte{0xc3, 0, 0, 0, 1, 8})
				packet[14] = 8
			}
			c.Write(packet)
			f.sent.Add(1)
		}
	}
}

func garbage(n int) []byte {
	piece := make([]byte, n)
	for i := range piece {
		piece[i] = byte(rand.Uint32())
	}
	return piece
}
