package pending

import "testing"

func TestCancelReachesTheCallsOfItsNameWhileTheyRun(t *testing.T) {
	t.Parallel()
	var calls Calls
	isCancelled := func(cancelled <-chan struct{}) bool {
		select {
		case <-cancelled:
			return true
		default:
			return false
		}
	}
	if calls.Cancel("a") {
		t.Error("a call was found before there was one")
	}
	one, endOne := calls.Begin("a")
	two, endTwo := calls.Begin("a")
	other, endOther := calls.Begin("b")
	ended, end := calls.Begin("a")
	end()
	if !calls.Cancel("a") || !isCancelled(one) || !isCancelled(two) || isCancelled(other) || isCancelled(ended) {
		t.Error("not exactly the two that run were cancelled")
	}
	later, endLater := calls.Begin("a")
	endOne()
	endTwo()
	if isCancelled(later) || !calls.Cancel("a") || !isCancelled(later) {
		t.Error("a later call of the name isn't one of its own")
	}
	endLater()
	endOther()
	if calls.Cancel("a") || calls.Cancel("b") || len(calls.running) != 0 {
		t.Errorf("what has ended is kept: %v", calls.running)
	}
}
