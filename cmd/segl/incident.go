package main

import (
	"context"
	"fmt"
	"net/http"
	"net/url"
	"strings"
	"time"

	"github.com/spf13/cobra"

	"codeberg.org/dataverket/segl/ca/api"
	"codeberg.org/dataverket/segl/cmd/segl/client"
	"codeberg.org/dataverket/segl/cmd/segl/output"
	"codeberg.org/dataverket/segl/internal/uid"
)

// incident is `segl incident`.
func (p *program) incident() *cobra.Command {
	return p.connects(group("incident", "Have many certificates renewed or revoked, and see who obeyed (operators)",
		p.incidentCreate(), p.incidentList(), p.incidentShow(), p.incidentCertificates(), p.incidentCancel()))
}

// An order is what `segl incident create` and `segl cert revoke` ask of many certificates.
type order struct {
	choice           choiceFlags
	why, explanation string
	spread, deadline duration
	reason           string
	key              string
	yes              bool
}

func (p *program) incidentCreate() *cobra.Command {
	var o order
	c := p.changes(p.prints(&cobra.Command{
		Use: "create --why REASON [choice] [--spread DURATION] [--deadline DURATION]", Short: "Choose certificates to be renewed, revoked, or both", Args: exactly(),
		Long: `Moves the renewal windows of the chosen certificates (RFC 9773) so that they are renewed
over --spread from now on, and after --deadline revokes those that have no successor by
then. Chosen is what was issued until now and matches every flag of the choice; what is
issued later is not touched. At a terminal it counts first and asks for the number;
--dry-run counts and does nothing.`,
		Example: "  segl incident create --authority servers-1-1 --why 'its module leaks' --spread 12h --deadline 24h --revoke-for superseded\n" +
			"  segl incident create --scope demo --name .demo.test --why 'names move' --spread 2d --dry-run",
		RunE: func(c *cobra.Command, _ []string) error { return p.createIncident(c.Context(), o) },
	}))
	o.choice.register(c)
	f := c.Flags()
	f.StringVar(&o.why, "why", "", "write down `REASON`")
	f.StringVar(&o.explanation, "explanation", "", "tell holders to read `URL`")
	f.Var(&o.spread, "spread", "have them renewed over `DURATION` from now on")
	f.Var(&o.deadline, "deadline", "revoke after `DURATION` what has no successor")
	f.StringVar(&o.reason, "revoke-for", "", "revoke it for `REASON` (RFC 5280 §5.3.1; default: unspecified)")
	f.StringVar(&o.key, "idempotency-key", "", "make repeating the command return the same incident: any `WORD`")
	f.BoolVarP(&o.yes, "yes", "y", false, "do not ask for confirmation")
	return c
}

func (p *program) createIncident(ctx context.Context, o order) error {
	chosen, err := o.choice.chosen()
	if err != nil {
		return err
	}
	switch {
	case o.why == "":
		return misuse("--why is missing").hinted("it is what the record says")
	case o.spread == 0 && o.deadline == 0:
		return misuse("nothing is to be done").hinted("give --spread, --deadline or both")
	}
	body := map[string]any{"choice": chosen, "why": o.why}
	for member, v := range map[string]string{"explanation": o.explanation, "reason": o.reason, "spread": o.spread.String(), "deadline": o.deadline.String()} {
		if v != "" {
			body[member] = v
		}
	}
	said := "This has certificates renewed"
	switch {
	case o.spread == 0:
		said = "This revokes certificates after " + o.deadline.String() + " unless they are replaced"
	case o.deadline > 0:
		said += " over " + o.spread.String() + ", and revokes after " + o.deadline.String() + " those that are not"
	default:
		said += " over " + o.spread.String()
	}
	return p.pull(ctx, o, pull{said: said, preview: body, path: "/v1/incidents", body: body})
}

// A pull is a request that touches many certificates.
type pull struct {
	said    string // what it does, for the person that is asked
	preview any    // the body that counts
	path    string
	body    any
}

