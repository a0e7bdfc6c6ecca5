package softkms

import "context"

// OpenQuickly is Open with the fewest iterations, for tests that are not about them.
func OpenQuickly(ctx context.Context, cfg Config) (*Keyring, error) {
	return open(ctx, cfg, minIterations)
}
