package duty

// Backoff is what tests measure without waiting for it.
var Backoff = backoff
