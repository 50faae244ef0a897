package main

import (
	"encoding/json"
	"io"
	"net"
	"net/http"
	"net/http/httptest"
	"strings"
	"testing"
	"time"
)

func TestEchoKeepsEveryHeader(t *testing.T) {
	s := httptest.NewServer(http.HandlerFunc(echoHTTP))
	defer s.Close()
	r, _ := http.NewRequest("POST", s.URL+"/a%2Fb?c", strings.NewReader("body"))
	r.Header["X-Twice"] = []string{"1", "2"}
	a, err := http.DefaultClient.Do(r)
	if err != nil {
		t.Fatal(err)
	}
	var e Echo
	if err := json.NewDecoder(a.Body).Decode(&e); err != nil {
		t.Fatal(err)
	}
	if e.Method != "POST" || e.Path != "/a%2Fb" || e.Query != "c" || e.Body != "body" || len(e.Header["X-Twice"]) != 2 {
		t.Fatalf("%+v", e)
	}
}

func TestRefusalOfAProxySaysWhy(t *testing.T) {
	s := httptest.NewServer(http.HandlerFunc(func(w http.ResponseWriter, r *http.Request) {
		http.Error(w, "no policy allows it", http.StatusForbidden)
	}))
	defer s.Close()
	_, _, err := dial(s.URL, "x.test:1", time.Second)
	if err == nil || !strings.Contains(err.Error(), "STATUS 403 no policy allows it") {
		t.Fatal(err)
	}
}

func TestHalfCloseStillGetsAllBack(t *testing.T) {
	c, err := net.Dial("tcp", served(t, echoTCP))
	if err != nil {
		t.Fatal(err)
	}
	io.WriteString(c, "all of it")
	c.(*net.TCPConn).CloseWrite()
	if got, err := io.ReadAll(c); string(got) != "all of it" {
		t.Fatal(string(got), err)
	}
}

// served answers connections until the test ends, and says where.
func served(t *testing.T, answer func(*net.TCPConn)) string {
	t.Helper()
	l, err := net.Listen("tcp", "127.0.0.1:0")
	if err != nil {
		t.Fatal(err)
	}
	t.Cleanup(func() { l.Close() })
	go serveTCP(l, answer)
	return l.Addr().String()
}
