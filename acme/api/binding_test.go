package api_test

import (
	"encoding/base64"
	"encoding/json"
	"net/http"
	"strings"
	"sync/atomic"
	"testing"
	"time"

	"github.com/mholt/acmez/v3"
	acmezacme "github.com/mholt/acmez/v3/acme"
	xacme "golang.org/x/crypto/acme"

	"codeberg.org/dataverket/segl/acme"
	"codeberg.org/dataverket/segl/acme/api"
	"codeberg.org/dataverket/segl/acme/jws"
	"codeberg.org/dataverket/segl/acme/jws/jwstest"
	"codeberg.org/dataverket/segl/internal/cert"
	"codeberg.org/dataverket/segl/internal/identity"
	"codeberg.org/dataverket/segl/internal/pkitest"
	"codeberg.org/dataverket/segl/internal/policy"
	"codeberg.org/dataverket/segl/internal/uid"
	"codeberg.org/dataverket/segl/internal/web"
)

func required(t testing.TB, r *replica, yes bool) {
	t.Helper()
	must(t, r.server.Set(t.Context(), boss, pkitest.Demo, acme.Setting{BindingRequired: &yes}))
}

func TestBindingsAreRefused(t *testing.T) {
	_, r := newSite(t, options{idle: true})
	required(t, r, true)
	key, secret := r.key(t, acme.Binding{})
	revoked, revokedSecret := r.key(t, acme.Binding{})
	_, err := r.server.RevokeBinding(t.Context(), boss, pkitest.Demo, revoked.ID)
	must(t, err)
	foreign, foreignSecret := r.key(t, acme.Binding{Scope: pkitest.Scope("other")})
	if m := r.do(t, "GET", r.directory(), "", nil).json(t)["meta"].(map[string]any); m["externalAccountRequired"] != true {
		t.Errorf("meta is %v", m)
	}

	good := func() jwstest.Header {
		return jwstest.Header{"alg": "HS256", "kid": key.ID.String(), "url": r.at("new-account")}
	}
	other := jwstest.NewKey(t)
	for name, x := range map[string]struct {
		edit   func(h jwstest.Header)
		secret []byte
		key    bool // binds another key
		raw    string
		status int
		kind   string
	}{
		"none":                    {raw: "", status: 403, kind: "externalAccountRequired"},
		"null":                    {raw: "null", status: 403, kind: "externalAccountRequired"},
		"no object":               {raw: `"x"`, status: 400, kind: "malformed"},
		"an empty object":         {raw: `{}`, status: 400, kind: "malformed"},
		"a signature's algorithm": {edit: func(h jwstest.Header) { h["alg"] = "ES256" }, status: 400, kind: "malformed"},
		"no algorithm":            {edit: func(h jwstest.Header) { h["alg"] = "none" }, status: 400, kind: "malformed"},
		"a nonce":                 {edit: func(h jwstest.Header) { h["nonce"] = "AAAA" }, status: 400, kind: "malformed"},
		"no key identifier":       {edit: func(h jwstest.Header) { delete(h, "kid") }, status: 400, kind: "malformed"},
		"no URL":                  {edit: func(h jwstest.Header) { delete(h, "url") }, status: 400, kind: "malformed"},
		"another URL":             {edit: func(h jwstest.Header) { h["url"] = r.at("new-order") }, status: 400, kind: "malformed"},
		"another account's key":   {key: true, status: 400, kind: "malformed"},
		"a key that is none":      {edit: func(h jwstest.Header) { h["kid"] = "nonsense" }, status: 403, kind: "unauthorized"},
		"a key nobody made":       {edit: func(h jwstest.Header) { h["kid"] = uid.New(uid.Binding, 1, time.Now()).String() }, status: 403, kind: "unauthorized"},
		"another kind of thing":   {edit: func(h jwstest.Header) { h["kid"] = uid.New(uid.Order, 1, time.Now()).String() }, status: 403, kind: "unauthorized"},
		"another secret":          {secret: []byte(strings.Repeat("x", 32)), status: 403, kind: "unauthorized"},
		"no secret":               {secret: []byte{}, status: 403, kind: "unauthorized"},
		"a revoked key":           {edit: func(h jwstest.Header) { h["kid"] = revoked.ID.String() }, secret: revokedSecret, status: 403, kind: "unauthorized"},
		"another scope's key":     {edit: func(h jwstest.Header) { h["kid"] = foreign.ID.String() }, secret: foreignSecret, status: 403, kind: "unauthorized"},
	} {
		a := &account{replica: r, key: jwstest.NewKey(t)}
		raw := x.raw
		if x.kind == "malformed" && raw == "" || x.kind == "unauthorized" {
			h, s, k := good(), secret, a.key
			if x.edit != nil {
				x.edit(h)
			}
			if x.secret != nil {
				s = x.secret
			}
			if x.key {
				k = other
			}
			raw = string(jwstest.Bind(t, s, h, k))
		}
		payload := `{}`
		if raw != "" {
			payload = `{"externalAccountBinding":` + raw + `}`
		}
		refused(t, name, a.post(t, r.at("new-account"), payload), x.status, x.kind)
	}
	var accounts, used int
	s := r.site
	must(t, s.DB.QueryRow(t.Context(), `SELECT (SELECT count(*) FROM acme_account), (SELECT sum(used) FROM acme_binding)`).Scan(&accounts, &used))
	if accounts != 0 || used != 0 {
		t.Errorf("%d accounts were made, keys were used %d times", accounts, used)
	}

	for _, alg := range []string{"HS256", "HS384", "HS512"} {
		a := &account{replica: r, key: jwstest.NewKey(t)}
		h := good()
		h["alg"] = alg
		res := a.post(t, r.at("new-account"), `{"externalAccountBinding":`+string(jwstest.Bind(t, secret, h, a.key))+`}`)
		if res.status != http.StatusCreated {
			t.Errorf("%s: %d %s", alg, res.status, res.body)
		}
	}
	if n := s.facts(t, "binding.use", key.ID.String(), true); n != 3 {
		t.Errorf("%d facts of 3 uses", n)
	}
	required(t, r, false)
	r.register(t)
}

