// app is the program that the scenarios run at both ends: it knows nothing of
// Fairway, answers with what it was sent, and calls others as it is told.
//
//	app serve [-http ADDR] [-tcp ADDR] [-sink ADDR]
//	                                          echo over HTTP (as JSON) and over TCP; a sink
//	app get [-proxy URL] [-H 'K: V'].. URL    one HTTP request; prints "STATUS 200" and the body
//	app tcp [-connect PROXY] ADDR TEXT        one line over TCP, one line back
//	app hold [-connect PROXY] [-every 200ms] ADDR
//	                                          the same over and over until the connection ends
//	app count [-connect PROXY] [-every 5ms] ADDR
//	                                          numbered lines to an echo, unasked, until SIGTERM
//	app transfer [-connect PROXY] [-bytes 100M] [-rate 20M] [-sink] ADDR
//	                                          so many bytes to an echo or a sink, and a checksum
//	app radio [-loss 0.2] [-delay 100ms] LISTEN TO
//	                                          passes on UDP, as badly as it is told
//	app flood [-for 10s] [-rate 300] tcp:ADDR|udp:ADDR..
//	                                          garbage, and connections that come to nothing
//	app idle                                  nothing, until it is told to stop
//
// It exits 0 when it got an answer, whatever the status; 1 when it got none, or
// not the one that it had to be.
package main

import (
	"bufio"
	"context"
	"encoding/json"
	"errors"
	"flag"
	"fmt"
	"io"
	"net"
	"net/http"
	"net/url"
	"os"
	"os/signal"
	"strings"
	"syscall"
	"time"
)

func main() {
	verbs := map[string]func([]string) error{
		"serve": serve, "get": get, "tcp": tcp, "hold": hold, "count": count, "transfer": transfer,
		"radio": radio, "flood": flood, "idle": idle,
	}
	if len(os.Args) < 2 || verbs[os.Args[1]] == nil {
		fmt.Fprintln(os.Stderr, "usage: app serve|get|tcp|hold|count|transfer|radio|flood|idle ...")
		os.Exit(2)
	}
	if err := verbs[os.Args[1]](os.Args[2:]); err != nil {
		fmt.Fprintln(os.Stderr, "app:", err)
		os.Exit(1)
	}
}

// stopped ends on SIGTERM, which a program with process id 1 must ask for.
func stopped() context.Context {
	ctx, _ := signal.NotifyContext(context.Background(), syscall.SIGTERM, syscall.SIGINT)
	return ctx
}

func idle([]string) error {
	<-stopped().Done()
	return nil
}

// === serve

// Echo is what a caller learns of its own request. Header keeps every value:
// a header that came twice must show twice.
type Echo struct {
	Host   string      `json:"host"`
	Method string      `json:"method"`
	Path   string      `json:"path"`
	Query  string      `json:"query"`
	Header http.Header `json:"header"`
	Body   string      `json:"body"`
	Remote string      `json:"remote"`
	Server string      `json:"server"`
}

func serve(args []string) error {
	flags := flag.NewFlagSet("serve", flag.ExitOnError)
	httpAddr := flags.String("http", "", "address for HTTP")
	tcpAddr := flags.String("tcp", "", "address for TCP echo")
	sinkAddr := flags.String("sink", "", "address for a sink, which says how much came and its SHA-256")
	flags.Parse(args)
	failed := make(chan error, 3)
	if *httpAddr != "" {
		l, err := net.Listen("tcp", *httpAddr)
		if err != nil {
			return err
		}
		fmt.Println("http", l.Addr())
		go func() { failed <- http.Serve(l, http.HandlerFunc(echoHTTP)) }()
	}
	for _, one := range []struct {
		name, addr string
		answer     func(*net.TCPConn)
	}{{"sink", *sinkAddr, sinkTCP}, {"tcp", *tcpAddr, echoTCP}} {
		if one.addr == "" {
			continue
		}
		l, err := net.Listen("tcp", one.addr)
		if err != nil {
			return err
		}
		fmt.Println(one.name, l.Addr())
		go func() { failed <- serveTCP(l, one.answer) }()
	}
	select {
	case err := <-failed:
		return err
	case <-stopped().Done():
		return nil
	}
}

func echoHTTP(w http.ResponseWriter, r *http.Request) {
	body, err := io.ReadAll(io.LimitReader(r.Body, 1<<20))
	if err != nil {
		http.Error(w, err.Error(), http.StatusBadRequest)
		return
	}
	server, _ := os.Hostname()
	w.Header().Set("content-type", "application/json")
	json.NewEncoder(w).Encode(Echo{r.Host, r.Method, r.URL.EscapedPath(), r.URL.RawQuery, r.Header, string(body), r.RemoteAddr, server})
}

func serveTCP(l net.Listener, answer func(*net.TCPConn)) error {
	for {
		c, err := l.Accept()
		if err != nil {
			return err
		}
		go func() {
			defer c.Close()
			answer(c.(*net.TCPConn))
		}()
	}
}

