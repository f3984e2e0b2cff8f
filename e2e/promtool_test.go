//go:build !nometrics

package e2e

import (
	"bytes"
	"net/http"
	"os/exec"
	"testing"
)

func TestPromtoolAcceptsTheMetrics(t *testing.T) {
	t.Parallel()
	promtool, err := exec.LookPath("promtool")
	if err != nil {
		t.Skip("promtool, of Debian's package prometheus, isn't there")
	}
	_, root := newServer(t)
	check := exec.CommandContext(t.Context(), promtool, "check", "metrics")
	check.Stdin = bytes.NewReader(root.get("/internal/metrics").want(http.StatusOK).body)
	if said, err := check.CombinedOutput(); err != nil || len(said) > 0 {
		t.Errorf("%v: %s", err, said)
	}
}