func TestOneUseIsCountedOnceByAllReplicas(t *testing.T) {
	s, one := newSite(t, options{idle: true})
	all := []*replica{one, s.replica(t, options{idle: true}), s.replica(t, options{idle: true})}
	for range 5 {
		key, secret := one.key(t, acme.Binding{Uses: 1})
		proof := &acme.Proof{KeyID: key.ID.String(), Verify: func(b []byte) error {
			if string(b) != string(secret) {
				t.Error("a replica opened another secret")
			}
			return nil
		}}
		// The same request three times, to three replicas, and beside it one of another account.
		same, other := jwstest.NewKey(t), jwstest.NewKey(t)
		var made, found, spent atomic.Int32
		accounts := make([]acme.Account, 12)
		together(12, func(i int) {
			k := same
			if i%4 == 3 {
				k = other
			}
			thumbprint, err := jws.Thumbprint(k.Public())
			must(t, err)
			a, fresh, err := all[i%3].server.Register(t.Context(), identity.Caller{Scope: pkitest.Demo}, acme.Registration{Key: k.Public(), Thumbprint: thumbprint, Proof: proof})
			accounts[i] = a
			switch p, ok := asProblem(err); {
			case err == nil && fresh:
				made.Add(1)
			case err == nil:
				found.Add(1)
			case ok && p.Type == acme.Unauthorized:
				spent.Add(1)
			default:
				t.Error(err)
			}
		})
		winner, lost := found.Load()+1, spent.Load()
		if made.Load() != 1 || winner+lost != 12 || winner != 9 && winner != 3 {
			t.Fatalf("%d made, %d found, %d refused", made.Load(), found.Load(), lost)
		}
		var used int
		must(t, s.DB.QueryRow(t.Context(), `SELECT used FROM acme_binding WHERE id = $1`, key.ID.Bytes()).Scan(&used))
		if used != 1 || s.facts(t, "binding.use", key.ID.String(), true) != 1 {
			t.Fatalf("used %d times, %d facts", used, s.facts(t, "binding.use", key.ID.String(), true))
		}
	}
}

func TestAKeyBindsUntilItExpires(t *testing.T) {
	s, r := newSite(t, options{validator: yes{}})
	key, secret := r.key(t, acme.Binding{Expires: s.Now().Add(time.Hour)})
	a := r.member(t, key.ID, secret)
	s.Advance(2 * time.Hour)
	late := &account{replica: r, key: jwstest.NewKey(t)}
	refused(t, "an expired key", late.post(t, r.at("new-account"), r.binding(t, late, key.ID, secret)), 403, "unauthorized")
	a.nonce = ""
	a.issued(t, orderFor("dns:a.demo.test"), "dns:a.demo.test") // what it bound goes on
}