func echoTCP(c *net.TCPConn) {
	io.Copy(c, c) // half-close passes through: a caller that shuts its side still gets all of it back
}

// === get

type headers []string

func (h *headers) String() string     { return strings.Join(*h, ", ") }
func (h *headers) Set(s string) error { *h = append(*h, s); return nil }

func get(args []string) error {
	var extra headers
	flags := flag.NewFlagSet("get", flag.ExitOnError)
	proxy := flags.String("proxy", "", "HTTP proxy")
	method := flags.String("method", "GET", "method")
	body := flags.String("body", "", "body")
	wait := flags.Duration("timeout", 20*time.Second, "for all of it")
	flags.Var(&extra, "H", "header, more than once")
	flags.Parse(args)
	r, err := http.NewRequest(*method, flags.Arg(0), strings.NewReader(*body))
	if err != nil {
		return err
	}
	for _, h := range extra {
		k, v, _ := strings.Cut(h, ":")
		r.Header[k] = append(r.Header[k], strings.TrimSpace(v)) // as spelled: how it is spelled may be the point
	}
	transport := &http.Transport{Proxy: nil}
	if *proxy != "" {
		u, err := url.Parse(*proxy)
		if err != nil {
			return err
		}
		transport.Proxy = http.ProxyURL(u)
	}
	answer, err := (&http.Client{Transport: transport, Timeout: *wait}).Do(r)
	if err != nil {
		return err
	}
	defer answer.Body.Close()
	fmt.Println("STATUS", answer.StatusCode)
	_, err = io.Copy(os.Stdout, answer.Body)
	return err
}

// === tcp, hold

// dial connects, through an HTTP proxy's CONNECT if there is one.
func dial(proxy, addr string, wait time.Duration) (net.Conn, *bufio.Reader, error) {
	first := addr
	if proxy != "" {
		first = strings.TrimPrefix(proxy, "http://")
	}
	c, err := net.DialTimeout("tcp", first, wait)
	if err != nil {
		return nil, nil, err
	}
	r := bufio.NewReader(c)
	if proxy == "" {
		return c, r, nil
	}
	c.SetDeadline(time.Now().Add(wait))
	defer c.SetDeadline(time.Time{})
	fmt.Fprintf(c, "CONNECT %s HTTP/1.1\r\nHost: %s\r\n\r\n", addr, addr)
	answer, err := http.ReadResponse(r, &http.Request{Method: "CONNECT"})
	if err != nil {
		return nil, nil, fmt.Errorf("the proxy did not answer: %w", err)
	}
	if answer.StatusCode != 200 {
		why, _ := io.ReadAll(io.LimitReader(answer.Body, 4096))
		return nil, nil, fmt.Errorf("the proxy refused: STATUS %d %s", answer.StatusCode, strings.TrimSpace(string(why)))
	}
	return c, r, nil
}

func round(c net.Conn, r *bufio.Reader, text string, wait time.Duration) (string, error) {
	c.SetDeadline(time.Now().Add(wait))
	if _, err := fmt.Fprintln(c, text); err != nil {
		return "", err
	}
	line, err := r.ReadString('\n')
	if errors.Is(err, io.EOF) {
		return "", errors.New("closed by the other side")
	}
	return strings.TrimSuffix(line, "\n"), err
}

func tcp(args []string) error {
	flags := flag.NewFlagSet("tcp", flag.ExitOnError)
	proxy := flags.String("connect", "", "HTTP proxy to CONNECT through")
	wait := flags.Duration("timeout", 20*time.Second, "for each step")
	flags.Parse(args)
	c, r, err := dial(*proxy, flags.Arg(0), *wait)
	if err != nil {
		return err
	}
	line, err := round(c, r, flags.Arg(1), *wait)
	if err == nil {
		fmt.Println(line)
	}
	return err
}

// hold says "held" when the first line is back, then a line for each, and how
// it ended. That it ends is what some scenarios wait for, so that is no failure.
func hold(args []string) error {
	flags := flag.NewFlagSet("hold", flag.ExitOnError)
	proxy := flags.String("connect", "", "HTTP proxy to CONNECT through")
	every := flags.Duration("every", 200*time.Millisecond, "pause between lines")
	wait := flags.Duration("timeout", 20*time.Second, "for each step")
	flags.Parse(args)
	c, r, err := dial(*proxy, flags.Arg(0), *wait)
	if err != nil {
		return err
	}
	for n := 1; ; n++ {
		want := fmt.Sprintf("line %d", n)
		got, err := round(c, r, want, *wait)
		switch {
		case err != nil && n == 1:
			return err
		case err != nil:
			fmt.Println("ended:", err)
			return nil
		case got != want:
			return fmt.Errorf("sent %q, got %q", want, got)
		case n == 1:
			fmt.Println("held")
		}
		fmt.Println(got)
		time.Sleep(*every)
	}
}
