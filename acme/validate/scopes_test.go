package validate_test

import (
	"net/http"
	"net/netip"
	"testing"

	"github.com/miekg/dns"

	"codeberg.org/dataverket/segl/acme"
	"codeberg.org/dataverket/segl/acme/validate"
	"codeberg.org/dataverket/segl/acme/validate/dnstest"
	"codeberg.org/dataverket/segl/internal/identity"
)

func scope(t *testing.T, s string) identity.Scope {
	t.Helper()
	v, err := identity.ParseScope(s)
	if err != nil {
		t.Fatal(err)
	}
	return v
}

func prefix(s string) netip.Prefix { return netip.MustParsePrefix(s) }

// in returns a check of method m asked for by a scope.
func in(t *testing.T, s string, m acme.Method, who string) acme.Check {
	c := check(t, m, who)
	c.Scope = scope(t, s)
	return c
}

func TestScopesNarrowWhereValidationMayGo(t *testing.T) {
	v := newValidator(t, validate.Config{
		Egress: validate.Egress{Allowed: []netip.Prefix{prefix("10.0.0.0/8")}, Denied: []netip.Prefix{prefix("10.9.0.0/16")}},
		Scopes: map[identity.Scope]validate.Rules{
			scope(t, "acme"):           {Allowed: []netip.Prefix{prefix("10.1.0.0/16"), prefix("192.0.2.0/24"), prefix("169.254.0.0/16"), prefix("10.9.0.0/16")}},
			scope(t, "acme/shop"):      {Denied: []netip.Prefix{prefix("10.1.2.0/24")}},
			scope(t, "acme/shop/prod"): {Allowed: []netip.Prefix{prefix("10.1.2.0/24"), prefix("10.2.0.0/16")}},
			scope(t, "other"):          {Allowed: []netip.Prefix{}},
		},
	})
	for _, c := range []struct{ scope, to, why string }{
		{"acme", "192.0.2.1", "outside the allowed"},               // a scope does not widen
		{"acme", "169.254.169.254", "link-local"},                  // nor opens what nothing opens
		{"acme", "10.9.0.1", "denied range 10.9.0.0/16"},           // nor what is denied
		{"acme", "10.2.0.1", "outside the allowed"},                // and narrows
		{"acme/shop", "10.1.2.3", "denied range 10.1.2.0/24"},      // a child narrows more
		{"acme/shop/prod", "10.1.2.3", "denied range 10.1.2.0/24"}, // and its child keeps that
		{"acme/shop/prod", "10.2.0.1", "outside the allowed"},      // and cannot take it back
		{"acme/store/prod", "10.2.0.1", "outside the allowed"},     // without rules: the nearest above
		{"other", "10.1.0.1", "outside the allowed"},               // an empty list allows nothing
	} {
		_, p := v.Validate(t.Context(), in(t, c.scope, acme.HTTP01, "ip:"+c.to))
		refused(t, p, acme.Connection, c.why)
	}
}

func TestScopesHaveTheirOwnResolverAndPorts(t *testing.T) {
	srv, cfg := host(t, answerWith(keyAuth))
	theirs := dnstest.New(t)
	theirs.Add(t, "only.here. 0 IN A 127.0.0.1")
	cfg.HTTPPort = 1 // nobody listens there
	cfg.Scopes = map[identity.Scope]validate.Rules{
		scope(t, "acme"):      {HTTPPort: port(t, srv.Listener.Addr().String())},
		scope(t, "acme/shop"): {Resolver: theirs.Addr},
	}
	v := newValidator(t, cfg)
	if _, p := v.Validate(t.Context(), in(t, "acme/shop/prod", acme.HTTP01, "dns:only.here")); p != nil {
		t.Error(p)
	}
	_, p := v.Validate(t.Context(), in(t, "acme", acme.HTTP01, "dns:only.here"))
	refused(t, p, acme.DNS, "NXDOMAIN") // another's names are not its own
	_, p = v.Validate(t.Context(), in(t, "other", acme.HTTP01, "dns:a.test"))
	refused(t, p, acme.Connection)
}

func TestScopesAskTheirOwnResolverForPermission(t *testing.T) {
	all, theirs := dnstest.New(t), dnstest.New(t)
	theirs.Add(t, caa("a.test", `0 issue ";"`))
	v := newValidator(t, validate.Config{Resolver: all.Addr, CAA: us, Scopes: map[identity.Scope]validate.Rules{scope(t, "acme"): {Resolver: theirs.Addr}}})
	refused(t, v.Permit(t.Context(), in(t, "acme/shop", acme.HTTP01, "dns:a.test")), acme.CAA)
	if p := v.Permit(t.Context(), in(t, "other", acme.HTTP01, "dns:a.test")); p != nil {
		t.Error(p)
	}
}

func TestNewRefusesAScopesResolverThatIsNoAddress(t *testing.T) {
	_, err := validate.New(validate.Config{Scopes: map[identity.Scope]validate.Rules{scope(t, "acme"): {Resolver: "dns"}}})
	if err == nil {
		t.Error("taken")
	}
}