func TestTheAccountsOfARevokedKeyOrderNothing(t *testing.T) {
	s, one, two := balanced(t, options{validator: yes{}})
	key, secret := one.key(t, acme.Binding{})
	a := one.member(t, key.ID, secret)
	elsewhere := &account{replica: two, key: a.key, kid: two.at("acct/" + uidOf(t, a.kid).String())}
	begun := a.post(t, a.at("new-order"), orderFor("dns:a.demo.test"))
	elsewhere.order(t, "dns:b.demo.test")

	if _, err := two.server.RevokeBinding(t.Context(), pkitest.Workload(pkitest.Demo, "w"), pkitest.Demo, key.ID); err == nil {
		t.Error("a tenant revoked a key")
	}
	if _, err := two.server.RevokeBinding(t.Context(), boss, pkitest.Scope("demo"), key.ID); err == nil {
		t.Error("a key was revoked in another scope")
	}
	for range 2 { // twice is once
		if b, err := two.server.RevokeBinding(t.Context(), boss, pkitest.Demo, key.ID); err != nil || b.State(s.Now()) != "revoked" {
			t.Fatalf("%+v %v", b, err)
		}
	}
	for _, who := range []*account{a, elsewhere} {
		refused(t, "an authorization after the revocation", who.post(t, who.at("new-authz"), `{"identifier":{"type":"dns","value":"a.demo.test"}}`), 403, "unauthorized")
		refused(t, "an order after the revocation", who.post(t, who.at("new-order"), orderFor("dns:a.demo.test")), 403, "unauthorized")
	}
	if n := s.facts(t, "binding.revoke", key.ID.String(), true); n != 1 {
		t.Errorf("%d facts of one revocation", n)
	}
	// What was ordered before is not taken back by this; and an account of no key is not touched.
	o := begun.json(t)
	a.prove(t, o, "http-01")
	if o = a.wait(t, begun.header.Get("Location")); o["status"] != "ready" {
		t.Errorf("order %v", o)
	}
	one.register(t).order(t, "dns:a.demo.test")
}

func TestAKeysAccountsOrderItsNamesOnly(t *testing.T) {
	s, r := newSite(t, options{idle: true})
	key, secret := r.key(t, acme.Binding{Names: []string{"dns:*.demo.test", "ip:127.0.0.8/30"}})
	a := r.member(t, key.ID, secret)
	a.order(t, "dns:a.demo.test", "dns:*.demo.test", "ip:127.0.0.9")
	for _, names := range [][]string{
		{"dns:localhost"}, {"dns:a.localhost"}, {"ip:127.0.0.1"}, {"ip:127.0.0.12"}, {"dns:demo.test"}, {"dns:a.demo.test", "dns:localhost"},
	} {
		res := a.post(t, a.at("new-order"), orderFor(names...))
		refused(t, strings.Join(names, " "), res, 400, "rejectedIdentifier")
	}
	if n := s.facts(t, "order.create", "", false); n != 6 {
		t.Errorf("%d facts of 6 refusals", n)
	}
	// The scope's own rights hold besides: a key widens nothing.
	wide, wideSecret := r.key(t, acme.Binding{Names: []string{"dns:*.evil.test"}, Approved: []string{"dns:*.evil.test"}})
	refused(t, "beyond the scope", r.member(t, wide.ID, wideSecret).post(t, r.at("new-order"), orderFor("dns:a.evil.test")), 400, "rejectedIdentifier")
}

