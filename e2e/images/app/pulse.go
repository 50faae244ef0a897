package main

import (
	"fmt"
	"io"
	"time"
)

// pulse watches how steadily something comes back: it tells of each pause when
// it is over, and knows the longest.
type pulse struct {
	out     io.Writer
	least   time.Duration // shorter ones are not worth a line
	last    time.Time
	told    time.Time
	longest time.Duration
}

// How often a line says how far it is.
const tellEvery = 200 * time.Millisecond

func newPulse(out io.Writer) *pulse {
	return &pulse{out: out, least: 100 * time.Millisecond, last: time.Now()}
}

// beat is called whenever something has come; now and then it says how far
// that is.
func (p *pulse) beat(n int64) {
	now := time.Now()
	pause := now.Sub(p.last)
	p.last = now
	p.longest = max(p.longest, pause)
	if pause >= p.least {
		fmt.Fprintf(p.out, "pause %d ms before %d\n", pause.Milliseconds(), n)
	}
	if now.Sub(p.told) >= tellEvery {
		p.told = now
		fmt.Fprintf(p.out, "back %d\n", n)
	}
}
