package main

import (
	"fmt"
	"os"
	"runtime"
	"runtime/debug"
	"time"

	"github.com/spf13/cobra"
	"github.com/spf13/cobra/doc"

	"codeberg.org/dataverket/segl/cmd/segl/output"
)

// release is the version this program was built as: the module's, or the commit where it was built from a checkout.
func release() string {
	info, ok := debug.ReadBuildInfo()
	if !ok {
		return "unknown"
	}
	if v := info.Main.Version; v != "" && v != "(devel)" {
		return v
	}
	for _, s := range info.Settings {
		if s.Key == "vcs.revision" {
			return s.Value
		}
	}
	return "devel"
}

// agent is what servers' logs call this program (RFC 9110 §10.1.5).
func agent() string { return "segl/" + release() }

// A build says which program this is.
type build struct {
	Version  string `json:"version"`
	Go       string `json:"go"`
	Platform string `json:"platform"`
}

// version is `segl version`.
func (p *program) version() *cobra.Command {
	return p.prints(&cobra.Command{
		Use: "version", Short: "Say which version this is", Args: exactly(),
		RunE: func(*cobra.Command, []string) error {
			b := build{release(), runtime.Version(), runtime.GOOS + "/" + runtime.GOARCH}
			if p.form == output.Table {
				_, err := fmt.Fprintf(p.out, "segl %s (%s, %s)\n", b.Version, b.Go, b.Platform)
				return err
			}
			return output.One(p.out, p.form, b, output.View[build]{
				Name: func(b build) string { return b.Version },
				Columns: []output.Column[build]{
					{Head: "VERSION", Cell: func(b build) string { return b.Version }},
					{Head: "GO", Cell: func(b build) string { return b.Go }},
					{Head: "PLATFORM", Cell: func(b build) string { return b.Platform }},
				},
			})
		},
	})
}

// shells are those that completion is written for.
var shells = []string{"bash", "zsh", "fish", "powershell"}

// completion is `segl completion`.
func (p *program) completion() *cobra.Command {
	return &cobra.Command{
		Use: "completion {bash|zsh|fish|powershell}", Short: "Print the completion script of a shell", Args: exactly("SHELL"),
		Example: "  segl completion bash >/etc/bash_completion.d/segl\n" +
			"  segl completion zsh >\"${fpath[1]}/_segl\"\n" +
			"  segl completion fish >~/.config/fish/completions/segl.fish",
		ValidArgs: shells,
		RunE: func(c *cobra.Command, args []string) error {
			switch args[0] {
			case "bash":
				return c.Root().GenBashCompletionV2(p.out, true)
			case "zsh":
				return c.Root().GenZshCompletion(p.out)
			case "fish":
				return c.Root().GenFishCompletion(p.out, true)
			case "powershell":
				return c.Root().GenPowerShellCompletionWithDesc(p.out)
			}
			return misuse("there is no completion for %q", args[0]).hinted("choose one of %v", shells)
		},
	}
}

// man is `segl man`.
func (p *program) man() *cobra.Command {
	return &cobra.Command{
		Use: "man DIR", Short: "Write the manual pages into a directory", Args: exactly("DIR"),
		RunE: func(c *cobra.Command, args []string) error {
			if err := os.MkdirAll(args[0], 0o755); err != nil { //nolint:gosec // manual pages are for everybody
				return fmt.Errorf("making the directory: %w", err)
			}
			root := c.Root()
			root.DisableAutoGenTag = true
			epoch := time.Unix(0, 0).UTC() // the same program writes the same pages
			header := &doc.GenManHeader{Title: "SEGL", Section: "1", Source: "segl " + release(), Manual: "Segl", Date: &epoch}
			if err := doc.GenManTree(root, header, args[0]); err != nil {
				return fmt.Errorf("writing manual pages: %w", err)
			}
			return nil
		},
	}
}
