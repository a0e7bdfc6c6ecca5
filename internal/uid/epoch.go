package uid

import (
	"strconv"
	"time"
)

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

// Partition returns the name of the partition of parent that holds what site makes of kind k in e. A statement that names it
// costs the same for ever; one on parent costs more with each partition there is. It is made of parent, a word of ours, and
// numbers, so it needs no quotes. make_epoch (migrations/0001_ledger.sql) names partitions the same way.
func Partition(parent string, k Kind, site byte, e Epoch) string {
	b := make([]byte, 0, len(parent)+len("_10_s255_e2147483647"))
	b = append(b, parent...)
	b = append(b, '_')
	b = strconv.AppendUint(b, uint64(k), 16)
	b = append(b, "_s"...)
	b = strconv.AppendUint(b, uint64(site), 10)
	b = append(b, "_e"...)
	return string(strconv.AppendInt(b, int64(e), 10))
}

// Partition returns the name of the partition of parent that holds u.
func (u UID) Partition(parent string) string {
	return Partition(parent, u.Kind(), u.Site(), u.Epoch())
}
