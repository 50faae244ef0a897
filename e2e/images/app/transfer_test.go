package main

import (
	"bufio"
	"io"
	"net"
	"strings"
	"testing"
	"time"
)

func transferTo(t *testing.T, answer func(*net.TCPConn), sink bool) (string, error) {
	t.Helper()
	c, err := net.Dial("tcp", served(t, answer))
	if err != nil {
		t.Fatal(err)
	}
	defer c.Close()
	var out strings.Builder
	try := transferral{
		conn: c.(*net.TCPConn), reader: bufio.NewReader(c), bytes: 300_001, seed: 7,
		patience: 10 * time.Second, out: &out, pulse: newPulse(&out),
	}
	hear := try.hearEcho
	if sink {
		hear = try.hearSink
	}
	err = try.run(hear)
	return out.String(), err
}

// The same bytes for the same seed, whoever runs it: a checksum can be written down.
const sumOfSeed7 = "13d8ad6a"

func TestTransfers(t *testing.T) {
	for name, far := range map[string]func(*net.TCPConn){"echo": echoTCP, "sink": sinkTCP} {
		out, err := transferTo(t, far, name == "sink")
		if err != nil || !strings.Contains(out, "complete: 300001 bytes, sha256 "+sumOfSeed7) || !strings.Contains(out, "back ") {
			t.Errorf("%s: %v\n%s", name, err, out)
		}
	}
}

// through answers with what `change` makes of the whole that came.
func through(change func([]byte) []byte) func(*net.TCPConn) {
	return func(c *net.TCPConn) {
		all, _ := io.ReadAll(c)
		c.Write(change(all))
	}
}

func TestWhatIsNotAsSentIsFound(t *testing.T) {
	for name, change := range map[string]func([]byte) []byte{
		"lost":    func(b []byte) []byte { return append(b[:1000:1000], b[1001:]...) },
		"doubled": func(b []byte) []byte { return append(b[:1000:1000], b[999:]...) },
		"changed": func(b []byte) []byte { b[200_000] ^= 1; return b },
		"less":    func(b []byte) []byte { return b[:len(b)-1] },
		"more":    func(b []byte) []byte { return append(b, 0) },
	} {
		if out, err := transferTo(t, through(change), false); err == nil {
			t.Errorf("%s: it was not found: %s", name, out)
		}
	}
	swallow := func(c *net.TCPConn) {
		io.CopyN(io.Discard, c, 10)
		sinkTCP(c)
	}
	if out, err := transferTo(t, swallow, true); err == nil {
		t.Errorf("a sink that lacks ten bytes: %s", out)
	}
}

func TestPausesAreTold(t *testing.T) {
	slow := func(c *net.TCPConn) {
		io.CopyN(c, c, 1000)
		time.Sleep(150 * time.Millisecond)
		io.Copy(c, c)
	}
	out, err := transferTo(t, slow, false)
	if err != nil || !strings.HasPrefix(out[strings.Index(out, "\n")+1:], "pause ") {
		t.Error(err, out)
	}
}

func TestSizes(t *testing.T) {
	for text, want := range map[string]size{"0": 0, "4096": 4096, "64K": 65536, "100M": 100 << 20, "1G": 1 << 30} {
		var got size
		if err := got.Set(text); err != nil || got != want {
			t.Error(text, got, err)
		}
	}
	for _, text := range []string{"", "M", "-1", "1T", "1.5M"} {
		if new(size).Set(text) == nil {
			t.Error(text)
		}
	}
}
