package ledger

// SetPartMost says how many certificates one list is meant to speak for.
func (l *Ledger) SetPartMost(n float64) { l.partMost = n }