// pull counts and asks where a person is there, and then does it.
func (p *program) pull(ctx context.Context, o order, v pull) error {
	remote, err := p.dial(operator)
	if err != nil {
		return err
	}
	defer remote.Close()
	ctx, cancel := p.within(ctx)
	defer cancel()
	if p.plan || !o.yes && p.interactive() {
		var t api.Tally
		if err := remote.Do(ctx, client.Request{Method: http.MethodPost, Path: "/v1/incidents:preview", Idempotent: true, Body: v.preview}, &t); err != nil {
			return err
		}
		if p.plan {
			return output.One(p.out, p.form, t, tallyView)
		}
		if err := p.confirmed(fmt.Sprintf("%s: %s of them.", v.said, counted(t)), fmt.Sprint(t.Chosen)); err != nil {
			return err
		}
	}
	key := o.key
	if key == "" {
		key = client.NewKey()
	}
	var made api.Incident
	if err := remote.Do(ctx, client.Request{Method: http.MethodPost, Path: v.path, Key: key, Body: v.body}, &made); err != nil {
		return err
	}
	return output.One(p.out, p.form, api.IncidentShown{Incident: made}, incidentView(false))
}

var tallyView = output.View[api.Tally]{
	Name: func(t api.Tally) string { return fmt.Sprint(t.Chosen) },
	Columns: []output.Column[api.Tally]{
		{Head: "CHOSEN", Cell: counted},
		{Head: "WAITING", Cell: func(t api.Tally) string { return fmt.Sprint(t.Waiting) }},
		{Head: "REPLACED", Cell: func(t api.Tally) string { return fmt.Sprint(t.Replaced) }},
		{Head: "REVOKED", Cell: func(t api.Tally) string { return fmt.Sprint(t.Revoked) }},
		{Head: "EXPIRED", Cell: func(t api.Tally) string { return fmt.Sprint(t.Expired) }},
	},
}

// incidentView shows an incident, with what became of what it touches or without.
func incidentView(tallied bool) output.View[api.IncidentShown] { //nolint:revive // said at the call
	type shown = api.IncidentShown
	v := output.View[shown]{
		Name: func(s shown) string { return s.ID },
		Columns: []output.Column[shown]{
			{Head: "ID", Cell: func(s shown) string { return s.ID }},
			{Head: "STATE", Cell: func(s shown) string { return s.State }},
			{Head: "CAUSE", Cell: func(s shown) string { return s.Cause }},
			{Head: "MADE", Cell: func(s shown) string { return stamp(s.At.Time) }},
			{Head: "DEADLINE", Cell: deadlineOf},
			{Head: "CHOICE", Cell: func(s shown) string { return strings.ReplaceAll(saidOf(s.Choice), "\n", ", ") }},
		},
		Details: []output.Column[shown]{
			{Head: "id", Cell: func(s shown) string { return s.ID }},
			{Head: "state", Cell: func(s shown) string { return s.State }},
			{Head: "cause", Cell: func(s shown) string { return s.Cause }},
			{Head: "why", Cell: func(s shown) string { return s.Why }},
			{Head: "explanation", Cell: func(s shown) string { return s.Explanation }},
			{Head: "made", Cell: func(s shown) string { return stamp(s.At.Time) + " by " + s.Actor }},
			{Head: "choice", Cell: func(s shown) string { return saidOf(s.Choice) }},
			{Head: "spread", Cell: spreadOf},
			{Head: "deadline", Cell: deadlineOf},
			{Head: "revokes for", Cell: func(s shown) string { return s.Reason }},
			{Head: "revoked", Cell: func(s shown) string { return fmt.Sprint(s.Revoked) }},
		},
	}
	if tallied {
		for _, c := range tallyView.Columns {
			if c.Head != "REVOKED" {
				v.Details = append(v.Details, output.Column[shown]{Head: strings.ToLower(c.Head), Cell: func(s shown) string { return c.Cell(s.Tally) }})
			}
		}
	}
	return v
}

func spreadOf(s api.IncidentShown) string {
	if s.Spread == nil {
		return ""
	}
	return time.Duration(*s.Spread).String()
}

func deadlineOf(s api.IncidentShown) string {
	if s.Deadline == nil {
		return ""
	}
	return stamp(s.Deadline.Time)
}

