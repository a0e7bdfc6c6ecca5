package crl

import (
	"context"
)

// Sign makes the signed bytes of l over the given entries, as a Builder does.
func Sign(ctx context.Context, a Authority, l List, list []Entry) ([]byte, error) {
	var ended entries
	for _, e := range list {
		if err := ended.add(e); err != nil {
			return nil, err
		}
	}
	return sign(ctx, a, l, ended)
}