func TestPreApprovedNamesNeedNoChallengeAndEachIsAFact(t *testing.T) {
	s, r := newSite(t, options{validator: no{}})
	key, secret := r.key(t, acme.Binding{Approved: []string{"dns:*.demo.test"}})
	a := r.member(t, key.ID, secret)
	a.issued(t, orderFor("dns:a.demo.test", "dns:b.demo.test"), "dns:a.demo.test", "dns:b.demo.test")
	a.issued(t, orderFor("dns:a.demo.test"), "dns:a.demo.test") // again: another use
	for name, want := range map[string]int{"dns:a.demo.test": 2, "dns:b.demo.test": 1} {
		if n := s.facts(t, "authorization.approve", name, true); n != want {
			t.Errorf("%d facts of %d uses of %s", n, want, name)
		}
	}
	_, o := a.order(t, "dns:a.demo.test", "dns:localhost")
	if o["status"] != "pending" {
		t.Errorf("an order with a name that is not approved is %v", o["status"])
	}
	var pending, valid int
	for _, u := range authorizations(o) {
		z := a.post(t, u, "").json(t)
		challenges, is := z["challenges"].([]any)
		switch {
		case z["status"] == "valid" && is && len(challenges) == 0:
			valid++
		case z["status"] == "pending" && len(challenges) > 0:
			pending++
		default:
			t.Errorf("authorization %v", z)
		}
	}
	if pending != 1 || valid != 1 {
		t.Errorf("%d pending, %d valid", pending, valid)
	}
	// Per key, never global: another key's account and one of no key prove what they order.
	plain, plainSecret := r.key(t, acme.Binding{})
	for _, other := range []*account{r.register(t), r.member(t, plain.ID, plainSecret)} {
		if _, o := other.order(t, "dns:a.demo.test"); o["status"] != "pending" {
			t.Errorf("somebody else's order is %v", o["status"])
		}
	}
}

func TestKeysThatWouldBindNobodyAreRefused(t *testing.T) {
	s, r := newSite(t, options{idle: true})
	for name, b := range map[string]acme.Binding{
		"no label":            {Scope: pkitest.Demo},
		"a long label":        {Scope: pkitest.Demo, Label: strings.Repeat("x", 300)},
		"fewer than no uses":  {Scope: pkitest.Demo, Label: "x", Uses: -1},
		"an end in the past":  {Scope: pkitest.Demo, Label: "x", Expires: s.Now().Add(-time.Second)},
		"no name at all":      {Scope: pkitest.Demo, Label: "x", Names: []string{}},
		"a name with no kind": {Scope: pkitest.Demo, Label: "x", Names: []string{"a.demo.test"}},
		"another kind":        {Scope: pkitest.Demo, Label: "x", Names: []string{"uri:spiffe://segl.test/x"}},
		"every name":          {Scope: pkitest.Demo, Label: "x", Approved: []string{"dns:*"}},
		"no name":             {Scope: pkitest.Demo, Label: "x", Approved: []string{"dns:"}},
		"half an address":     {Scope: pkitest.Demo, Label: "x", Approved: []string{"ip:127.0"}},
		"too many names":      {Scope: pkitest.Demo, Label: "x", Names: make([]string, 101)},
		"a scope that is not": {Scope: pkitest.Scope("nobody/knows"), Label: "x"},
	} {
		if _, _, err := r.server.CreateBinding(t.Context(), boss, b); err == nil {
			t.Errorf("%s: made", name)
		}
	}
	_, _, err := r.server.CreateBinding(t.Context(), pkitest.Workload(pkitest.Demo, "w"), acme.Binding{Scope: pkitest.Demo, Label: "x"})
	if _, is := asRefusal(err); !is {
		t.Errorf("a tenant's own key: %v", err)
	}
	if n := s.facts(t, "binding.create", "", true); n != 0 {
		t.Errorf("%d facts of keys that were not made", n)
	}
	list, err := r.server.ListBindings(t.Context(), boss, pkitest.Demo, uid.UID{}, 10)
	if err != nil || len(list) != 0 {
		t.Errorf("%v %v", list, err)
	}
	if _, err := r.server.ListBindings(t.Context(), pkitest.Workload(pkitest.Demo, "w"), pkitest.Demo, uid.UID{}, 10); err == nil {
		t.Error("a tenant lists keys")
	}
}

func TestSecretsOfKeysAreSealed(t *testing.T) {
	s, r := newSite(t, options{idle: true})
	key, secret := r.key(t, acme.Binding{})
	var sealed []byte
	must(t, s.DB.QueryRow(t.Context(), `SELECT sealed FROM acme_binding WHERE id = $1`, key.ID.Bytes()).Scan(&sealed))
	if strings.Contains(string(sealed), string(secret)) || len(secret) != 32 {
		t.Error("the secret lies open")
	}
	// One key's secret is not another's, even if their rows are exchanged.
	other, _ := r.key(t, acme.Binding{})
	_, err := s.DB.Exec(t.Context(), `UPDATE acme_binding SET sealed = $2 WHERE id = $1`, other.ID.Bytes(), sealed)
	must(t, err)
	a := &account{replica: r, key: jwstest.NewKey(t)}
	refused(t, "an exchanged secret", a.post(t, r.at("new-account"), r.binding(t, a, other.ID, secret)), 500, "serverInternal")
}

