//go:build nometrics

package main

import (
	"net/http"
	"time"
)

// counters stands in for the type of the same name in metrics.go, and counts nothing.
type counters struct{}

func newCounters() *counters { return nil }

func (*counters) requestStarted() {}

func (*counters) requestDone(_, _ string, _ int, _ time.Duration) {}

func (*counters) rateLimited() {}

func (*counters) streamOpened() {}

func (*counters) streamClosed() {}

func (*counters) eventsDelivered(int) {}

func (*counters) socketOpened() {}

func (*counters) socketClosed() {}

func (*counters) slowClosed() {}

func (*counters) claimGranted() {}

func (*counters) leaseExpired(int) {}

func (*counters) deliveryLag(time.Duration) {}

func (s *Server) operatorRoutes(*http.ServeMux, permission) {}
