package postgres

// Under reports whether a trip is under way.
func (f *Ferry) Under() bool {
	f.mu.Lock()
	defer f.mu.Unlock()
	return f.under && len(f.waiting) == 0
}

// Waiting returns how many wait for the next trip.
func (f *Ferry) Waiting() int {
	f.mu.Lock()
	defer f.mu.Unlock()
	return len(f.waiting)
}