func (p *program) incidentList() *cobra.Command {
	var limit int
	c := p.prints(&cobra.Command{
		Use: "list", Short: "List incidents, the newest first", Args: exactly(),
		RunE: func(c *cobra.Command, _ []string) error {
			remote, err := p.dial(operator)
			if err != nil {
				return err
			}
			defer remote.Close()
			seq := func(yield func(api.IncidentShown, error) bool) {
				for i, err := range client.List[api.Incident](c.Context(), remote, client.Listing{Path: "/v1/incidents", Member: "incidents", Limit: limit}) {
					if !yield(api.IncidentShown{Incident: i}, err) {
						return
					}
				}
			}
			return output.List(p.out, p.form, seq, incidentView(false))
		},
	})
	c.Flags().IntVar(&limit, "limit", 0, "list `NUMBER` at most (default: all)")
	return c
}

// incidentID reads an incident's identifier.
func incidentID(s string) (string, error) {
	id, err := uid.Parse(strings.ToLower(s))
	if err != nil || id.Kind() != uid.Incident {
		return "", failing(exitNotFound, "%.80q is no incident", s).hinted("an incident is 36 hex digits, the first two 50; segl incident list shows them")
	}
	return id.String(), nil
}

func (p *program) incidentShow() *cobra.Command {
	return p.prints(&cobra.Command{
		Use: "show ID", Short: "Show an incident, how far it is, and how many obeyed", Args: exactly("ID"),
		RunE: func(c *cobra.Command, args []string) error {
			return p.oneIncident(c.Context(), args[0], http.MethodGet, "", true)
		},
	})
}

func (p *program) incidentCancel() *cobra.Command {
	return p.changes(p.prints(&cobra.Command{
		Use: "cancel ID", Short: "End an incident that does not revoke yet", Args: exactly("ID"),
		Long: "Puts the renewal windows back to where they were. What revokes already is not stopped.",
		RunE: func(c *cobra.Command, args []string) error {
			if p.plan {
				return p.show(plan{Do: "cancel incident", Subject: args[0]})
			}
			return p.oneIncident(c.Context(), args[0], http.MethodPost, ":cancel", false)
		},
	}))
}

func (p *program) oneIncident(ctx context.Context, arg, method, verb string, tallied bool) error {
	id, err := incidentID(arg)
	if err != nil {
		return err
	}
	var out api.IncidentShown
	if err := p.asked(ctx, client.Request{Method: method, Path: "/v1/incidents/" + id + verb}, &out); err != nil {
		return err
	}
	return output.One(p.out, p.form, out, incidentView(tallied))
}

func (p *program) incidentCertificates() *cobra.Command {
	var fate string
	var limit int
	c := p.prints(&cobra.Command{
		Use: "certificates ID", Short: "List what an incident touches, and who obeyed", Args: exactly("ID"),
		RunE: func(c *cobra.Command, args []string) error {
			id, err := incidentID(args[0])
			if err != nil {
				return err
			}
			remote, err := p.dial(operator)
			if err != nil {
				return err
			}
			defer remote.Close()
			l := client.Listing{Path: "/v1/incidents/" + id + "/certificates", Member: "certificates", Limit: limit}
			if fate != "" {
				l.Query = url.Values{"fate": {fate}}
			}
			return output.List(p.out, p.form, client.List[api.Member](c.Context(), remote, l), memberView)
		},
	})
	c.Flags().StringVar(&fate, "fate", "", "only those of `FATE`: waiting, replaced, revoked or expired")
	choices(c, "fate", "waiting", "replaced", "revoked", "expired")
	c.Flags().IntVar(&limit, "limit", 0, "list `NUMBER` at most (default: all)")
	return c
}

var memberView = output.View[api.Member]{
	Name: func(m api.Member) string { return m.Serial },
	Columns: []output.Column[api.Member]{
		{Head: "SERIAL", Cell: func(m api.Member) string { return m.Serial }},
		{Head: "FATE", Cell: func(m api.Member) string { return m.Fate }},
		{Head: "SCOPE", Cell: func(m api.Member) string { return m.Scope }},
		{Head: "PROFILE", Cell: func(m api.Member) string { return m.Profile }},
		{Head: "EXPIRES", Cell: func(m api.Member) string { return stamp(m.NotAfter.Time) }},
		{Head: "REPLACED BY", Cell: func(m api.Member) string { return m.ReplacedBy }},
	},
}
