package ledger

// ForgetScopes has numbers of scopes read again: a deleted tenant's name may be another's now.
func (l *Ledger) ForgetScopes() { l.scopes.Clear() }
