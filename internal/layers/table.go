package layers

// Libraries that many rows name.
const (
	pgx   = "github.com/jackc/pgx/v5"
	echo  = "github.com/labstack/echo/v4"
	gojws = "github.com/go-jose/go-jose/v4"
)

// Table returns what each package may import, inside out. It is a function so that nobody can change it.
func Table() map[string]Row { //nolint:funlen // a table
	return map[string]Row{
		"internal/cert":       {Pure, []string{"internal/uid"}, []string{"golang.org/x/crypto", "golang.org/x/net/idna", "github.com/titanous/rocacheck"}},
		"internal/uid":        {Pure, nil, nil},
		"internal/identity":   {Pure, []string{"internal/cert"}, nil},
		"internal/audit":      {Pure, []string{"internal/cert", "internal/identity"}, nil},
		"internal/access":     {Pure, []string{"internal/identity", "internal/policy"}, nil},
		"internal/breakglass": {Pure, nil, []string{"golang.org/x/crypto/ssh"}},
		"internal/limit":      {Pure, []string{"internal/identity"}, nil},
		"internal/policy": {
			Pure,
			[]string{"internal/cert", "internal/identity"},
			[]string{"github.com/smallstep/certificates/policy"},
		},

		"kms":     {Domain, []string{"internal/cert"}, nil},
		"ca/tbs":  {Domain, []string{"internal/cert", "internal/uid", "ca/lint", "kms"}, []string{"golang.org/x/crypto/cryptobyte"}},
		"ca/lint": {Domain, []string{"internal/cert", "internal/uid"}, []string{"golang.org/x/crypto/cryptobyte"}},
		"ca": {
			Domain,
			[]string{
				"internal/access", "internal/audit", "internal/breakglass", "internal/cert", "internal/identity", "internal/policy", "internal/uid", "kms", "ca/incident",
				"ca/lint", "ca/tbs",
			},
			nil,
		},
		"ca/ceremony": {Domain, []string{"ca/lint", "ca/tbs", "internal/cert", "kms"}, nil},
		"ca/incident": {Domain, []string{"internal/access", "internal/audit", "internal/cert", "internal/identity", "internal/policy", "internal/uid"}, nil},
		"acme": {
			Domain,
			[]string{"internal/access", "internal/audit", "internal/cert", "internal/identity", "internal/limit", "internal/policy", "internal/uid", "ca"},
			nil,
		},

		"credentials": {
			Domain,
			[]string{"internal/access", "internal/audit", "internal/cert", "internal/identity", "internal/policy", "internal/uid"},
			nil,
		},

		"credentials/token/verify": {Domain, nil, []string{gojws}}, // a library: others import it
		"credentials/token": {
			Domain,
			[]string{
				"credentials", "credentials/token/verify", "internal/access", "internal/audit", "internal/cert", "internal/identity", "kms",
			},
			[]string{gojws, "golang.org/x/crypto/cryptobyte"},
		},

		"ca/crl": {
			Domain,
			[]string{"ca", "ca/lint", "ca/tbs", "internal/cert", "internal/uid", "kms"},
			[]string{"golang.org/x/crypto/cryptobyte"},
		},
		"ca/check": {
			Domain,
			[]string{"ca/crl", "ca/ocsp", "internal/cert", "internal/uid"},
			[]string{"golang.org/x/crypto/ocsp"},
		},
		"ca/ocsp": {Domain, []string{"internal/cert"}, []string{"golang.org/x/crypto/cryptobyte"}},
		"ca/seal": {
			Domain,
			[]string{"internal/access", "internal/audit", "internal/cert", "internal/identity", "internal/uid", "kms"},
			[]string{"golang.org/x/crypto/cryptobyte", "golang.org/x/mod"},
		},

		"migrations":                {Plumbing, nil, nil},
		"internal/postgres":         {Plumbing, []string{"migrations"}, []string{pgx, "github.com/pressly/goose/v3"}},
		"internal/postgres/cluster": {Plumbing, nil, []string{pgx}},
		"internal/duty":             {Plumbing, []string{"internal/postgres"}, []string{pgx}},
		"internal/web": {
			Plumbing,
			[]string{"internal/access", "internal/cert", "internal/identity", "internal/policy"},
			[]string{echo, "github.com/prometheus/client_golang"},
		},
		"internal/web/openapi": {
			Plumbing,
			[]string{"internal/identity", "internal/web"},
			[]string{"github.com/swaggest/jsonschema-go"},
		},
		"internal/feed": {Plumbing, []string{"internal/audit", "internal/cert"}, nil},
		"internal/oidc": {Plumbing, nil, []string{"github.com/coreos/go-oidc/v3", "github.com/go-jose/go-jose/v4"}},
		"internal/access/store": {
			Plumbing,
			[]string{"internal/access", "internal/audit", "internal/identity", "internal/policy", "internal/postgres"},
			[]string{pgx},
		},
		"internal/access/api": {
			Door,
			[]string{"internal/access", "internal/identity", "internal/policy", "internal/web"},
			nil,
		},
		"internal/tenancy": {
			Plumbing,
			[]string{"internal/access", "internal/cert", "internal/identity", "internal/policy", "internal/audit", "internal/postgres"},
			[]string{pgx},
		},

		"ca/ledger": {
			Adapter,
			[]string{
				"ca", "ca/incident", "ca/crl", "ca/ocsp", "ca/tbs", "internal/audit", "internal/cert", "internal/duty", "internal/identity", "internal/policy",
				"internal/postgres", "internal/uid",
			},
			[]string{pgx},
		},
		"ca/seal/store": {
			Adapter,
			[]string{"ca/seal", "ca/tbs", "internal/audit", "internal/cert", "internal/identity", "internal/postgres", "internal/uid"},
			[]string{pgx, "golang.org/x/mod"},
		},
		"acme/store": {
			Adapter,
			[]string{"acme", "internal/cert", "internal/uid", "internal/identity", "internal/policy", "internal/postgres", "internal/audit"},
			[]string{pgx},
		},
		"credentials/store": {
			Adapter,
			[]string{"credentials", "internal/audit", "internal/cert", "internal/identity", "internal/postgres", "internal/uid"},
			[]string{pgx},
		},
		"credentials/token/store": {
			Adapter,
			[]string{"credentials", "credentials/token", "internal/audit", "internal/cert", "internal/identity", "internal/postgres"},
			[]string{pgx},
		},
		"credentials/postgres": {Adapter, []string{"credentials"}, []string{pgx}},
		"credentials/mysql":    {Adapter, []string{"credentials"}, []string{"github.com/go-sql-driver/mysql"}},
		"credentials/redis":    {Adapter, []string{"credentials"}, []string{"github.com/redis/go-redis/v9"}},
		"ca/proof":             {Adapter, []string{"ca", "internal/oidc"}, []string{gojws}},
		"acme/jws":             {Adapter, []string{"internal/cert"}, []string{gojws}},
		"acme/validate":        {Adapter, []string{"acme", "internal/cert", "internal/identity"}, []string{"github.com/miekg/dns"}},
		"kms/stepkms":          {Adapter, []string{"kms"}, []string{"go.step.sm/crypto"}},
		"acme/remote":          {Adapter, []string{"acme", "internal/cert", "internal/identity"}, nil},
		"acme/attest": {
			Adapter,
			[]string{"acme", "internal/cert"},
			[]string{"github.com/fxamacker/cbor/v2", "github.com/google/go-tpm", "golang.org/x/crypto/cryptobyte"},
		},
		"kms/softkms": {Adapter, []string{"kms", "internal/postgres"}, []string{pgx}},
		"internal/selfcert": {
			Adapter,
			[]string{"internal/cert", "internal/identity", "internal/postgres"},
			[]string{pgx, "github.com/caddyserver/certmagic", "go.uber.org/zap"},
		},

		"ca/api": {
			Door,
			[]string{
				"ca", "kms", "ca/lint", "ca/incident", "ca/crl", "ca/ocsp", "internal/access", "internal/audit", "internal/cert", "internal/feed", "internal/identity", "internal/policy",
				"internal/uid", "internal/web",
			},
			[]string{echo},
		},
		"ca/seal/api": {Door, []string{"ca/seal", "internal/cert", "internal/identity", "internal/web"}, nil},
		"credentials/api": {
			Door,
			[]string{"credentials", "internal/access", "internal/cert", "internal/identity", "internal/policy", "internal/uid", "internal/web"},
			nil,
		},
		"acme/api": {
			Door,
			[]string{
				"acme", "acme/jws", "acme/validate", "ca", "internal/cert", "internal/identity", "internal/limit", "internal/policy",
				"internal/uid", "internal/web",
			},
			[]string{echo},
		},

		"credentials/token/api": {Door, []string{"credentials/token", "internal/identity", "internal/web"}, nil},

		"internal/limit/store": {
			Plumbing,
			[]string{"internal/access", "internal/audit", "internal/identity", "internal/limit", "internal/postgres"},
			[]string{pgx},
		},
		"internal/limit/api": {
			Door,
			[]string{"internal/identity", "internal/limit", "internal/policy", "internal/web"},
			nil,
		},
		"internal/tenancy/api": {
			Door,
			[]string{"internal/access", "internal/identity", "internal/policy", "internal/tenancy", "internal/web"},
			nil,
		},

		"cmd/segl": {Wiring, []string{Anything}, []string{"github.com/spf13/cobra", "golang.org/x/oauth2", "go.yaml.in/yaml/v3", "golang.org/x/crypto/ssh"}},
		"internal/agent": {
			Wiring,
			[]string{"ca/api", "cmd/segl/chain", "cmd/segl/client", "cmd/segl/keypair", "internal/cert", "internal/identity"},
			[]string{"github.com/caddyserver/certmagic", "github.com/mholt/acmez/v3", "github.com/prometheus/client_golang", "go.uber.org/zap", "go.yaml.in/yaml/v3"},
		},
		"cmd/segl/chain":  {Wiring, []string{"internal/cert"}, nil},
		"cmd/segl/client": {Wiring, nil, nil},
		"cmd/segl/doctor": {
			Wiring,
			[]string{"cmd/segl/chain", "cmd/segl/client", "cmd/segl/keypair", "internal/postgres", "internal/web", "migrations"},
			[]string{"golang.org/x/crypto/ocsp"},
		},
		"cmd/segl/login":     {Wiring, []string{"cmd/segl/keypair"}, []string{"github.com/coreos/go-oidc/v3", "golang.org/x/oauth2"}},
		"cmd/segl/keypair":   {Wiring, []string{"internal/cert"}, nil},
		"cmd/segl/rootkey":   {Wiring, []string{"kms", "kms/stepkms"}, []string{"filippo.io/age"}},
		"cmd/segl/output":    {Wiring, nil, []string{"go.yaml.in/yaml/v3"}},
		"cmd/segl/trustfile": {Wiring, nil, []string{"go.yaml.in/yaml/v3", "golang.org/x/crypto/ssh"}},
		"cmd/segl/server": {
			Wiring,
			[]string{Anything},
			[]string{"github.com/prometheus/client_golang", "go.yaml.in/yaml/v3"},
		},

		"acme/jws/jwstest":               {Layer: Testing},
		"acme/validate/dnstest":          {Layer: Testing},
		"credentials/credentialstest":    {Layer: Testing},
		"internal/bench":                 {Layer: Testing},
		"internal/bench/fill":            {Layer: Testing},
		"internal/oidc/oidctest":         {Layer: Testing},
		"internal/e2e":                   {Layer: Testing},
		"internal/e2e/unsynced":          {Layer: Testing},
		"internal/layers":                {Layer: Testing},
		"internal/pkitest":               {Layer: Testing},
		"internal/postgres/postgrestest": {Layer: Testing},
		"internal/sqlstyle":              {Layer: Testing},
		"internal/web/webtest":           {Layer: Testing},
		"kms/kmstest":                    {Layer: Testing},
	}
}
