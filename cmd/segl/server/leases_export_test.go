package server

import (
	"time"

	"codeberg.org/dataverket/segl/credentials"
	"codeberg.org/dataverket/segl/internal/duty"
)

// LeaseDuties are what keeps targets in step.
func LeaseDuties(o *credentials.Office, now func() time.Time) []duty.Duty {
	l := &leasing{office: o}
	return l.duties(now)
}
