// Package cert holds the pure words of certificates: serials, names, reasons, keys and requests.
//
// Parse functions are the only way to a value and return a valid one or an error that names the rule and the remedy. The
// package does no I/O, keeps no state and is safe for concurrent use. It follows RFC 5280, RFC 2986 (requests) and RFC 8555
// §11.1 (keys that must not be certified).
package cert

// MaxNames is the most names one certificate carries; more make certificates that clients cannot handle.
const MaxNames = 100
