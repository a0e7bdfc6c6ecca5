package uid

import "time"

// EpochLength is one span of issuance time: one table partition, one CRL an authority, one unit of retention.
const EpochLength = 7 * 24 * time.Hour

// An Epoch numbers the spans of EpochLength since 1970-01-01T00:00:00Z.
type Epoch int32

// EpochOf returns the epoch that holds t.
func EpochOf(t time.Time) Epoch {
	return Epoch(t.Unix() / int64(EpochLength/time.Second)) //nolint:gosec // a 32-bit week number outlives the protocol
}

// Start returns the first instant of e.
func (e Epoch) Start() time.Time {
	return time.Unix(int64(e)*int64(EpochLength/time.Second), 0).UTC()
}

// End returns the first instant after e.
func (e Epoch) End() time.Time { return (e + 1).Start() }
