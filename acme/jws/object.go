package jws

import (
	"bytes"
	"encoding/json"
	"unicode/utf8"
)

// maxDepth bounds nesting in what strangers send; ACME's deepest request has three levels.
const maxDepth = 16

// Decode reads the payload of a verified Message into v, a pointer to a struct. The payload must be one JSON object with
// no member twice at any depth; members v does not know are ignored (RFC 8555 §7.1: fields of later extensions).
func Decode(payload []byte, v any) error {
	if err := unique(payload, 0); err != nil {
		return err
	}
	if err := json.Unmarshal(payload, v); err != nil {
		return malformed("payload does not fit the resource: %.120s", err)
	}
	return nil
}

// unique refuses an object that has a member twice, at any depth.
func unique(b []byte, depth int) error {
	if depth > maxDepth {
		return malformed("nested deeper than %d", maxDepth)
	}
	_, err := members(b, func(_ string, value []byte) error {
		return uniqueValue(value, depth+1)
	})
	return err
}

func uniqueValue(v []byte, depth int) error {
	switch v[0] {
	case '{':
		return unique(v, depth)
	case '[':
		if depth > maxDepth {
			return malformed("nested deeper than %d", maxDepth)
		}
		for rest := space(v[1:]); rest[0] != ']'; {
			end := skip(rest)
			if err := uniqueValue(rest[:end], depth+1); err != nil {
				return err
			}
			rest = space(bytes.TrimPrefix(space(rest[end:]), []byte(",")))
		}
	}
	return nil
}

// members calls visit for each member of the one JSON object in b and returns the names it saw. Two members of one name
// are refused: readers differ in which of them they take (RFC 8259 §4), and so would ours and the signer's.
func members(b []byte, visit func(name string, value []byte) error) (map[string]bool, error) {
	b = bytes.TrimRight(space(b), " \t\r\n")
	if !json.Valid(b) || b[0] != '{' || !utf8.Valid(b) {
		return nil, malformed("not one JSON object in UTF-8 (RFC 8259 §8.1)")
	}
	seen := make(map[string]bool, 4)
	for rest := space(b[1:]); rest[0] != '}'; { // from here on b is known to be well formed
		end := skip(rest)
		name, ok := text(rest[:end])
		if !ok {
			return nil, malformed("a member's name is not a string")
		}
		if seen[name] {
			return nil, malformed("member %.40q is there twice", name)
		}
		seen[name] = true
		rest = space(space(rest[end:])[1:]) // past the colon
		end = skip(rest)
		if err := visit(name, rest[:end]); err != nil {
			return nil, err
		}
		rest = space(bytes.TrimPrefix(space(rest[end:]), []byte(",")))
	}
	return seen, nil
}

// text reads a JSON string out of an object known to be well formed and UTF-8: one without escapes stands for itself.
func text(b []byte) (string, bool) {
	if b[0] != '"' {
		return "", false
	}
	if bytes.IndexByte(b, '\\') < 0 {
		return string(b[1 : len(b)-1]), true
	}
	var s string
	err := json.Unmarshal(b, &s)
	return s, err == nil
}

// skip returns the length of the JSON value that b, which is well formed, begins with.
func skip(b []byte) int {
	if b[0] == '"' {
		return skipString(b)
	}
	depth := 0
	for i := 0; i < len(b); i++ {
		switch b[i] {
		case '"':
			i += skipString(b[i:]) - 1
		case '{', '[':
			depth++
		case '}', ']':
			if depth == 0 { // the end of what holds us: a number or word ended before it
				return i
			}
			if depth--; depth == 0 {
				return i + 1
			}
		case ',', ' ', '\t', '\r', '\n':
			if depth == 0 {
				return i
			}
		}
	}
	return len(b)
}

func skipString(b []byte) int {
	for i := 1; i < len(b); i++ {
		switch b[i] {
		case '\\':
			i++
		case '"':
			return i + 1
		}
	}
	return len(b)
}

func space(b []byte) []byte { return bytes.TrimLeft(b, " \t\r\n") }
