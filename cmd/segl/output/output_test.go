package output_test

import (
	"errors"
	"fmt"
	"iter"
	"strings"
	"testing"
	"time"

	"codeberg.org/dataverket/segl/cmd/segl/output"
)

type thing struct {
	Name  string   `json:"name"`
	Words []string `json:"words"`
	Text  string   `json:"text,omitempty"`
}

var view = output.View[thing]{
	Name: func(t thing) string { return t.Name },
	Columns: []output.Column[thing]{
		{Head: "NAME", Cell: func(t thing) string { return t.Name }},
		{Head: "ALL WORDS", Cell: func(t thing) string { return strings.Join(t.Words, "\n") }},
		{Head: "TEXT", Cell: func(t thing) string { return t.Text }},
	},
}

func of(list ...thing) iter.Seq2[thing, error] {
	return func(yield func(thing, error) bool) {
		for _, v := range list {
			if !yield(v, nil) {
				return
			}
		}
	}
}

var two = []thing{{Name: "a", Words: []string{"x", "y"}}, {Name: "007", Words: []string{}, Text: "yes, <b>\n\"q\""}}

func TestListsLookAsPromised(t *testing.T) {
	for form, want := range map[output.Form]string{
		output.Table: "NAME  ALL WORDS  TEXT\na     x y        \n007   -          yes, <b> \"q\"\n",
		output.CSV:   "name,all_words,text\na,x y,\n007,,\"yes, <b> \"\"q\"\"\"\n",
		output.Name:  "a\n007\n",
		output.JSON: `[
  {
    "name": "a",
    "words": [
      "x",
      "y"
    ]
  },
  {
    "name": "007",
    "words": [],
    "text": "yes, <b>\n\"q\""
  }
]
`,
		output.YAML: `- name: a
  words:
    - x
    - "y"
- name: "007"
  words: []
  text: |-
    yes, <b>
    "q"
`,
	} {
		var b strings.Builder
		if err := output.List(&b, form, of(two...), view); err != nil || b.String() != want {
			t.Errorf("%s: %v\n%s\nwant\n%s", form, err, b.String(), want)
		}
	}
}

func TestNothingIsAListToo(t *testing.T) {
	for form, want := range map[output.Form]string{
		output.Table: "", output.CSV: "name,all_words,text\n", output.Name: "", output.JSON: "[]\n", output.YAML: "[]\n",
	} {
		var b strings.Builder
		if err := output.List(&b, form, of(), view); err != nil || b.String() != want {
			t.Errorf("%s: %v %q, want %q", form, err, b.String(), want)
		}
	}
}

func TestOneThingLooksAsPromised(t *testing.T) {
	for form, want := range map[output.Form]string{
		output.Table: "name:       a\nall words:  x\n            y\n",
		output.JSON:  "{\n  \"name\": \"a\",\n  \"words\": [\n    \"x\",\n    \"y\"\n  ]\n}\n",
		output.YAML:  "name: a\nwords:\n  - x\n  - \"y\"\n",
		output.CSV:   "name,all_words,text\na,x y,\n",
		output.Name:  "a\n",
	} {
		var b strings.Builder
		if err := output.One(&b, form, two[0], view); err != nil || b.String() != want {
			t.Errorf("%s: %v\n%s\nwant\n%s", form, err, b.String(), want)
		}
	}
}

func TestALongTableDoesNotWaitForItsEnd(t *testing.T) {
	var b strings.Builder
	rows := 0
	seq := func(yield func(thing, error) bool) {
		for i := range 2500 {
			if i == 2400 && strings.Count(b.String(), "\n") < 2000 {
				t.Errorf("after %d rows only %d were printed", i, strings.Count(b.String(), "\n"))
			}
			rows++
			if !yield(thing{Name: fmt.Sprint(i)}, nil) {
				return
			}
		}
	}
	if err := output.List(&b, output.Table, seq, view); err != nil || rows != 2500 || strings.Count(b.String(), "NAME") != 1 {
		t.Errorf("%v after %d rows, %d headings", err, rows, strings.Count(b.String(), "NAME"))
	}
}

var errLost = errors.New("lost")

func TestAnErrorEndsAList(t *testing.T) {
	for _, form := range output.Forms {
		var b strings.Builder
		err := output.List(&b, output.Form(form), func(yield func(thing, error) bool) {
			if yield(thing{}, errLost) {
				t.Errorf("%s: more was asked for after an error", form)
			}
		}, view)
		if !errors.Is(err, errLost) {
			t.Errorf("%s: %v", form, err)
		}
	}
}

func TestOtherFormsAreRefused(t *testing.T) {
	f := output.Table
	if err := f.Set("xml"); err == nil || f != output.Table {
		t.Errorf("%v, %s", err, f)
	}
	if err := f.Set("csv"); err != nil || f != output.CSV {
		t.Errorf("%v, %s", err, f)
	}
}

func TestUntil(t *testing.T) {
	now := time.Date(2026, 1, 1, 0, 0, 0, 0, time.UTC)
	for d, want := range map[time.Duration]string{
		0: "in 0s", 119 * time.Second: "in 119s", 2 * time.Minute: "in 2m", 3 * time.Hour: "in 3h", 47 * time.Hour: "in 47h",
		48 * time.Hour: "in 2d", -time.Second: "1s ago", -90 * 24 * time.Hour: "90d ago",
	} {
		if got := output.Until(now, now.Add(d)); got != want {
			t.Errorf("%s: %q, want %q", d, got, want)
		}
	}
}

func TestWhatComesOneAtATimeIsPrintedWholeAtOnce(t *testing.T) {
	for form, want := range map[output.Form]string{
		output.JSON:  "{\"name\":\"a\"}\n{\"name\":\"longer\"}\n{\"name\":\"\"}\n",
		output.YAML:  "---\nname: a\n---\nname: longer\n---\nname: \"\"\n",
		output.CSV:   "name,again\na,a\nlonger,longer\n,\n",
		output.Name:  "a\nlonger\n\n",
		output.Table: "NAME  AGAIN\na     a\nlonger  longer\n-       \n",
	} {
		var out strings.Builder
		type row struct {
			Name string `json:"name"`
		}
		cell := func(r row) string { return r.Name }
		show := output.Follow(&out, form, output.View[row]{Name: cell, Columns: []output.Column[row]{{Head: "NAME", Cell: cell}, {Head: "AGAIN", Cell: cell}}})
		before := 0
		for _, v := range []string{"a", "longer", ""} {
			if err := show(row{v}); err != nil {
				t.Fatal(err)
			}
			if out.Len() == before {
				t.Errorf("%s: %q is held back", form, v)
			}
			before = out.Len()
		}
		if out.String() != want {
			t.Errorf("%s:\n%s\nwant\n%s", form, out.String(), want)
		}
	}
}