func TestClientsBindTheirAccounts(t *testing.T) {
	s, r := newSite(t, options{})
	h := s.holder(t)
	required(t, r, true)
	key, secret := r.key(t, acme.Binding{Label: "clients"})

	client := &acmez.Client{Client: &acmezacme.Client{Directory: r.directory(), HTTPClient: r.client}, ChallengeSolvers: map[string]acmez.Solver{"http-01": solver{h}}}
	mine := acmezacme.Account{PrivateKey: jwstest.NewKey(t), TermsOfServiceAgreed: true}
	if _, err := client.NewAccount(t.Context(), mine); err == nil {
		t.Error("acmez made an account without a key")
	}
	must(t, mine.SetExternalAccountBinding(t.Context(), client.Client, acmezacme.EAB{KeyID: key.ID.String(), MACKey: base64.RawURLEncoding.EncodeToString(secret)}))
	mine, err := client.NewAccount(t.Context(), mine)
	must(t, err)
	chains, err := client.ObtainCertificateForSANs(t.Context(), mine, pkitest.Key(t), []string{"a.demo.test"})
	must(t, err)
	// It renews what it has: acmez names the predecessor.
	csr, err := acmez.NewCSR(pkitest.Key(t), []string{"a.demo.test"})
	must(t, err)
	params, err := acmez.OrderParametersFromCSR(mine, csr)
	must(t, err)
	params.Replaces = leaf(t, chains[0].ChainPEM)
	again, err := client.ObtainCertificate(t.Context(), params)
	must(t, err)
	serial, err := cert.SerialFromInt(leaf(t, chains[0].ChainPEM).SerialNumber)
	must(t, err)
	successor, err := cert.SerialFromInt(leaf(t, again[0].ChainPEM).SerialNumber)
	must(t, err)
	must(t, eventually(t, func() bool { // acmez asked a moment ago, and that answer is believed for one more
		info, err := s.RenewalInfo(t.Context(), serial)
		return err == nil && info.ReplacedBy == successor
	}))

	x := &xacme.Client{Key: jwstest.NewKey(t), DirectoryURL: r.directory(), HTTPClient: r.client}
	if _, err := x.Register(t.Context(), &xacme.Account{}, xacme.AcceptTOS); err == nil {
		t.Error("x/crypto/acme made an account without a key")
	}
	x = &xacme.Client{Key: jwstest.NewKey(t), DirectoryURL: r.directory(), HTTPClient: r.client}
	_, err = x.Register(t.Context(), &xacme.Account{ExternalAccountBinding: &xacme.ExternalAccountBinding{KID: key.ID.String(), Key: secret}}, xacme.AcceptTOS)
	must(t, err)
	b, err := r.server.ListBindings(t.Context(), boss, pkitest.Demo, uid.UID{}, 10)
	if err != nil || len(b) != 1 || b[0].Used != 2 {
		t.Errorf("%+v %v", b, err)
	}
	if raw, err := json.Marshal(b); err != nil || strings.Contains(string(raw), base64.StdEncoding.EncodeToString(secret)) {
		t.Error("a list shows a secret")
	}
}

func asRefusal(err error) (*policy.Refusal, bool) {
	return asType[*policy.Refusal](err)
}

func TestKeysAreListedByPages(t *testing.T) {
	_, r := newSite(t, options{idle: true})
	want := map[string]bool{}
	for range 5 {
		b, _ := r.key(t, acme.Binding{Uses: 3})
		want[b.ID.String()] = true
	}
	r.key(t, acme.Binding{Scope: pkitest.Scope("other")})
	page, pages := web.Page{Size: 2}, 0
	for {
		list, err := api.ListKeys(t.Context(), r.server, boss, pkitest.Demo, page)
		must(t, err)
		pages++
		for _, k := range list.Keys {
			if !want[k.ID] || k.State != "valid" || *k.Uses != 3 || k.Expires != nil {
				t.Errorf("%+v is not wanted, or again", k)
			}
			delete(want, k.ID)
		}
		if list.NextPageToken == nil {
			break
		}
		page.Token = *list.NextPageToken
	}
	if len(want) != 0 || pages != 3 {
		t.Errorf("%d keys are missing after %d pages", len(want), pages)
	}
	if _, err := api.ListKeys(t.Context(), r.server, boss, pkitest.Demo, web.Page{Size: 2, Token: web.CursorAt([]byte("x"))}); err == nil {
		t.Error("a page begins at nonsense")
	}
}
