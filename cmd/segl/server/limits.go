package server

import (
	"fmt"
	"net/url"
	"slices"
	"time"

	"codeberg.org/dataverket/segl/acme"
	"codeberg.org/dataverket/segl/internal/limit"
)

// limited are limits with the rates that the configuration gives them.
func (c *Config) limited(defined []limit.Definition) []limit.Definition {
	for i, d := range defined {
		if r, ok := c.Limits[d.Name]; ok {
			defined[i].Rate = r
		}
	}
	return defined
}

// checkOffers refuses limits that are not there, and terms that nobody could read.
func (c *Config) checkOffers() error {
	if u, err := url.Parse(c.ACME.Terms); c.ACME.Terms != "" && (err != nil || u.Scheme != "https" && u.Scheme != "http" || u.Host == "") {
		return fmt.Errorf("acme.terms: %q: want the URL of a page", c.ACME.Terms)
	}
	for name := range c.Limits {
		if !slices.ContainsFunc(acme.LimitsDefined(), func(d limit.Definition) bool { return d.Name == name }) {
			return fmt.Errorf("limits: %q: there is no such limit", name)
		}
	}
	return nil
}

// devLimits count as in earnest and are out of reach: whoever measures or tests goes faster than any client.
func devLimits() map[limit.Name]limit.Rate {
	const far = 10_000_000
	out := make(map[limit.Name]limit.Rate)
	for _, d := range acme.LimitsDefined() {
		out[d.Name] = limit.Rate{Count: far, Per: time.Hour}
	}
	return out
}
