package main

import (
	"os"
	"strings"
	"testing"

	"github.com/spf13/cobra"
)

const cliPage = "../../docs/cli.md"

// TestCLIPageIsInStep holds docs/cli.md to the program.
func TestCLIPageIsInStep(t *testing.T) {
	text, err := os.ReadFile(cliPage)
	if err != nil {
		t.Fatal(err)
	}
	before, rest, ok := strings.Cut(string(text), "<!-- begin")
	line, _, _ := strings.Cut(rest, "\n")
	_, after, ok2 := strings.Cut(rest, "<!-- end -->")
	if !ok || !ok2 {
		t.Fatal("the page has lost the marks around its generated part")
	}
	want := before + "<!-- begin" + line + "\n" + everyCommand() + "<!-- end -->" + after
	if want == string(text) {
		return
	}
	if !update {
		t.Fatal("docs/cli.md is not what the program says: SEGL_UPDATE=1 go test ./cmd/segl writes it")
	}
	if err := os.WriteFile(cliPage, []byte(want), 0o600); err != nil {
		t.Fatal(err)
	}
}

// recipes are the commands of the page's section of recipes, in order, for a script to run as written.
func recipes(t *testing.T) []byte {
	t.Helper()
	text, err := os.ReadFile(cliPage)
	if err != nil {
		t.Fatal(err)
	}
	_, rest, ok := strings.Cut(string(text), "## Often needed\n")
	rest, _, ok2 := strings.Cut(rest, "\n## ")
	if !ok || !ok2 {
		t.Fatal("the page has lost its section of recipes")
	}
	return fenced(rest)
}

// commandsOf are all the commands of a page, in order.
func commandsOf(t *testing.T, page string) []byte {
	t.Helper()
	text, err := os.ReadFile(page)
	if err != nil {
		t.Fatal(err)
	}
	return fenced(string(text))
}

// fenced is what stands between fences.
func fenced(text string) []byte {
	var b strings.Builder
	for i, part := range strings.Split(text, "```") {
		if i%2 == 1 {
			b.WriteString(part)
		}
	}
	return []byte(b.String())
}

// everyCommand is what each command's --help says, without what many share.
func everyCommand() string {
	var b strings.Builder
	var walk func(c *cobra.Command)
	walk = func(c *cobra.Command) {
		for _, sub := range c.Commands() {
			if !sub.IsAvailableCommand() {
				continue
			}
			if _, holds := sub.Annotations[holdsOthers]; !holds {
				b.WriteString(explained(sub))
			}
			walk(sub)
		}
	}
	walk((&program{}).root())
	return b.String() + "\n"
}

func explained(c *cobra.Command) string {
	c.InitDefaultHelpFlag()
	text := "\n### " + c.CommandPath() + "\n\n" + c.Short + ".\n\n```text\n" + c.UseLine() + "\n"
	if c.Long != "" {
		text += "\n" + c.Long + "\n"
	}
	if c.Example != "" {
		text += "\n" + c.Example + "\n"
	}
	var flags strings.Builder
	for line := range strings.Lines(c.LocalNonPersistentFlags().FlagUsages()) {
		if !strings.Contains(line, "--help ") {
			flags.WriteString(line)
		}
	}
	if flags.Len() > 0 {
		text += "\n" + flags.String()
	}
	return text + "```\n"
}

// TestEveryCommandIsExplained holds each command to what its manual page is made of.
func TestEveryCommandIsExplained(t *testing.T) {
	var walk func(c *cobra.Command)
	walk = func(c *cobra.Command) {
		for _, sub := range c.Commands() {
			switch {
			case sub.Short == "" || strings.HasSuffix(sub.Short, ".") || strings.ToUpper(sub.Short[:1]) != sub.Short[:1]:
				t.Errorf("%s: %q: want a sentence without its full stop", sub.CommandPath(), sub.Short)
			case sub.RunE == nil:
				t.Errorf("%s does nothing", sub.CommandPath())
			}
			walk(sub)
		}
	}
	walk((&program{}).root())
}
