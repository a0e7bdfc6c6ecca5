package sqlstyle_test

import (
	"io/fs"
	"os"
	"regexp"
	"slices"
	"strconv"
	"strings"
	"testing"

	"codeberg.org/dataverket/segl/internal/layers"
	"codeberg.org/dataverket/segl/internal/sqlstyle"
)

func TestMigrationsAreWrittenAsTheyShouldBe(t *testing.T) {
	tree := os.DirFS("../../migrations")
	names, err := fs.Glob(tree, "*.sql")
	if err != nil || len(names) == 0 {
		t.Fatalf("found %v, %v", names, err)
	}
	for i, name := range names {
		sql, err := fs.ReadFile(tree, name)
		if err != nil {
			t.Fatal(err)
		}
		if number, _ := strconv.Atoi(name[:4]); number != i+1 || !regexp.MustCompile(`^\d{4}_[a-z0-9_]+\.sql$`).MatchString(name) {
			t.Errorf("%s: want number %04d, an underscore, a topic", name, i+1)
		}
		text := string(sql)
		if !strings.HasPrefix(text, "-- ") || strings.HasPrefix(text, "-- +goose") {
			t.Errorf("%s: begin with a comment that says why", name)
		}
		if strings.Contains(text, "+goose Down") || strings.Contains(text, "\t") {
			t.Errorf("%s: migrations go forward only, and are indented with spaces", name)
		}
		for _, sentence := range sqlstyle.Check(text) {
			t.Errorf("migrations/%s:%s", name, sentence)
		}
	}
}

func TestStatementsInCodeAreWrittenAsTheyShouldBe(t *testing.T) {
	err := layers.WalkGo(os.DirFS("../.."), func(name string, source []byte) error {
		if strings.HasSuffix(name, "_test.go") {
			return nil
		}
		literals, err := sqlstyle.Literals(name, source)
		for _, literal := range literals {
			for _, sentence := range sqlstyle.Check(literal.SQL) {
				t.Errorf("%s:%d, line %s", name, literal.Line, sentence)
			}
		}
		return err
	})
	if err != nil {
		t.Fatal(err)
	}
}

func TestCheckAcceptsWhatReadsWell(t *testing.T) {
	for _, sql := range []string{
		`SELECT 1`,
		`SELECT serial FROM intent WHERE serial = $1`,
		"\n\tUPDATE issuance\n\tSET    certificate = @der\n\tWHERE  serial = @select AND certificate IS NULL",
		"SELECT i.serial, count(*)\nFROM   intent i\nWHERE  NOT EXISTS (SELECT 1 FROM outcome o WHERE o.serial = i.serial)\nGROUP  BY i.serial",
		"SELECT array_agg(serial ORDER BY serial), extract(epoch FROM at)\nFROM   fact",
		"INSERT INTO t (a)\nVALUES (@a)\nON     CONFLICT ON CONSTRAINT t_pk DO UPDATE SET a = excluded.a",
		"WITH gone AS (\n    DELETE FROM t\n    RETURNING a\n), more AS (\n    INSERT INTO u (a)\n    SELECT a FROM gone\n)\nSELECT a FROM gone",
		"SELECT a.*, b.c\nFROM   unnest($1::bytea[]) AS a (serial), b",
		"SELECT a FROM t WHERE b\nUNION\nSELECT c FROM u",
		"DELETE FROM t\nWHERE  a IS DISTINCT FROM b",
		"CREATE TABLE t (\n    a text NOT NULL, -- from where? and why\n    CONSTRAINT t_pk PRIMARY KEY (a),\n    CONSTRAINT t_a_known CHECK (a IN ('from', 'it''s where'))\n);\nCREATE TABLE u PARTITION OF t FOR VALUES FROM ('a') TO ('b');",
		"ALTER TABLE t ALTER COLUMN a SET STORAGE EXTERNAL;\nALTER TABLE t ADD CONSTRAINT t_b CHECK (b > 0);",
		"CREATE FUNCTION f() RETURNS integer\nLANGUAGE plpgsql AS $$\nBEGIN\n    RETURN 1;\nEND\n$$;",
	} {
		if wrong := sqlstyle.Check(sql); len(wrong) > 0 {
			t.Errorf("%s\n%q", sql, wrong)
		}
	}
}

