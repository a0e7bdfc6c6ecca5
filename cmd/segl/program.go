package main

import (
	"context"
	"errors"
	"fmt"
	"io"
	"strings"
	"time"

	"github.com/spf13/cobra"

	"codeberg.org/dataverket/segl/cmd/segl/output"
)

// A program is one run of segl: what it reads, where it writes, and its clock.
type program struct {
	in       io.Reader
	out, err io.Writer
	env      func(string) string
	now      func() time.Time

	remote remote      // whom to talk to, and as whom
	form   output.Form // of the answer
	plan   bool        // --dry-run: say what would be done
}

// run runs one command line and returns the exit code.
func (p *program) run(ctx context.Context, args []string) int {
	p.form = output.Table
	if err := p.setClock(); err != nil {
		return p.fail(err)
	}
	root := p.root()
	root.SetArgs(args)
	root.SetIn(p.in)
	root.SetOut(p.out)
	root.SetErr(p.err)
	err := root.ExecuteContext(ctx)
	if err == nil {
		return exitDone
	}
	return p.fail(err)
}

// setClock lets the clock follow that of a `segl dev --clock-offset`, which writes the variable into dev.env.
func (p *program) setClock() error {
	s := p.env("SEGL_CLOCK_OFFSET")
	if s == "" {
		return nil
	}
	offset, err := time.ParseDuration(s)
	if err != nil {
		return misuse("SEGL_CLOCK_OFFSET %q: want a duration such as 48h or -1h30m", s).hinted("it is for tests alone: unset it")
	}
	now := p.now
	p.now = func() time.Time { return now().Add(offset) }
	return nil
}

func (p *program) root() *cobra.Command {
	root := group("segl", "The daily certificate authority, and what operates it", p.dev(), p.serve(), p.validator(), p.migrate(), p.checkConfig(), p.doctor(),
		p.login(), p.logout(), p.enroll(), p.agentCommand(), p.cert(), p.tenant(), p.project(), p.environment(), p.access(), p.explain(), p.approval(), p.authority(), p.incident(), p.operator(), p.acme(), p.limit(), p.profile(), p.target(), p.binding(), p.lease(), p.db(), p.ledger(), p.why(), p.verify(), p.checkTrust(), p.version(), p.completion(), p.man())
	root.Long = `segl runs a certificate authority (dev, serve) and operates one (all other commands).

Commands that talk to a server read where it is and who you are from flags or from the
environment: after ". DIR/dev.env", with its variables exported, none is needed.`
	root.SilenceErrors, root.SilenceUsage = true, true
	root.CompletionOptions.DisableDefaultCmd = true
	root.SetHelpCommand(&cobra.Command{Use: "help [COMMAND]", Short: "Explain a command", Hidden: true, DisableFlagsInUseLine: true, RunE: func(c *cobra.Command, args []string) error {
		found, rest, err := c.Root().Find(args)
		if err != nil || len(rest) > 0 {
			return misuse("there is no command %q", "segl "+strings.Join(args, " "))
		}
		found.InitDefaultHelpFlag()
		return found.Help()
	}})
	root.SetFlagErrorFunc(func(c *cobra.Command, err error) error {
		return misuse("%s", lower(err.Error())).hinted("see %s --help", c.CommandPath())
	})
	root.SetUsageTemplate(usage)
	return root
}

// usage is the form of --help: what a command takes, first its own flags, then those about the server.
const usage = `Usage:
  {{.UseLine}}{{if .HasExample}}

Examples:
{{.Example}}{{end}}{{if .HasAvailableSubCommands}}

Commands:{{range .Commands}}{{if .IsAvailableCommand}}
  {{rpad .Name .NamePadding}} {{.Short}}{{end}}{{end}}{{end}}{{if .HasAvailableLocalFlags}}

Flags:
{{.LocalFlags.FlagUsages | trimTrailingWhitespaces}}{{end}}{{if .HasAvailableInheritedFlags}}

Server and identity:
{{.InheritedFlags.FlagUsages | trimTrailingWhitespaces}}{{end}}
`

// holdsOthers marks a command that does nothing by itself.
const holdsOthers = "holds others"

