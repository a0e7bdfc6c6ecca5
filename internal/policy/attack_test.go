package policy_test

import (
	"testing"

	"codeberg.org/dataverket/segl/internal/cert"
	"codeberg.org/dataverket/segl/internal/policy"
)

// Tenant a may have shop-a.test and 10.1.0.0/16 in a/p; tenant b has shop-b.test and 10.2.0.0/16, the platform *.platform.test and
// 192.0.2.0/24. Whatever a asks for in whatever spelling: either no name is read out of it, or its rights refuse it.
func TestNoSpellingGivesATenantAnothersName(t *testing.T) {
	a := chain(t, "a/p", policy.Rights{DNS: []string{"shop-a.test", "*.shop-a.test", "bücher.test"}, IP: []string{"10.1.0.0/16", "2001:db8:a::/48"}, SPIFFE: []string{"*"}}, policy.Rights{})
	for _, s := range []string{
		// another's name, by case, dots, space, escapes, invisible and look-alike letters
		"dns:shop-b.test", "dns:SHOP-B.test", "dns:shop-b.test.", "dns:shop-b.test..", "dns:.shop-b.test", "dns: shop-b.test", "dns:shop-b.test ", "dns:shop-b.test\n",
		"dns:shop-b.test\x00.shop-a.test", "dns:shop-b%2etest", "dns:%73hop-b.test", "dns:shop-b.test%00.shop-a.test", "dns:shop-b。test", "dns:shop-b．test", "dns:ｓｈｏｐ-b.test",
		"dns:shop\u00ad-b.test", "dns:shop\u200b-b.test", "dns:shоp-b.test", "dns:shop-b.test:443", "dns:shop-b.test/", "dns:x@shop-b.test", "dns:shop-b.test,shop-a.test",
		"dns:shop-b.test;shop-a.test", "dns:shop-b.test\\.shop-a.test", "dns:SHOP-B.platform.test", "dns:ca.platform.test",
		// names around its own
		"dns:evilshop-a.test", "dns:shop-a.test.evil.test", "dns:xshop-a.test", "dns:a.b.shop-a.test", "dns:*.a.shop-a.test", "dns:shop-a.test.shop-b.test", "dns:_acme-challenge.shop-b.test",
		// wildcards: over its own, over all, within a label, twice
		"dns:*", "dns:*.test", "dns:*.*.shop-a.test", "dns:*.*", "dns:sh*.test", "dns:*shop-b.test", "dns:a.*.shop-a.test", "dns:**.shop-a.test", "dns:*.shop-b.test", "dns:*.", "dns:.*",
		// IDNA: A-labels of another's, broken ones, of what decodes to ASCII, and mixed
		"dns:xn--shop-b-.test", "dns:xn--shop-b.test", "dns:xn--.test", "dns:XN--SHOP-B-.test", "dns:xn--a.test", "dns:xn--shop-a-.test", "dns:faß.test", "dns:xn--fa-hia.test", "dns:xn--bcher-kva.shop-b.test",
		// addresses: another's, the platform's, mapped, embedded, in other bases, short, with a zone or a range; and as host names
		"ip:10.2.0.1", "ip:192.0.2.1", "ip:::ffff:10.2.0.1", "ip:::ffff:10.1.0.1", "ip:::10.1.0.1", "ip:64:ff9b::10.2.0.1", "ip:2002:0a02:0001::", "ip:010.1.0.1", "ip:10.1.1", "ip:0x0a010001", "ip:0x0a.1.0.1", "ip:167837697",
		"ip:012.1.0.1", "ip:10.1.0.1/16", "ip:10.1.0.0/16", "ip:2001:db8:a::1%eth0", "ip:2001:db8:b::1", "ip:[2001:db8:a::1]", "ip:10.1.0.1 ", "ip:１０.1.0.1", "ip:0.0.0.0", "ip:::",
		"dns:10.2.0.1", "dns:10.1.0.1", "dns:167837697", "dns:0x0a020001", "dns:::1", "dns:[::1]", "dns:1.0.2.10.in-addr.arpa", "dns:0x0a.0x02.0.1",
		// identities: another's, its parent's, its child's, the platform's, escaped, with dots, a query, another domain's form
		"uri:spiffe://segl.test/tenant/b/project/p/web", "uri:spiffe://segl.test/tenant/a/web", "uri:spiffe://segl.test/tenant/a/project/p/environment/e/web", "uri:spiffe://segl.test/platform/web",
		"uri:spiffe://segl.test/tenant/b/../a/project/p/web", "uri:spiffe://segl.test/tenant/a/project/p/../../../b/web", "uri:spiffe://segl.test/tenant/%62/project/p/web",
		"uri:spiffe://segl.test/tenant/a/project/p/%2e%2e/web", "uri:spiffe://segl.test/tenant/a/project/p/..%2f..%2fplatform%2fweb", "uri:spiffe://segl.test//tenant/a/project/p/web",
		"uri:spiffe://segl.test/tenant/a/project/p/web/", "uri:spiffe://segl.test/tenant/a/project/p/web?x", "uri:spiffe://segl.test/tenant/a/project/p/web#x", "uri:spiffe://b@segl.test/tenant/a/project/p/web",
		"uri:spiffe://segl.test:1/tenant/a/project/p/web", "uri:SPIFFE://segl.test/tenant/b/project/p/web", "uri:spiffe://segl.test/TENANT/a/project/p/web", "uri:spiffe://segl.test/tenant/A/project/p/web",
		"uri:spiffe://segl.test/tenant/a/project/p/*", "uri:spiffe://segl.test/tenant/*/project/p/web", "uri:https://shop-b.test/", "uri:spiffe:tenant/a", "uri:",
		// what is no name, or of a kind nobody has
		"", "dns:", "ip:", "email:x@shop-b.test", "dn:CN=x", "shop-a.test", "DNS:shop-b.test", "dns:dns:shop-a.test",
	} {
		n, err := cert.ParseName(s)
		if err != nil {
			continue
		}
		if err := a.Allow(n); err == nil {
			t.Errorf("%q gives %s", s, n)
		}
	}
}

// What has one meaning is taken in one spelling: a second one is no second name.
func TestSpellingsThatAreTakenAreTheNamesOwn(t *testing.T) {
	a := chain(t, "a/p", policy.Rights{DNS: []string{"shop-a.test", "*.shop-a.test"}, IP: []string{"10.1.0.0/16", "2001:db8:a::/48"}, SPIFFE: []string{"*"}}, policy.Rights{})
	for s, want := range map[string]string{
		"dns:shop-a.test": "dns:shop-a.test", "dns:a.shop-a.test": "dns:a.shop-a.test", "dns:*.shop-a.test": "dns:*.shop-a.test", "ip:10.1.2.3": "ip:10.1.2.3",
		"ip:2001:db8:a::1": "ip:2001:db8:a::1", "uri:spiffe://segl.test/tenant/a/project/p/web": "uri:spiffe://segl.test/tenant/a/project/p/web",
	} {
		n, err := cert.ParseName(s)
		if err != nil || n.String() != want || a.Allow(n) != nil {
			t.Errorf("%s: %s, %v, %v", s, n, err, a.Allow(n))
		}
	}
}
