package web

import (
	"container/list"
	"crypto/tls"
	"net"
	"net/http"
	"sync"
)

// connections bounds how many connections a server has. Where there is no room for one more, that which has been idle
// longest is closed; where none is idle, the new one. So ten thousand clients that connect and stay silent cost each
// other their place and nobody else.
type connections struct {
	most int

	mu      sync.Mutex
	all     map[net.Conn]*list.Element // its place in idle, nil while a request is under way
	idle    *list.List                 // of net.Conn, the longest idle in front
	evicted uint64
}

func newConnections(most int) *connections {
	return &connections{most: most, all: make(map[net.Conn]*list.Element), idle: list.New()}
}

// state is an http.Server's ConnState.
func (s *connections) state(conn net.Conn, state http.ConnState) {
	s.mu.Lock()
	var out net.Conn
	switch state {
	case http.StateNew: // no request yet: as good as idle
		if len(s.all) >= s.most {
			out = s.makeRoomLocked(conn)
		}
		if out != conn {
			s.all[conn] = s.idle.PushBack(conn)
		}
	case http.StateActive:
		if e, ok := s.all[conn]; ok && e != nil {
			s.idle.Remove(e)
			s.all[conn] = nil
		}
	case http.StateIdle:
		if e, ok := s.all[conn]; ok && e == nil {
			s.all[conn] = s.idle.PushBack(conn)
		}
	case http.StateClosed, http.StateHijacked:
		s.forgetLocked(conn)
	}
	s.mu.Unlock()
	if out != nil {
		abort(out)
	}
}

// makeRoomLocked returns the connection to close: one that idled and is forgotten now, or newcomer.
func (s *connections) makeRoomLocked(newcomer net.Conn) net.Conn {
	s.evicted++
	front := s.idle.Front()
	if front == nil {
		return newcomer
	}
	out, ok := front.Value.(net.Conn)
	if !ok {
		panic("web: internal error: the idle list holds something that is no connection")
	}
	s.forgetLocked(out)
	return out
}

func (s *connections) forgetLocked(conn net.Conn) {
	if e := s.all[conn]; e != nil {
		s.idle.Remove(e)
	}
	delete(s.all, conn)
}

func (s *connections) count() (open, idle int, evicted uint64) {
	s.mu.Lock()
	defer s.mu.Unlock()
	return len(s.all), s.idle.Len(), s.evicted
}

// abort closes a connection without a word, which could block: tls.Conn says goodbye under a deadline of seconds.
func abort(conn net.Conn) {
	if t, ok := conn.(*tls.Conn); ok {
		conn = t.NetConn()
	}
	_ = conn.Close()
}
