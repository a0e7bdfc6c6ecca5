package api

import (
	"context"
	"encoding/pem"
	"net/http"
	"strings"

	"codeberg.org/dataverket/segl/ca"
	"codeberg.org/dataverket/segl/internal/identity"
	"codeberg.org/dataverket/segl/internal/web"
)

// RequestAuthorityRequest asks for a request that an offline root is to answer.
type RequestAuthorityRequest struct {
	Purpose string `json:"purpose" required:"true" description:"What it is for: servers, workloads or databases."`
	Name    string `json:"name,omitempty" maxLength:"63" description:"The next number of its purpose if absent. Asking again for the same name gives a request of the same key."`
	Preparing
}

// AuthorityRequest is what is carried to an offline root.
type AuthorityRequest struct {
	Name string `json:"name" required:"true"`
	CSR  string `json:"csr" required:"true" description:"PKCS #10, PEM."`
}

func (d *door) requestAuthority(ctx context.Context, who identity.Caller, in RequestAuthorityRequest) (AuthorityRequest, error) {
	ask, err := in.preparation(in.Purpose, in.Name)
	if err != nil {
		return AuthorityRequest{}, err
	}
	der, name, err := d.CA.RequestAuthority(ctx, who, ask)
	if err != nil {
		return AuthorityRequest{}, err
	}
	return AuthorityRequest{Name: name, CSR: string(pem.EncodeToMemory(&pem.Block{Type: "CERTIFICATE REQUEST", Bytes: der}))}, nil
}

// ImportAuthorityRequest carries what a ceremony made.
type ImportAuthorityRequest struct {
	Purpose     string `json:"purpose" required:"true" description:"What it is for: root, servers, workloads or databases."`
	Name        string `json:"name" required:"true" maxLength:"63" description:"Of a root, what it is to be called here; else the name that was requested."`
	Scope       string `json:"scope,omitempty" description:"For whom it signs; everybody if absent."`
	Certificate string `json:"certificate" required:"true" maxLength:"65536" description:"PEM: the authority's certificate, then its root's; of a root, its own alone."`
	List        string `json:"list,omitempty" maxLength:"1048576" description:"PEM, X509 CRL: required with a root."`
}

// ofType are the blocks of a type in PEM, and nothing else may be there.
func ofType(text, kind string) ([][]byte, error) {
	var out [][]byte
	for rest := []byte(text); len(strings.TrimSpace(string(rest))) > 0; {
		var block *pem.Block
		if block, rest = pem.Decode(rest); block == nil || block.Type != kind {
			return nil, &web.Fault{Status: http.StatusBadRequest, Name: "bad-pem", Title: "That is not the PEM that is wanted", Detail: "want blocks of type " + kind + " and nothing else (RFC 7468)"}
		}
		out = append(out, block.Bytes)
	}
	return out, nil
}

func (d *door) importAuthority(ctx context.Context, who identity.Caller, in ImportAuthorityRequest) (Authority, error) {
	chain, err := ofType(in.Certificate, "CERTIFICATE")
	if err != nil {
		return Authority{}, err
	}
	lists, err := ofType(in.List, "X509 CRL")
	if err != nil {
		return Authority{}, err
	}
	v := ca.Imported{Purpose: ca.Purpose(in.Purpose), Name: in.Name}
	if in.Scope != "" {
		ask, err := Preparing{Scope: in.Scope}.preparation(in.Purpose, in.Name)
		if err != nil {
			return Authority{}, err
		}
		v.Scope = ask.Scope
	}
	if len(chain) > 0 {
		v.Certificate, v.Root = chain[0], chain[len(chain)-1]
	}
	if len(lists) > 0 {
		v.List = lists[0]
	}
	return wired(d.CA.Import(ctx, who, v))
}

// ImportListRequest carries the next list of an offline root.
type ImportListRequest struct {
	NamedAuthority
	List string `json:"list" required:"true" maxLength:"1048576" description:"PEM, X509 CRL."`
}

func (d *door) importList(ctx context.Context, who identity.Caller, in ImportListRequest) (Authority, error) {
	lists, err := ofType(in.List, "X509 CRL")
	if err != nil {
		return Authority{}, err
	}
	var der []byte
	if len(lists) > 0 {
		der = lists[0]
	}
	if err := d.CA.ImportList(ctx, who, in.Name, der); err != nil {
		return Authority{}, err
	}
	return wired(d.CA.Authority(in.Name))
}

// ImportCrossRequest carries a certificate by which one root vouches for another.
type ImportCrossRequest struct {
	Certificate string `json:"certificate" required:"true" maxLength:"65536" description:"PEM; what follows the first is not looked at."`
}

func (d *door) importCross(ctx context.Context, who identity.Caller, in ImportCrossRequest) (Authority, error) {
	chain, err := ofType(in.Certificate, "CERTIFICATE")
	if err != nil {
		return Authority{}, err
	}
	var der []byte
	if len(chain) > 0 {
		der = chain[0]
	}
	return wired(d.CA.ImportCross(ctx, who, der))
}
