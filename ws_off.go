//go:build nows

package main

import "context"

// sockets stands in for the WebSocket connections, of which there are none.
type sockets struct{}

// socketFrame stands in for what a WebSocket sends.
type socketFrame struct{}

func newSockets() *sockets { return nil }

func (*sockets) closeAll(context.Context) {}

func (*sockets) connections() []connectionView { return []connectionView{} }

func (s *Server) socketRoutes() {}

func (s *Server) publishFigures(context.Context) {}
