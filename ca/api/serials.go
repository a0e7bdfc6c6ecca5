package api

import (
	"context"

	"codeberg.org/dataverket/segl/ca"
	"codeberg.org/dataverket/segl/internal/cert"
	"codeberg.org/dataverket/segl/internal/identity"
	"codeberg.org/dataverket/segl/internal/web"
)

// Serials reads what the ledger knows of.
type Serials interface {
	// Serials returns what became of every intent after the serial given, at most limit of them, in ascending order.
	Serials(ctx context.Context, after cert.Serial, limit int) ([]ca.Known, error)
}

// SerialsRequest asks for serials.
type SerialsRequest struct{ web.Page }

// Known is a serial and what became of it.
type Known struct {
	Serial string `json:"serial" required:"true" pattern:"^10[0-9a-f]{34}$"`
	State  string `json:"state" required:"true" enum:"open,issued,revoked,abandoned" description:"open: about to be signed, or cut short; abandoned: never signed, and listed as revoked."`
}

// SerialList is a part of a list. There is more while it has a next_page_token.
type SerialList struct {
	Serials       []Known     `json:"serials" required:"true"`
	NextPageToken *web.Cursor `json:"next_page_token,omitempty"`
}

func (d *door) serials(ctx context.Context, _ identity.Caller, in SerialsRequest) (SerialList, error) {
	var after cert.Serial
	if at := in.Token.At(); len(at) > 0 {
		var err error
		if after, err = cert.SerialFromBytes(at); err != nil {
			return SerialList{}, errToken()
		}
	}
	known, err := d.Serials.Serials(ctx, after, in.Size+1)
	if err != nil {
		return SerialList{}, err
	}
	out := SerialList{Serials: make([]Known, 0, len(known))}
	for i, k := range known {
		if i == in.Size {
			next := web.CursorAt(known[i-1].Serial.Bytes())
			out.NextPageToken = &next
			break
		}
		out.Serials = append(out.Serials, Known{k.Serial.String(), k.State})
	}
	return out, nil
}
