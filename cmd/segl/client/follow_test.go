package client_test

import (
	"errors"
	"fmt"
	"net/http"
	"strings"
	"testing"

	"codeberg.org/dataverket/segl/cmd/segl/client"
)

// events answers with a stream, if the request goes on from where it should.
func events(t *testing.T, from, body string) step {
	return func(w http.ResponseWriter, r *http.Request) {
		if got := r.Header.Get("Last-Event-ID"); got != from {
			t.Errorf("came from %q, want %q", got, from)
		}
		w.Header().Set("Content-Type", "text/event-stream")
		fmt.Fprint(w, body) //nolint:errcheck // a test's peer
	}
}

func TestFollowingGoesOnFromTheLastEvent(t *testing.T) {
	const end = `event: end` + "\n" + `data: {"reason":"unadmitted","detail":"gone","resume":false}` + "\n\n"
	_, c := newPeer(t,
		events(t, "", "id: 1\nevent: fact\ndata: a\n\n: a comment\n\nid: 2\n\nid: 3\nevent: fact\ndata: not whole"),
		busy,
		hangUp,
		events(t, "2", "id: 4\nevent: fact\ndata: b\ndata: c\n\n"+`event: end`+"\n"+`data: {"reason":"draining","resume":true}`+"\n\n"),
		events(t, "4", "id:5\ndata:d\n\n"+end))
	var got []string
	err := c.Follow(t.Context(), get, func(e client.Event) error {
		got = append(got, e.ID+e.Name+string(e.Data))
		return nil
	})
	if ended, ok := errors.AsType[*client.Ended](err); !ok || ended.Reason != "unadmitted" {
		t.Errorf("ended with %v", err)
	}
	if want := "1facta 2 4factb\nc 5d"; strings.Join(got, " ") != want {
		t.Errorf("got %q, want %q", got, want)
	}
}

func TestFollowingEndsWithARefusalAndWithItsTaker(t *testing.T) {
	p, c := newPeer(t, answer(409, `{"type":"urn:segl:problem:position-ahead","title":"Ahead"}`, "Content-Type", "application/problem+json"))
	if err := c.Follow(t.Context(), get, func(client.Event) error { return nil }); !client.Named(err, "position-ahead") || p.asked.Load() != 1 {
		t.Errorf("%v after %d requests", err, p.asked.Load())
	}
	enough := errors.New("enough")
	p, c = newPeer(t, events(t, "", "id: 1\n\nid: 2\n\n"))
	if err := c.Follow(t.Context(), get, func(client.Event) error { return enough }); !errors.Is(err, enough) || p.asked.Load() != 1 {
		t.Errorf("%v after %d requests", err, p.asked.Load())
	}
}

func TestFollowingIsGivenUpWhenNobodyAnswers(t *testing.T) {
	p, c := newPeer(t, hangUp)
	err := c.Follow(t.Context(), get, func(client.Event) error { return nil })
	if _, ok := errors.AsType[*client.Unreachable](err); !ok || p.asked.Load() < 3 || p.asked.Load() > 40 {
		t.Errorf("%v after %d requests", err, p.asked.Load())
	}
}

func TestALineWithoutEndIsRefused(t *testing.T) {
	err := client.ReadEvents(strings.NewReader("data: "+strings.Repeat("x", 2<<20)), func(client.Event) error { return nil })
	if err == nil {
		t.Error("read it")
	}
}

func FuzzReadEvents(f *testing.F) {
	for _, s := range []string{"", "\n\n", "id: 1\nevent: fact\ndata: {}\n\n", ":c\n\ndata\n\n", "id:1\ndata:a\ndata:b\n\n", "data: x", "\xff: y\n\n", "id: 1\r\n\r\n"} {
		f.Add(s)
	}
	f.Fuzz(func(t *testing.T, s string) {
		var again strings.Builder
		take := func(into *[]string) func(client.Event) error {
			return func(e client.Event) error {
				*into = append(*into, fmt.Sprintf("%q %q %q", e.ID, e.Name, e.Data))
				fmt.Fprintf(&again, "id: %s\nevent: %s\n", e.ID, e.Name)
				if e.Data != nil {
					fmt.Fprintf(&again, "data: %s\n", strings.ReplaceAll(string(e.Data), "\n", "\ndata: "))
				}
				again.WriteString("\n")
				return nil
			}
		}
		var first, second []string
		if client.ReadEvents(strings.NewReader(s), take(&first)) != nil {
			return
		}
		text := again.String()
		if err := client.ReadEvents(strings.NewReader(text), take(&second)); err != nil || strings.Join(first, "\n") != strings.Join(second, "\n") {
			t.Errorf("%q was read as %q, and written again as %q: %v", s, first, second, err)
		}
	})
}
