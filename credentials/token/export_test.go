package token

// How many ends are remembered one by one: of certificates, and of tokens themselves.
const (
	EndedMost  = endedMost
	TokensMost = tokensMost
)
