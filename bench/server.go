package main

// The server that is measured: built, started, and filled through its API.

import (
	"archive/tar"
	"bytes"
	"context"
	"encoding/json"
	"fmt"
	"os"
	"os/exec"
	"path/filepath"
	"strings"
	"sync/atomic"
)

// server is a running instance, and the token of an account on it.
type server struct {
	*process
	target
}

// data is what fillServer has stored: ids to draw from.
type data struct {
	missions []string // without specs
	worked   []string // missions with ready specs
	list     string   // a mission whose specs are listed
	ready    []string // specs of 15 KB
	waiting  []string
}

// buildServer builds the server's sources in the folder above this module.
func (b *bench) buildServer(ctx context.Context) error {
	build := exec.CommandContext(ctx, "go", "build", "-o", filepath.Join(b.dir, "tachikoma"), ".")
	build.Dir = ".."
	ownGroup(build)
	if out, err := build.CombinedOutput(); err != nil {
		return fmt.Errorf("building the server (run this with: go run -C bench .): %w: %s", err, out)
	}
	return nil
}

// startServer starts an instance without rate limits, and otherwise with its
// defaults: neither the environment nor a file .env changes it.
func (b *bench) startServer(ctx context.Context, name string) (*server, error) {
	address, err := freeAddress()
	if err != nil {
		return nil, err
	}
	cmd := exec.Command(filepath.Join(b.dir, "tachikoma"))
	cmd.Dir = b.dir
	cmd.Env = []string{"PATH=" + os.Getenv("PATH"), "PORT=" + address[strings.LastIndex(address, ":")+1:],
		"DATABASE_URL=" + b.postgres.url("tachikoma"), "RATE_LIMIT=0", "AUTH_RATE_LIMIT=0",
		"ACCESS_TOKEN_TTL=12h", "REGISTRATION=open", "WS_MAX_PER_ACCOUNT=10000", "WS_PING=1h"}
	p, err := b.start(name, cmd)
	if err != nil {
		return nil, err
	}
	s := &server{process: p, target: target{base: "http://" + address}}
	return s, p.ready(ctx, func() error {
		return s.use(func(c *client) error {
			_, err := c.get("/internal/health/ready")
			return err
		})
	})
}

// use calls do with a connection of its own.
func (s *server) use(do func(*client) error) error {
	c, err := dial(s.base, s.token)
	if err != nil {
		return err
	}
	defer c.close()
	return do(c)
}

// register makes the first account, which becomes admin, and stores its token.
func (s *server) register() error {
	const ada = `{"email": "ada@example.com", "password": "tidal ferns sing at noon"}`
	return s.use(func(c *client) error {
		body, err := c.post(201, "/api/v1/auth/register", ada)
		s.token = between(body, `"access_token":"`)
		return err
	})
}

// The body of a new mission, for the server and, with the same fields, PocketBase.
const newMission = `{"name": "Load", "description": "A mission of the load test.", "tags": ["a", "b"], ` +
	`"metadata": {"team": "perf"}}`

// fillServer stores what size says, all of it through the API.
func (b *bench) fillServer(ctx context.Context) error {
	ids := make([]string, b.size.missions)
	var next atomic.Int64
	more := func(int) bool { return next.Load() < int64(len(ids)) }
	_, err := load(ctx, b.server.target, workers, more, func(w worker) error {
		i := next.Add(1) - 1
		if i >= int64(len(ids)) {
			return nil // another worker was faster
		}
		body, err := w.post(201, "/api/v1/missions", newMission)
		ids[i] = between(body, `"id":"`)
		return err
	})
	if err != nil {
		return err
	}
	b.data.missions = ids
	for i, g := range b.size.groups {
		missions, err := b.fillGroup(ctx, g)
		if err != nil {
			return err
		}
		switch i {
		case worked:
			b.data.worked = missions
		case reading:
			err = b.readingSpecs(missions[0])
		case beside:
			b.data.list = missions[0]
		}
		if err != nil {
			return err
		}
	}
	return nil
}

// fillGroup makes the missions of a group, imports their specs, starts them,
// and returns their ids.
func (b *bench) fillGroup(ctx context.Context, g group) ([]string, error) {
	files, err := archive(g.all())
	if err != nil {
		return nil, err
	}
	var missions []string
	err = b.server.use(func(c *client) error {
		for range g.missions {
			if err := ctx.Err(); err != nil {
				return err
			}
			body, err := c.post(201, "/api/v1/missions", newMission)
			if err != nil {
				return err
			}
			id := between(body, `"id":"`)
			path := "/api/v1/missions/" + id
			if _, err := c.call(200, "POST", path+"/import", "application/x-tar", files); err != nil {
				return err
			}
			if _, err := c.post(200, path+"/start", "{}"); err != nil {
				return err
			}
			missions = append(missions, id)
		}
		return nil
	})
	return missions, err
}

// archive is a tar of spec files.
func archive(specs []spec) (string, error) {
	var out bytes.Buffer
	w := tar.NewWriter(&out)
	for _, s := range specs {
		header := &tar.Header{Name: s.phase + "/" + s.key + ".md", Mode: 0o644, Size: int64(len(s.text))}
		if err := w.WriteHeader(header); err != nil {
			return "", err
		}
		if _, err := w.Write([]byte(s.text)); err != nil {
			return "", err
		}
	}
	err := w.Close() // writes the end
	return out.String(), err
}

// readingSpecs reads which specs of a mission are ready and which wait.
func (b *bench) readingSpecs(mission string) error {
	var page struct {
		Items []struct {
			ID    string
			Ready bool
		}
	}
	err := b.server.use(func(c *client) error {
		body, err := c.get("/api/v1/specs?limit=200&mission_id=" + mission)
		if err != nil {
			return err
		}
		return json.Unmarshal(body, &page)
	})
	for _, s := range page.Items {
		if s.Ready {
			b.data.ready = append(b.data.ready, s.ID)
		} else {
			b.data.waiting = append(b.data.waiting, s.ID)
		}
	}
	return err
}