func TestCheckRefuses(t *testing.T) {
	for _, row := range []struct{ name, sql, want string }{
		{"lower case", "SELECT a from t", "1: from: write FROM"},
		{"mixed case", "SELECT a\nFROM   t\nWHERE  a Is NULL", "3: Is: write IS"},
		{"lower case in a function", "CREATE FUNCTION f() RETURNS integer AS $$\nBEGIN\n    RETURN 1;\nend\n$$;", "4: end: write END"},
		{"two clauses on a line", "SELECT a\nFROM   t WHERE a = 1", "2: WHERE begins a clause: begin a line with it"},
		{"two clauses on a line of a subquery", "SELECT a\nFROM   (\n    SELECT b FROM c\n    WHERE  d\n)", "3: FROM begins a clause: begin a line with it"},
		{"values beside the table", "INSERT INTO t (a) VALUES\n(1)", "1: VALUES begins a clause: begin a line with it"},
		{"a star", "SELECT *\nFROM   t", "1: *: name the columns"},
		{"a table's star", "SELECT t.*\nFROM   t", "1: *: name the columns"},
		{"a star returned", "DELETE FROM t\nRETURNING *", "2: *: name the columns"},
		{"blanks at the end", "SELECT a \nFROM   t", "1: blanks at the end of the line"},
		{"a key without a name", "CREATE TABLE t (\n    a text PRIMARY KEY,\n    CONSTRAINT t_a CHECK (a > '')\n)", "2: PRIMARY: name the constraint"},
		{"a check without a name", "CREATE TABLE t (\n    a text NOT NULL,\n    CHECK (a > '')\n)", "3: CHECK: name the constraint"},
		{"a reference without a name", "CREATE UNLOGGED TABLE t (a text REFERENCES u (a))", "1: REFERENCES: name the constraint"},
		{"a check added without a name", "ALTER TABLE t ADD CHECK (a > '')", "1: CHECK: name the constraint"},
	} {
		t.Run(row.name, func(t *testing.T) {
			if wrong := sqlstyle.Check(row.sql); !slices.Equal(wrong, []string{row.want}) {
				t.Errorf("got %q, want %q", wrong, row.want)
			}
		})
	}
}

func TestCheckEndsOnWhatNeverCloses(t *testing.T) {
	for _, sql := range []string{"", "'", `"`, "--", "/*", "$$", "(", ")", "))((", "@", ";;", "SELECT", "é"} {
		sqlstyle.Check(sql)
	}
}

func TestLiteralsFindsSQLAndNotSentences(t *testing.T) {
	source := "package p\n\nvar a = []string{\"SELECT 1\", `\n\tUPDATE t\n\tSET    a = 1`, \"update refused\", \"selecting\", \"select one of them\", \"with care\", \"DELETE FROM t\"}\n"
	literals, err := sqlstyle.Literals("p.go", []byte(source))
	if err != nil || len(literals) != 3 || literals[1].Line != 3 {
		t.Errorf("got %+v, %v; want three, the second on line 3", literals, err)
	}
	if _, err := sqlstyle.Literals("p.go", []byte("nonsense")); err == nil {
		t.Error("took what is not Go")
	}
}

func FuzzCheck(f *testing.F) {
	f.Add("SELECT a\nFROM   (SELECT b FROM c) -- d\nWHERE  e = 'f'")
	f.Add("CREATE TABLE t (a text, CONSTRAINT t_pk PRIMARY KEY (a)); $$ \" '")
	f.Fuzz(func(_ *testing.T, sql string) { sqlstyle.Check(sql) })
}
