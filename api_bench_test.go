package main

// Benchmarks through the real handler and database. They measure and assert
// nothing: go test -run xxx -bench . (-cpu 64 for as many clients).

import (
	"fmt"
	"net/http"
	"sync/atomic"
	"testing"
)

// requests runs one request after another, in parallel, and reports how many a
// second that makes. n counts them.
func requests(b *testing.B, one func(n int) error) {
	b.Helper()
	var n atomic.Int64
	b.ResetTimer()
	b.RunParallel(func(loop *testing.PB) {
		for loop.Next() {
			if err := one(int(n.Add(1)) - 1); err != nil {
				b.Error(err)
				return
			}
		}
	})
	b.ReportMetric(float64(b.N)/b.Elapsed().Seconds(), "req/s")
}

// ask makes a request that has to succeed.
func (c *client) ask(method, path string, body any) (*answer, error) {
	a, err := c.try(c.t.Context(), method, path, body)
	if err == nil && a.status >= 300 {
		err = fmt.Errorf("%s: %d %s", a.what, a.status, a.body)
	}
	return a, err
}

func BenchmarkLogIn(b *testing.B) {
	for _, c := range []struct {
		name   string
		params argon2Params
	}{{"cheap", cheapArgon2}, {"real", todaysArgon2}} {
		b.Run(c.name, func(b *testing.B) {
			s := newTestServer(b, nil)
			s.hasher = newPasswordHasher(c.params)
			ada := s.signUp("ada", "user")
			body := map[string]any{"email": ada.user.Email, "password": testPassword}
			for b.Loop() { // more at a time than cores would only queue
				s.anonymous().post("/api/v1/auth/login", body).want(http.StatusOK)
			}
			b.ReportMetric(float64(b.N)/b.Elapsed().Seconds(), "req/s")
		})
	}
}

// benchMission is a mission with n specs like real ones.
func benchMission(b *testing.B, n int) (ada *client, mission string) {
	b.Helper()
	ada = newTestServer(b, nil).signUp("ada", "user")
	mission = ada.newMission("Bench")
	ada.importTar(mission, gzipped(tarOf(b, corpusLike(n, 15_000)...)))
	return ada, mission
}

func BenchmarkReadMission(b *testing.B) {
	ada, mission := benchMission(b, 100)
	requests(b, func(int) error {
		_, err := ada.ask("GET", mission, nil)
		return err
	})
}

func BenchmarkReadSpec(b *testing.B) {
	ada, mission := benchMission(b, 100)
	spec := ada.specByKey(mission, "050-spec")
	requests(b, func(int) error {
		_, err := ada.ask("GET", spec, nil)
		return err
	})
}

func BenchmarkListSpecs(b *testing.B) {
	ada, mission := benchMission(b, 750)
	path := "/api/v1/specs?mission_id=" + idOf(mission)
	requests(b, func(int) error {
		_, err := ada.ask("GET", path, nil)
		return err
	})
}

func BenchmarkCreateSpec(b *testing.B) {
	ada, mission := benchMission(b, 1)
	body := corpusLike(1, 15_000)[1]
	requests(b, func(n int) error {
		_, err := ada.ask("POST", mission+"/specs", map[string]any{"key": fmt.Sprintf("spec-%d", n), "title": "A spec", "body": body})
		return err
	})
}

func BenchmarkClaimAndComplete(b *testing.B) {
	ada, mission := benchMission(b, 1)
	for at := 0; at < b.N; at += 10_000 {
		var files []string
		for i := at; i < min(b.N, at+10_000); i++ {
			files = append(files, fmt.Sprintf("ready-%d.md", i), "# Ready\n")
		}
		ada.importTar(mission, tarOf(b, files...))
	}
	ada.post(mission+"/start", nil).want(http.StatusOK)
	requests(b, func(int) error {
		claimed, err := ada.ask("POST", mission+"/claim", map[string]any{"agent": "bench"})
		if err != nil {
			return err
		}
		_, err = ada.ask("POST", "/api/v1/specs/"+claimed.text("spec.id")+"/complete",
			map[string]any{"lease_token": claimed.text("lease.token"), "override": "a benchmark"})
		return err
	})
}

func BenchmarkImport(b *testing.B) {
	ada := newTestServer(b, nil).signUp("ada", "user")
	content := gzipped(tarOf(b, corpusLike(20, 15_000)...))
	for b.Loop() {
		ada.importTar(ada.newMission("Import"), content)
	}
	b.ReportMetric(20*float64(b.N)/b.Elapsed().Seconds(), "files/s")
}
