package main

import (
	"context"
	"math/rand/v2"
	"net"
	"testing"
	"time"
)

// sendThrough sends n packets through a radio and back from an echo, and says
// which came back and how long the first of them took.
func sendThrough(t *testing.T, r *badRadio, seed uint64, n int) ([]bool, time.Duration) {
	t.Helper()
	udp := func() *net.UDPConn {
		c, err := net.ListenUDP("udp", &net.UDPAddr{IP: net.IPv4(127, 0, 0, 1)})
		if err != nil {
			t.Fatal(err)
		}
		return c
	}
	echo := udp()
	defer echo.Close()
	go func() {
		for packet := make([]byte, 2048); ; {
			n, from, err := echo.ReadFromUDP(packet)
			if err != nil {
				return
			}
			echo.WriteToUDP(packet[:n], from)
		}
	}()
	r.near, r.to, r.chance = udp(), echo.LocalAddr().(*net.UDPAddr), rand.New(rand.NewPCG(seed, 0))
	stop, cancel := context.WithCancel(context.Background())
	defer cancel()
	go r.run(stop)

	c, err := net.DialUDP("udp", nil, r.near.LocalAddr().(*net.UDPAddr))
	if err != nil {
		t.Fatal(err)
	}
	defer c.Close()
	came, first := make([]bool, n), time.Duration(0)
	from := time.Now()
	for i := range n {
		c.Write([]byte{byte(i), byte(i >> 8)})
		if i%20 == 19 {
			time.Sleep(time.Millisecond) // or the sockets' own buffers lose some
		}
	}
	packet := make([]byte, 2048)
	for {
		c.SetReadDeadline(time.Now().Add(r.delay*2 + r.jitter*2 + 300*time.Millisecond))
		if _, err := c.Read(packet); err != nil {
			return came, first
		}
		if first == 0 {
			first = time.Since(from)
		}
		came[int(packet[0])+int(packet[1])<<8] = true
	}
}

func TestRadioLosesItsShareAndDelays(t *testing.T) {
	came, first := sendThrough(t, &badRadio{loss: 0.2, delay: 50 * time.Millisecond}, 1, 1000)
	n := 0
	for _, one := range came {
		if one {
			n++
		}
	}
	if n < 560 || n > 720 { // 0.8 * 0.8 of them, and five standard deviations
		t.Errorf("%d of 1000 came back", n)
	}
	if first < 100*time.Millisecond {
		t.Errorf("the first was back after %v", first)
	}
}

func TestGoodRadioLosesNothing(t *testing.T) {
	came, _ := sendThrough(t, &badRadio{}, 1, 200)
	for i, one := range came {
		if !one {
			t.Fatalf("packet %d is lost", i)
		}
	}
}