func TestEgressJudgesTheAddressInside(t *testing.T) {
	private := validate.Egress{Denied: []netip.Prefix{prefix("10.0.0.0/8")}}
	for what, c := range map[string]struct{ to, why string }{
		"NAT64":                       {"64:ff9b::a01:203", "denied"},
		"NAT64 of a network, /48":     {"64:ff9b:1:a01:2:300::", "denied"},
		"NAT64 of a network, /56":     {"64:ff9b:1:a:1:203::", "denied"},
		"NAT64 of a network, /64":     {"64:ff9b:1:0:a:102:300:0", "denied"},
		"NAT64 of a network, /96":     {"64:ff9b:1::a01:203", "denied"},
		"the same with a prefix":      {"64:ff9b:1:abcd::a01:203", "denied"},
		"metadata by a network's own": {"64:ff9b:1::a9fe:a9fe", "link-local"},
		"6to4":                        {"2002:a01:203::1", "denied"},
		"Teredo, client":              {"2001:0:808:808::f5fe:fdfc", "denied"},
		"Teredo, server":              {"2001:0:a01:203::", "denied"},
		"metadata by Teredo":          {"2001:0:808:808::5601:5601", "link-local"},
		"translated":                  {"::ffff:0:a01:203", "denied"},
		"compatible":                  {"::a01:203", "denied"},
		"ISATAP":                      {"2001:db8::5efe:a01:203", "denied"},
		"ISATAP, global":              {"2001:db8::200:5efe:a01:203", "denied"},
		"loopback by NAT64":           {"64:ff9b::7f00:1", "loopback"},
		"loopback, translated":        {"::ffff:0:7f00:1", "loopback"},
	} {
		t.Run(what, func(t *testing.T) {
			_, p := newValidator(t, validate.Config{Egress: private}).Validate(t.Context(), check(t, acme.HTTP01, "ip:"+c.to))
			refused(t, p, acme.Connection, c.why)
		})
	}
}

func TestEgressAllowsByTheAddressInside(t *testing.T) {
	e := validate.Egress{Allowed: []netip.Prefix{prefix("10.0.0.0/8")}}
	for to, allowed := range map[string]bool{"64:ff9b::a01:203": true, "64:ff9b::c000:201": false, "2001:db8::1": false, "2002:a01:203::": true} {
		if err := validate.Check(e, netip.AddrPortFrom(netip.MustParseAddr(to), 80)); (err == nil) != allowed {
			t.Errorf("%s: %v", to, err)
		}
	}
	// An address in the allowed range that carries one outside does not pass by the range alone.
	e = validate.Egress{Allowed: []netip.Prefix{prefix("64:ff9b::/96")}}
	if err := validate.Check(e, netip.MustParseAddrPort("[64:ff9b::a01:203]:80")); err == nil {
		t.Error("a translator's range opens what is behind it")
	}
}

func TestEgressKnowsOurListenersBehindATranslator(t *testing.T) {
	e := validate.Egress{Own: []netip.AddrPort{netip.MustParseAddrPort("192.0.2.9:443")}}
	for to, own := range map[string]bool{"[64:ff9b::c000:209]:443": true, "192.0.2.9:443": true, "[::ffff:192.0.2.9]:443": true, "192.0.2.9:80": false} {
		if err := validate.Check(e, netip.MustParseAddrPort(to)); (err != nil) != own {
			t.Errorf("%s: %v", to, err)
		}
	}
}

func TestResolverKeepsToTCPWhereLettersChange(t *testing.T) {
	d := dnstest.New(t)
	d.Add(t, "_acme-challenge.a.test. 0 IN TXT "+record(t))
	d.Fold()
	if _, p := newValidator(t, validate.Config{Resolver: d.Addr}).Validate(t.Context(), check(t, acme.DNS01, "dns:a.test")); p != nil {
		t.Fatal(p)
	}
	if n := len(d.Asked()); n != 2 {
		t.Errorf("%d questions: an answer by UDP to other letters is believed", n)
	}
}

func TestResolverBelievesNoOtherClassOrIdentifier(t *testing.T) {
	for what, change := range map[string]func(*dns.Msg){
		"class":         func(m *dns.Msg) { m.Question[0].Qclass = dns.ClassCHAOS },
		"two questions": func(m *dns.Msg) { m.Question = append(m.Question, m.Question[0]) },
		"no question":   func(m *dns.Msg) { m.Question = nil },
	} {
		t.Run(what, func(t *testing.T) {
			d := dnstest.New(t)
			d.Answer(func(q *dns.Msg) *dns.Msg {
				m := new(dns.Msg).SetReply(q)
				rr, err := dns.NewRR("_acme-challenge.a.test. 0 IN TXT " + record(t))
				if err != nil {
					t.Error(err)
				}
				m.Answer = []dns.RR{rr}
				change(m)
				return m
			})
			_, p := newValidator(t, validate.Config{Resolver: d.Addr}).Validate(t.Context(), check(t, acme.DNS01, "dns:a.test"))
			refused(t, p, acme.DNS)
		})
	}
}

func TestHTTP01RefusesEndlessBodiesAndLoops(t *testing.T) {
	for what, h := range map[string]http.HandlerFunc{
		"chunks without end": func(w http.ResponseWriter, r *http.Request) {
			for r.Context().Err() == nil {
				if _, err := w.Write(make([]byte, 4096)); err != nil {
					return
				}
				w.(http.Flusher).Flush() //nolint:forcetypeassert // net/http's own
			}
		},
		"another token's key authorization": answerWith("AAAAfADs6pSRb2LAv9IZf17Dt3juxGJ-PCt92wr-oA" + keyAuth[len(token):]),
	} {
		t.Run(what, func(t *testing.T) {
			_, cfg := host(t, h)
			_, p := newValidator(t, cfg).Validate(t.Context(), check(t, acme.HTTP01, "dns:a.test"))
			refused(t, p, acme.IncorrectResponse)
		})
	}
}
