package ca

// SplitToken is splitToken, for its fuzz target.
var SplitToken = splitToken
