//go:build nows

package main

import "context"

// sockets stands in for the type of the same name in ws.go, and has no connections.
type sockets struct{}

// socketFrame stands in for the type of the same name in ws_send.go.
type socketFrame struct{}

func newSockets() *sockets { return nil }

func (*sockets) closeAll(context.Context) {}

func (*sockets) connections() []connectionView { return []connectionView{} }

func (s *Server) socketRoutes() {}

func (s *Server) publishFigures(context.Context) {}
