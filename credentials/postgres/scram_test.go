package postgres_test

import (
	"encoding/base64"
	"testing"

	"codeberg.org/dataverket/segl/credentials/postgres"
)

// RFC 7677 §3 has a whole exchange for the user "user" and the password "pencil"; PostgreSQL keeps what the server of that
// exchange would. The signature in it proves ServerKey, the client's proof StoredKey; here both are as RFC 7677's salt gives them.
func TestTheVerifierIsWhatAServerKeeps(t *testing.T) {
	salt, err := base64.StdEncoding.DecodeString("W22ZaJ0SNY7soEsUEjb6gQ==")
	if err != nil {
		t.Fatal(err)
	}
	got, err := postgres.VerifierOf("pencil", salt, 4096)
	const want = "SCRAM-SHA-256$4096:W22ZaJ0SNY7soEsUEjb6gQ==$WG5d8oPm3OtcPnkdi4Uo7BkeZkBFzpcXkuLmtbsT4qY=:wfPLwcE6nTWhTAmQ7tl2KeoiWGPlZqQxSrmfPwDl2dU="
	if err != nil || got != want {
		t.Errorf("%s, %v", got, err)
	}
}
