package main

import (
	"bufio"
	"bytes"
	"context"
	"io"
	"net"
	"strings"
	"testing"
	"time"
)

func countTo(t *testing.T, answer func(*net.TCPConn)) (string, error) {
	t.Helper()
	c, err := net.Dial("tcp", served(t, answer))
	if err != nil {
		t.Fatal(err)
	}
	defer c.Close()
	var out strings.Builder
	k := counting{conn: c.(*net.TCPConn), reader: bufio.NewReader(c), out: &out, every: time.Millisecond, patience: 5 * time.Second}
	stop, cancel := context.WithTimeout(context.Background(), 300*time.Millisecond)
	defer cancel()
	err = k.run(stop)
	return out.String(), err
}

func TestCountsUntilItIsStopped(t *testing.T) {
	out, err := countTo(t, echoTCP)
	if err != nil || !strings.Contains(out, "counting\n") || !strings.Contains(out, "lines back, in order; longest pause") {
		t.Fatal(err, out)
	}
}

func TestALineThatIsLostOrDoubledIsFound(t *testing.T) {
	for name, times := range map[string]int{"lost": 0, "doubled": 2} {
		out, err := countTo(t, func(c *net.TCPConn) {
			lines := bufio.NewScanner(c)
			for lines.Scan() {
				line := append(lines.Bytes(), '\n')
				if string(line) == "line 20\n" {
					line = bytes.Repeat(line, times)
				}
				c.Write(line)
			}
		})
		if err == nil || !strings.Contains(err.Error(), "instead of line 2") {
			t.Errorf("%s: %v %s", name, err, out)
		}
	}
}

func TestAnEndTooEarlyIsFound(t *testing.T) {
	out, err := countTo(t, func(c *net.TCPConn) { io.CopyN(c, c, 70) })
	if err == nil {
		t.Fatal(out)
	}
}
