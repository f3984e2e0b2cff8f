//go:build nometrics

package main

import (
	"net/http"
	"time"
)

// metrics stands in for the counters, of which there are none.
type metrics struct{}

func newMetrics() *metrics { return nil }

func (*metrics) requestStarted() {}

func (*metrics) requestDone(_, _ string, _ int, _ time.Duration) {}

func (*metrics) rateLimited() {}

func (*metrics) streamOpened() {}

func (*metrics) streamClosed() {}

func (*metrics) eventsDelivered(int) {}

func (*metrics) socketOpened() {}

func (*metrics) socketClosed() {}

func (*metrics) slowClosed() {}

func (*metrics) claimGranted() {}

func (*metrics) leaseExpired(int) {}

func (*metrics) deliveryLag(time.Duration) {}

func (s *Server) operatorRoutes(*http.ServeMux, permission) {}
