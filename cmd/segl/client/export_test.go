package client

// ReadEvents is readEvents, for its fuzz target.
var ReadEvents = readEvents
