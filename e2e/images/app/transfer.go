package main

import (
	"bufio"
	"bytes"
	"crypto/sha256"
	"encoding/hex"
	"errors"
	"flag"
	"fmt"
	"io"
	"math/rand/v2"
	"net"
	"os"
	"strconv"
	"strings"
	"time"
)

// transfer sends bytes that its seed decides, and wants to hear of every one of
// them: from an echo each byte, from a sink their number and SHA-256.
func transfer(args []string) error {
	t := transferral{bytes: 100 << 20, out: os.Stdout}
	flags := flag.NewFlagSet("transfer", flag.ExitOnError)
	proxy := flags.String("connect", "", "HTTP proxy to CONNECT through")
	flags.Var(&t.bytes, "bytes", "how many, such as 100M")
	flags.Var(&t.rate, "rate", "at most so many a second, such as 20M; 0: as fast as it goes")
	flags.Uint64Var(&t.seed, "seed", 1, "which bytes")
	sink := flags.Bool("sink", false, "ADDR is a sink, not an echo")
	flags.DurationVar(&t.patience, "timeout", 60*time.Second, "for each step, and how long nothing may come")
	flags.Parse(args)
	c, r, err := dial(*proxy, flags.Arg(0), t.patience)
	if err != nil {
		return err
	}
	defer c.Close()
	t.conn, t.reader, t.pulse = c.(*net.TCPConn), r, newPulse(t.out)
	if *sink {
		return t.run(t.hearSink)
	}
	return t.run(t.hearEcho)
}

type transferral struct {
	conn        *net.TCPConn
	reader      *bufio.Reader
	bytes, rate size
	seed        uint64
	patience    time.Duration
	out         io.Writer
	pulse       *pulse
}

// run sends all of it while hear listens, which returns the SHA-256 that came.
func (t *transferral) run(hear func() (string, error)) error {
	from := time.Now()
	type sent struct {
		sum string
		err error
	}
	sending := make(chan sent, 1)
	go func() {
		sum, err := t.send()
		sending <- sent{sum, err}
	}()
	sum, err := hear()
	if err != nil {
		t.conn.Close()
		return err
	}
	s := <-sending
	if s.err != nil {
		return s.err
	}
	if s.sum != sum {
		return fmt.Errorf("sent what has SHA-256 %s, the other end has %s", s.sum, sum)
	}
	fmt.Fprintf(t.out, "complete: %d bytes, sha256 %s, longest pause %d ms, in %d ms\n",
		t.bytes, sum, t.pulse.longest.Milliseconds(), time.Since(from).Milliseconds())
	return nil
}

func (t *transferral) send() (string, error) {
	source, sum := seeded(t.seed), sha256.New()
	piece := make([]byte, 64<<10)
	from := time.Now()
	for n := int64(0); n < int64(t.bytes); n += int64(len(piece)) {
		piece = piece[:min(int64(len(piece)), int64(t.bytes)-n)]
		source.Read(piece)
		sum.Write(piece)
		if t.rate > 0 {
			time.Sleep(time.Until(from.Add(time.Duration(float64(n) / float64(t.rate) * float64(time.Second)))))
		}
		if _, err := t.conn.Write(piece); err != nil {
			return "", fmt.Errorf("sending after %d bytes: %w", n, err)
		}
	}
	return hex.EncodeToString(sum.Sum(nil)), t.conn.CloseWrite()
}

// hearEcho compares every byte: one that is lost, doubled or changed shows where.
func (t *transferral) hearEcho() (string, error) {
	source, sum := seeded(t.seed), sha256.New()
	got, want := make([]byte, 64<<10), make([]byte, 64<<10)
	for n := int64(0); ; {
		t.conn.SetReadDeadline(time.Now().Add(t.patience))
		read, err := t.reader.Read(got)
		source.Read(want[:read])
		if !bytes.Equal(got[:read], want[:read]) || n+int64(read) > int64(t.bytes) {
			return "", fmt.Errorf("what came back after %d bytes is not what was sent", n)
		}
		sum.Write(got[:read])
		n += int64(read)
		if read > 0 {
			t.pulse.beat(n)
		}
		switch {
		case errors.Is(err, io.EOF) && n == int64(t.bytes):
			return hex.EncodeToString(sum.Sum(nil)), nil
		case err != nil:
			return "", fmt.Errorf("after %d of %d bytes had come back: %w", n, t.bytes, err)
		}
	}
}

// hearSink reads what a sink says: "got N" again and again, and in the end "sha256 SUM".
func (t *transferral) hearSink() (string, error) {
	for n := int64(0); ; {
		t.conn.SetReadDeadline(time.Now().Add(t.patience))
		line, err := t.reader.ReadString('\n')
		if err != nil {
			return "", fmt.Errorf("after %d of %d bytes had arrived: %w", n, t.bytes, err)
		}
		word, value, _ := strings.Cut(strings.TrimSpace(line), " ")
		switch word {
		case "got":
			if n, err = strconv.ParseInt(value, 10, 64); err != nil {
				return "", fmt.Errorf("the sink said %q", line)
			}
			t.pulse.beat(n)
		case "sha256":
			if n != int64(t.bytes) {
				return "", fmt.Errorf("%d of %d bytes had arrived when the sink saw the end", n, t.bytes)
			}
			return value, nil
		default:
			return "", fmt.Errorf("the sink said %q", line)
		}
	}
}

// sinkTCP takes everything and says how much that was: while it comes, at most
// a hundred times a second, and at its end with the SHA-256.
func sinkTCP(c *net.TCPConn) {
	sum, piece := sha256.New(), make([]byte, 64<<10)
	var told time.Time
	for n := int64(0); ; {
		read, err := c.Read(piece)
		sum.Write(piece[:read])
		n += int64(read)
		ended := errors.Is(err, io.EOF)
		if now := time.Now(); ended || now.Sub(told) >= 10*time.Millisecond {
			told = now
			if _, err := fmt.Fprintf(c, "got %d\n", n); err != nil {
				return
			}
		}
		if ended {
			fmt.Fprintf(c, "sha256 %x\n", sum.Sum(nil))
		}
		if err != nil {
			return
		}
	}
}

// seeded is an endless stream of bytes, always the same ones for a seed.
func seeded(seed uint64) *rand.ChaCha8 {
	var key [32]byte
	copy(key[:], fmt.Sprintf("fairway transfer %d", seed))
	return rand.NewChaCha8(key)
}

// size is a number of bytes: 4096, 64K, 100M, 1G.
type size int64

func (s *size) String() string { return strconv.FormatInt(int64(*s), 10) }

func (s *size) Set(text string) error {
	unit := int64(1)
	if n := len(text); n > 0 {
		switch text[n-1] {
		case 'K':
			unit = 1 << 10
		case 'M':
			unit = 1 << 20
		case 'G':
			unit = 1 << 30
		}
	}
	n, err := strconv.ParseInt(strings.TrimRight(text, "KMG"), 10, 32)
	if err != nil || n < 0 {
		return fmt.Errorf("%q is no number of bytes, such as 4096, 64K or 100M", text)
	}
	*s = size(n * unit)
	return nil
}
