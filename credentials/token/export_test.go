package token

// EndedMost is how many ends are remembered one by one.
const EndedMost = endedMost
