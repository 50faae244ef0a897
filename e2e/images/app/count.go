package main

import (
	"bufio"
	"context"
	"errors"
	"flag"
	"fmt"
	"io"
	"net"
	"os"
	"slices"
	"strings"
	"sync"
	"time"
)

// count sends numbered lines without waiting for them, and checks that each
// comes back once and in its turn. When it is told to stop it waits for those
// that are under way, and says how it went.
func count(args []string) error {
	flags := flag.NewFlagSet("count", flag.ExitOnError)
	proxy := flags.String("connect", "", "HTTP proxy to CONNECT through")
	every := flags.Duration("every", 5*time.Millisecond, "from one line to the next")
	wait := flags.Duration("timeout", 60*time.Second, "for each step, and how long nothing may come")
	flags.Parse(args)
	c, r, err := dial(*proxy, flags.Arg(0), *wait)
	if err != nil {
		return err
	}
	defer c.Close()
	k := counting{conn: c.(*net.TCPConn), reader: r, out: os.Stdout, every: *every, patience: *wait}
	return k.run(stopped())
}

type counting struct {
	conn     *net.TCPConn
	reader   *bufio.Reader
	out      io.Writer
	every    time.Duration
	patience time.Duration

	mutex sync.Mutex
	sent  []time.Time // of line i+1
}

func (k *counting) run(stop context.Context) error {
	sending := make(chan error, 1)
	go func() { sending <- k.send(stop) }()
	err := k.hear()
	if err != nil {
		k.conn.Close()
		return err
	}
	return <-sending
}

func (k *counting) send(stop context.Context) error {
	tick := time.NewTicker(k.every)
	defer tick.Stop()
	for n := 1; ; n++ {
		k.mutex.Lock()
		k.sent = append(k.sent, time.Now())
		k.mutex.Unlock()
		if _, err := fmt.Fprintf(k.conn, "line %d\n", n); err != nil {
			return fmt.Errorf("sending line %d: %w", n, err)
		}
		select {
		case <-stop.Done():
			return k.conn.CloseWrite()
		case <-tick.C:
		}
	}
}

func (k *counting) hear() error {
	pulse := newPulse(k.out)
	var latencies []time.Duration
	for n := int64(1); ; n++ {
		k.conn.SetReadDeadline(time.Now().Add(k.patience))
		got, err := k.reader.ReadString('\n')
		sent := k.sentAt(n)
		switch {
		case errors.Is(err, io.EOF) && got == "" && sent.IsZero():
			fmt.Fprintf(k.out, "all %d lines back, in order; longest pause %d ms; latency p50 %s ms p99 %s ms\n",
				n-1, pulse.longest.Milliseconds(), quantile(latencies, 0.5), quantile(latencies, 0.99))
			return nil
		case err != nil:
			return fmt.Errorf("line %d did not come back: %w", n, err)
		case sent.IsZero() || strings.TrimSpace(got) != fmt.Sprintf("line %d", n):
			return fmt.Errorf("instead of line %d came %q", n, got)
		case n == 1:
			fmt.Fprintln(k.out, "counting")
		}
		latencies = append(latencies, time.Since(sent))
		pulse.beat(n)
	}
}

// sentAt is when line n was sent; zero if it has not been.
func (k *counting) sentAt(n int64) time.Time {
	k.mutex.Lock()
	defer k.mutex.Unlock()
	if n > int64(len(k.sent)) {
		return time.Time{}
	}
	return k.sent[n-1]
}

// quantile in milliseconds, as text.
func quantile(all []time.Duration, q float64) string {
	if len(all) == 0 {
		return "-"
	}
	sorted := slices.Sorted(slices.Values(all))
	at := min(len(sorted)-1, int(q*float64(len(sorted))))
	return fmt.Sprintf("%.1f", float64(sorted[at].Microseconds())/1000)
}
