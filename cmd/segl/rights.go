package main

import (
	"github.com/spf13/cobra"

	"codeberg.org/dataverket/segl/internal/tenancy/api"
)

// rightsFlags say which names a scope may bear, a kind at a time.
type rightsFlags struct{ dns, ip, spiffe, none, inherit []string }

func (r *rightsFlags) register(c *cobra.Command) {
	f := c.Flags()
	f.StringArrayVar(&r.dns, "dns", nil, "may bear DNS `NAME`: shop.test is that name, *.shop.test one label below it; may be repeated")
	f.StringArrayVar(&r.ip, "ip", nil, "may bear the addresses of `RANGE`, CIDR or one address; may be repeated")
	f.StringArrayVar(&r.spiffe, "spiffe", nil, "may bear the SPIFFE ID of `WORKLOAD`, * is any; may be repeated")
	f.StringSliceVar(&r.none, "none", nil, "may bear no name of `KINDS`: dns, ip, spiffe")
	f.StringSliceVar(&r.inherit, "inherit", nil, "leave `KINDS` to the scopes above: dns, ip, spiffe")
	choices(c, "none", "dns", "ip", "spiffe")
	choices(c, "inherit", "dns", "ip", "spiffe")
}

// spell lists what was given.
func (r *rightsFlags) spell() []string {
	var list []string
	for _, v := range []struct {
		before string
		list   []string
	}{{"dns:", r.dns}, {"ip:", r.ip}, {"spiffe:", r.spiffe}, {"none of ", r.none}, {"inherited ", r.inherit}} {
		for _, s := range v.list {
			list = append(list, v.before+s)
		}
	}
	return list
}

// over returns d with what was given in its place.
func (r *rightsFlags) over(d api.Declared) (api.Declared, error) {
	kinds := map[string]struct {
		given []string
		into  **[]string
	}{"dns": {r.dns, &d.DNS}, "ip": {r.ip, &d.IP}, "spiffe": {r.spiffe, &d.SPIFFE}}
	given := map[string]string{}
	for kind, k := range kinds {
		if len(k.given) > 0 {
			given[kind], *k.into = "--"+kind, &k.given
		}
	}
	for _, list := range []struct {
		flag  string
		kinds []string
		value *[]string
	}{{"--none", r.none, &[]string{}}, {"--inherit", r.inherit, nil}} {
		for _, kind := range list.kinds {
			k, ok := kinds[kind]
			if !ok {
				return d, misuse("%s %q: want dns, ip or spiffe", list.flag, kind)
			}
			if other := given[kind]; other != "" {
				return d, misuse("%s %s contradicts %s", list.flag, kind, other).hinted("leave one out")
			}
			given[kind], *k.into = list.flag+" "+kind, list.value
		}
	}
	return d, nil
}

// bodyOf is what the API takes: a kind that is absent is left to the scopes above.
func bodyOf(d api.Declared) map[string]any {
	body := map[string]any{}
	for kind, list := range map[string]*[]string{"dns": d.DNS, "ip": d.IP, "spiffe": d.SPIFFE} {
		if list != nil {
			body[kind] = *list
		}
	}
	return body
}
