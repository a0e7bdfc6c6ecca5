package agent

import (
	"context"
	"time"
)

// Lists is lists.
func (a *Agent) Lists(ctx context.Context) (time.Duration, error) { return a.lists(ctx) }
