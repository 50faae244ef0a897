package main

import (
	"context"
	"io"
	"net"
	"sync/atomic"
	"testing"
	"time"
)

func TestFloodMakesEveryKindOfConnection(t *testing.T) {
	var silent, talking atomic.Int64
	addr := served(t, func(c *net.TCPConn) {
		c.SetReadDeadline(time.Now().Add(200 * time.Millisecond))
		if n, _ := io.ReadAtLeast(c, make([]byte, 1), 1); n == 0 {
			silent.Add(1)
		} else {
			talking.Add(1)
		}
	})
	f := flooding{room: make(chan struct{}, 50)}
	stop, cancel := context.WithTimeout(context.Background(), time.Second)
	defer cancel()
	f.connections(stop, addr, 2*time.Millisecond)
	if silent.Load() == 0 || talking.Load() == 0 || f.closed.Load() == 0 || f.made.Load() < 50 {
		t.Fatal(silent.Load(), talking.Load(), f.closed.Load(), f.made.Load())
	}
}
