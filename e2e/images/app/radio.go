package main

import (
	"context"
	"flag"
	"fmt"
	"math/rand/v2"
	"net"
	"sync"
	"time"
)

// radio stands between a device and a relay where the kernel has no netem: it
// passes on UDP, and loses, delays and thereby reorders packets as its seed
// decides.
func radio(args []string) error {
	r := badRadio{}
	flags := flag.NewFlagSet("radio", flag.ExitOnError)
	flags.Float64Var(&r.loss, "loss", 0.2, "share of the packets that are lost, each way")
	flags.DurationVar(&r.delay, "delay", 100*time.Millisecond, "of each packet, each way")
	flags.DurationVar(&r.jitter, "jitter", 10*time.Millisecond, "up to so much more, each packet for itself")
	seed := flags.Uint64("seed", 1, "of what happens to the packets")
	flags.Parse(args)
	r.chance = rand.New(rand.NewPCG(*seed, 0))
	listen, err := net.ResolveUDPAddr("udp", flags.Arg(0))
	if err != nil {
		return err
	}
	if r.to, err = net.ResolveUDPAddr("udp", flags.Arg(1)); err != nil {
		return err
	}
	if r.near, err = net.ListenUDP("udp", listen); err != nil {
		return err
	}
	fmt.Println("radio", r.near.LocalAddr())
	return r.run(stopped())
}

type badRadio struct {
	loss          float64
	delay, jitter time.Duration
	near          *net.UDPConn
	to            *net.UDPAddr

	mutex        sync.Mutex
	chance       *rand.Rand
	onAir        int
	passed, lost int
}

const (
	senders = 256  // at the near end, each with a socket of its own towards the far one
	onAir   = 4096 // packets; what is more is lost, as in any queue
)

func (r *badRadio) run(stop context.Context) error {
	go func() {
		<-stop.Done()
		r.near.Close()
	}()
	far := map[string]*net.UDPConn{}
	packet := make([]byte, 65536)
	for {
		n, from, err := r.near.ReadFromUDP(packet)
		if stop.Err() != nil {
			r.mutex.Lock()
			defer r.mutex.Unlock()
			fmt.Printf("passed on %d packets, lost %d\n", r.passed, r.lost)
			return nil
		}
		if err != nil {
			continue // an ICMP message about an earlier packet
		}
		out := far[from.String()]
		if out == nil {
			if len(far) == senders {
				continue
			}
			if out, err = net.DialUDP("udp", nil, r.to); err != nil {
				return err
			}
			far[from.String()] = out
			go r.back(out, from)
		}
		r.pass(packet[:n], func(p []byte) { out.Write(p) })
	}
}

func (r *badRadio) back(from *net.UDPConn, to *net.UDPAddr) {
	packet := make([]byte, 65536)
	for {
		n, err := from.Read(packet)
		if err == nil {
			r.pass(packet[:n], func(p []byte) { r.near.WriteToUDP(p, to) })
		}
	}
}

func (r *badRadio) pass(packet []byte, send func([]byte)) {
	r.mutex.Lock()
	defer r.mutex.Unlock()
	if r.chance.Float64() < r.loss || r.onAir == onAir {
		r.lost++
		return
	}
	r.passed++
	r.onAir++
	delay := r.delay + time.Duration(r.chance.Float64()*float64(r.jitter))
	copied := append([]byte(nil), packet...)
	time.AfterFunc(delay, func() {
		send(copied)
		r.mutex.Lock()
		r.onAir--
		r.mutex.Unlock()
	})
}