// group returns a command that only holds others.
func group(use, short string, commands ...*cobra.Command) *cobra.Command {
	g := &cobra.Command{Use: use + " COMMAND", Short: short, Args: cobra.ArbitraryArgs, SuggestionsMinimumDistance: 2, Annotations: map[string]string{holdsOthers: ""}}
	for _, c := range commands {
		c.DisableFlagsInUseLine = true
		g.AddCommand(c)
	}
	g.DisableFlagsInUseLine = true
	g.RunE = func(c *cobra.Command, args []string) error {
		var names []string
		for _, sub := range c.Commands() {
			if sub.IsAvailableCommand() {
				names = append(names, sub.Name())
			}
		}
		hint := "choose one of " + strings.Join(names, ", ")
		if len(args) == 0 {
			return misuse("%s needs a command", c.CommandPath()).hinted("%s", hint)
		}
		if near := c.SuggestionsFor(args[0]); len(near) > 0 {
			hint = "did you mean " + strings.Join(near, " or ") + "?"
		}
		return misuse("%s has no command %q", c.CommandPath(), args[0]).hinted("%s", hint)
	}
	return g
}

// exactly refuses another number of arguments than the named ones.
func exactly(names ...string) cobra.PositionalArgs {
	return func(c *cobra.Command, args []string) error {
		switch {
		case len(args) < len(names):
			return misuse("%s is missing", names[len(args)]).hinted("use: %s", c.UseLine())
		case len(args) > len(names):
			return misuse("unexpected argument %q", args[len(names)]).hinted("use: %s", c.UseLine())
		}
		return nil
	}
}

// atLeast refuses no argument at all.
func atLeast(name string) cobra.PositionalArgs {
	return func(c *cobra.Command, args []string) error {
		if len(args) == 0 {
			return misuse("%s is missing", name).hinted("use: %s", c.UseLine())
		}
		return nil
	}
}

// prints gives c the flags of a command that prints an answer.
func (p *program) prints(c *cobra.Command) *cobra.Command {
	c.Flags().VarP(&p.form, "output", "o", "print the answer as `FORM`: "+strings.Join(output.Forms, ", "))
	choices(c, "output", output.Forms...)
	c.Flags().Bool("json", false, "the same as -o json")
	before := c.PreRunE
	c.PreRunE = func(c *cobra.Command, args []string) error {
		if asked, err := c.Flags().GetBool("json"); err == nil && asked {
			if c.Flags().Changed("output") && p.form != output.JSON {
				return misuse("--json and -o %s ask for two forms", p.form).hinted("leave one out")
			}
			p.form = output.JSON
		}
		if before == nil {
			return nil
		}
		return before(c, args)
	}
	return c
}

// changes gives c the flag of a command that changes something.
func (p *program) changes(c *cobra.Command) *cobra.Command {
	c.Flags().BoolVar(&p.plan, "dry-run", false, "say what would be done, and do nothing")
	return c
}

// choices has the shell complete a flag with the values it takes.
func choices(c *cobra.Command, flag string, values ...string) {
	if err := c.RegisterFlagCompletionFunc(flag, cobra.FixedCompletions(values, cobra.ShellCompDirectiveNoFileComp)); err != nil {
		panic("segl: internal error: " + err.Error())
	}
}

// note tells people something that is not the answer.
func (p *program) note(format string, args ...any) {
	fmt.Fprintf(p.err, "segl: "+format+"\n", args...) //nolint:errcheck // there is nowhere else to say it
}

// fail tells people what went wrong and returns the exit code.
func (p *program) fail(err error) int {
	code, hint := explain(err)
	if errors.Is(err, context.Canceled) {
		p.note("error: interrupted")
		return code
	}
	p.note("error: %s", lower(oneLine(err.Error())))
	if hint != "" {
		p.note("hint: %s", oneLine(hint))
	}
	return code
}

// oneLine keeps a message on its line, whatever a server put into it.
func oneLine(s string) string {
	return strings.TrimRight(strings.Map(func(r rune) rune {
		if r < ' ' || r == 0x7f {
			return ' '
		}
		return r
	}, s), ". ")
}

// text registers a flag that an environment variable may set too: the flag wins.
func text(f interface {
	StringVar(into *string, name, value, usage string)
}, into *string, name, variable, usage string,
) {
	f.StringVar(into, name, "", usage+" [$"+variable+"]")
}
