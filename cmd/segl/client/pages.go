package client

import (
	"context"
	"encoding/json"
	"fmt"
	"iter"
	"maps"
	"net/http"
	"net/url"
	"strconv"
)

// pageSize is how many items one request asks for: the most a server gives.
const pageSize = 1000

// A Listing asks for a list that comes in pages.
type Listing struct {
	Path   string
	Query  url.Values
	Member string // that holds the items, as in "certificates"
	Limit  int    // how many at most; zero means all
}

// List yields the items of a list, fetching page after page as they are asked for. A page may be empty and not the last: the
// server looks at a bounded number of things for each. An error ends the list.
func List[T any](ctx context.Context, c *Client, l Listing) iter.Seq2[T, error] {
	return func(yield func(T, error) bool) {
		left := l.Limit
		query := maps.Clone(l.Query)
		if query == nil {
			query = url.Values{}
		}
		for {
			size := pageSize
			if l.Limit > 0 {
				size = min(size, left)
			}
			query.Set("page_size", strconv.Itoa(size))
			items, next, err := page[T](ctx, c, l, query)
			if err != nil {
				var none T
				yield(none, err)
				return
			}
			for _, v := range items {
				if !yield(v, nil) {
					return
				}
			}
			if left -= len(items); next == "" || next == query.Get("page_token") || l.Limit > 0 && left <= 0 {
				return
			}
			query.Set("page_token", next)
		}
	}
}

// page fetches one page. Lists that never end always say where they will go on, and by "more" whether that is now: of those,
// next is empty at the end.
func page[T any](ctx context.Context, c *Client, l Listing, query url.Values) (items []T, next string, err error) {
	var members map[string]json.RawMessage
	if err := c.Do(ctx, Request{Method: http.MethodGet, Path: l.Path, Query: query}, &members); err != nil {
		return nil, "", err
	}
	more := true
	for name, into := range map[string]any{l.Member: &items, "next_page_token": &next, "more": &more} {
		if raw, ok := members[name]; ok {
			if err := json.Unmarshal(raw, into); err != nil {
				return nil, "", fmt.Errorf("reading member %s of the answer: %w", name, err)
			}
		}
	}
	if !more {
		next = ""
	}
	return items, next, nil
}
