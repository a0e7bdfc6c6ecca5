package main

import "fmt"

// A peerLine is a row of another's server as it is told, beside ours.
type peerLine struct {
	line
	CPU   string // ours / theirs
	Rates string // ours / theirs
}

// Peers are the rows of another's server. A ratio needs both sides, measured in this run.
func (p *page) Peers() []peerLine {
	var lines []peerLine
	for _, theirs := range p.rows {
		if theirs.beside == "" {
			continue
		}
		l := peerLine{line: p.line(theirs)}
		for _, ours := range p.rows {
			if ours.kind == theirs.beside && ours.measured() && theirs.measured() {
				l.CPU = ratio(ours.cpu(), theirs.cpu())
				l.Rates = ratio(ours.rate(), theirs.rate())
			}
		}
		lines = append(lines, l)
	}
	return lines
}

// ratio tells how many times one is the other, the smaller as 1.
func ratio(ours, theirs float64) string {
	if ours <= 0 || theirs <= 0 {
		return ""
	}
	if ours < theirs {
		return fmt.Sprintf("1 : %.1f", theirs/ours)
	}
	return fmt.Sprintf("%.1f : 1", ours/theirs)
}
