package main

// The rows of the table, and how they are run.

import (
	"context"
	"errors"
	"fmt"
	"math/rand/v2"
	"runtime"
	"slices"
	"time"
)

// row is something that is measured for the server and for others, in turn.
type row struct {
	name  string
	sides []side       // the server's is the first
	more  []comparison // beside those of the rates
	once  bool         // instead of in rounds
}

// side is one of the programs of a row, and the figure that the ratio of the
// server's rate to its rate has to reach.
type side struct {
	name string
	goal goal
	run  runner
}

// comparison is a line of the table for another metric than the rate: a comparison
// with the side of that index, or, if that is 0, the value itself.
type comparison struct {
	name   string
	metric metric
	with   int
	goal   goal
}

// measure runs the rows and returns the lines of those that ran, and the
// errors of those that didn't.
func (b *bench) measure(ctx context.Context) (lines []line, failed error) {
	rows := slices.DeleteFunc(b.rows(), func(r row) bool { return !b.run.MatchString(r.name) })
	if len(rows) == 0 {
		return nil, fmt.Errorf("no row's name matches %q", b.run)
	}
	for _, r := range rows {
		progress("%s", r.name)
		samples, err := b.inTurn(ctx, r)
		if ctx.Err() != nil {
			return lines, ctx.Err()
		}
		if err != nil {
			failed = errors.Join(failed, fmt.Errorf("%s: %w", r.name, err))
			continue
		}
		for i, s := range r.sides[1:] {
			lines = append(lines, compare(r.name, perSecond, s.goal, samples[0], s.name, samples[i+1]))
		}
		for _, c := range r.more {
			var theirs []sample
			if c.with > 0 {
				theirs = samples[c.with]
			}
			lines = append(lines, compare(c.name, c.metric, c.goal, samples[0], r.sides[c.with].name, theirs))
		}
	}
	return lines, failed
}

// inTurn warms up all sides of a row and then runs them in turn, round after
// round, so that other load on the machine affects them alike. It returns the
// samples of each side.
func (b *bench) inTurn(ctx context.Context, r row) ([][]sample, error) {
	samples := make([][]sample, len(r.sides))
	first, rounds := -1, b.rounds // round -1 is the warm-up
	if r.once {
		first, rounds = 0, 1
	}
	for round := first; round < rounds; round++ {
		for i, s := range r.sides {
			share := 1.0
			if round < 0 {
				share = 0.1
			}
			measured, err := s.run(ctx, share)
			if err != nil {
				return nil, fmt.Errorf("%s: %w", s.name, err)
			}
			if round >= 0 {
				samples[i] = append(samples[i], measured)
			}
		}
	}
	return samples, nil
}

func (b *bench) rows() []row {
	return slices.Concat(b.writes(), b.reads(), b.live(), []row{b.memory()})
}

func (b *bench) writes() []row {
	work := fmt.Sprintf("missions=%d", b.size.groups[worked].missions)
	logs := fmt.Sprintf("missions=%d", logMissions)
	ours := b.server.target
	return []row{
		{name: "claim + complete, 64 agents", sides: []side{
			{"server", goal{}, b.times(ours, workers, b.size.pairs, b.claimAndComplete)},
			{"pgbench", atLeast(0.6), b.pgbench("claim.sql", workers, b.size.pairs, work)},
			{"river", goal{}, b.river.work(workers*b.size.pairs, workers)},
		}},
		{name: "claim + complete, one agent", sides: []side{
			{"server", goal{}, b.times(ours, 1, b.size.alone, b.claimAndComplete)},
			{"pgbench", atLeast(0.5), b.pgbench("claim.sql", 1, b.size.alone, work)},
		}},
		{name: "create a mission", sides: []side{
			{"server", goal{}, b.until(ours, workers, posting(201, newMission, always("/api/v1/missions")))},
			{"pgbench", atLeast(0.7), b.pgbench("create.sql", workers, 0)},
			{"PocketBase", goal{}, b.until(b.pocketbase.target, workers, posting(200, newMission, always(pocketMissions)))},
		}},
		{name: "log, 1 entry a request", sides: []side{
			{"server", goal{}, b.until(ours, workers, posting(201, logEntries(1), b.logPath))},
			{"pgbench", atLeast(0.5), b.pgbench("log.sql", workers, 0, logs, "entries=1")},
		}},
		{name: "log, 100 entries a request", sides: []side{
			{"server", goal{}, b.until(ours, workers, posting(201, logEntries(100), b.logPath))},
			{"pgbench", atLeast(0.6), b.pgbench("log.sql", workers, 0, logs, "entries=100")},
		}},
	}
}

func (b *bench) reads() []row {
	ours, bare := b.server.target, b.bare.target
	texts, lists := b.size.groups[reading], b.size.groups[beside]
	missionPath := drawn("/api/v1/missions/", b.data.missions)
	readyPath, waitingPath := drawn("/api/v1/specs/", b.data.ready), drawn("/api/v1/specs/", b.data.waiting)
	bareMission := func() string {
		return "/missions/" + group{prefix: plainPrefix}.numberedID(1+rand.IntN(b.size.missions), 0)
	}
	bareSpec := func() string { return "/specs/" + texts.numberedID(1, 1+2*rand.IntN(texts.specs/2)) }
	pocketMission := func() string { return fmt.Sprintf("%s/%015d", pocketMissions, 1+rand.IntN(b.size.missions)) }
	get := func(to target, path func() string) runner { return b.until(to, workers, getting(path)) }
	show := func(ids []string) runner { return b.until(ours, workers, showing(ids)) }
	return []row{
		{name: "GET /missions/{id}", sides: []side{
			{"server", goal{}, get(ours, missionPath)},
			{"bare", atLeast(1.4), get(bare, bareMission)},
			{"PocketBase", goal{}, get(b.pocketbase.target, pocketMission)},
			{"pgbench", goal{}, b.pgbench("select.sql", poolSize, 0, fmt.Sprintf("missions=%d", b.size.missions))},
		}, more: []comparison{{"GET /missions/{id}, p99", p99, 1, atMost(1)}}},
		{name: "GET /specs/{id}, 15 KB", sides: []side{
			{"server", goal{}, get(ours, readyPath)},
			{"bare", atLeast(1.1), get(bare, bareSpec)},
		}},
		{name: "list of 50 missions", sides: []side{
			{"server", goal{}, get(ours, always("/api/v1/missions?status=draft"))},
			{"bare", atLeast(1), get(bare, always("/missions?status=draft"))},
		}},
		{name: "list of 50 specs", sides: []side{
			{"server", goal{}, get(ours, always("/api/v1/specs?status=planned&mission_id="+b.data.list))},
			{"bare", atLeast(1), get(bare, always("/specs?mission_id="+lists.numberedID(1, 0)))},
		}},
		{name: "MCP show_spec, ready", sides: []side{
			{"server", goal{}, show(b.data.ready)},
			{"GET /specs/{id}", atLeast(0.7), get(ours, readyPath)},
		}},
		{name: "MCP show_spec, waiting", sides: []side{
			{"server", goal{}, show(b.data.waiting)},
			{"GET /specs/{id}", atLeast(0.7), get(ours, waitingPath)},
		}},
	}
}

func (b *bench) live() []row {
	mission := b.data.missions[0]
	logs := "/api/v1/missions/" + mission + "/logs"
	ours, theirs := b.server.follow(mission), follower{b.centrifuge.target, centrifugeFrames, `"subscribe":{`}
	fan := func(name string, rounds, events int, reach goal) row {
		publish := posting(201, logEntries(events), always(logs))
		published := posting(200, centrifugeEvent, always(fmt.Sprintf("/publish?n=%d", events)))
		return row{name: name, sides: []side{
			{"server", goal{}, fanOut(b.server.process, ours, b.size.sockets, rounds, events, publish)},
			{"centrifuge", reach, fanOut(b.centrifuge.process, theirs, b.size.sockets, rounds, events, published)},
		}, more: []comparison{{name + ", per delivery", cpu, 1, goal{}}}}
	}
	return []row{
		fan(fmt.Sprintf("1 event to %d WebSockets", b.size.sockets), b.size.singles, 1, atLeast(1)),
		fan(fmt.Sprintf("%d events to %d WebSockets", burst, b.size.sockets), b.size.bursts, burst, goal{}),
		{name: "event seen by another instance", sides: []side{
			{"server", goal{}, crossInstance(b.server, b.second, mission, 30)},
		}, more: []comparison{{"event seen by another instance, p50", p50, 0, atMost(3)}}},
	}
}

// memory starts another instance, lets 64 connections read for a round, and
// opens idle WebSockets.
func (b *bench) memory() row {
	run := func(ctx context.Context, _ float64) (sample, error) {
		s, err := b.startServer(ctx, "memory")
		if err != nil {
			return nil, err
		}
		s.token = b.server.token
		measured, err := b.footprint(ctx, s)
		return measured, errors.Join(err, b.stop(s.process))
	}
	return row{name: "memory", once: true, sides: []side{{"server", goal{}, run}}, more: []comparison{
		{"memory after 64 connections", served, 0, atMost(32)},
		{"memory of an idle WebSocket", idle, 0, atMost(28)},
	}}
}

// footprint measures the memory of an instance that has just started.
func (b *bench) footprint(ctx context.Context, s *server) (sample, error) {
	read := b.until(s.target, workers, getting(drawn("/api/v1/missions/", b.data.missions)))
	if _, err := read(ctx, 1); err != nil {
		return nil, err
	}
	before, err := s.resident()
	if err != nil {
		return nil, err
	}
	a, err := gather(s.follow(b.data.missions[0]), b.size.idle)
	if err != nil {
		return nil, err
	}
	defer a.close()
	time.Sleep(2 * time.Second) // until the memory of the handshakes is free
	after, err := s.resident()
	return sample{served: before / 1024, idle: (after - before) / float64(b.size.idle)}, err
}

// machine returns what the figures were measured on, and how long its disk takes
// for one small commit, on which the ratios for a single agent depend.
func (b *bench) machine(ctx context.Context) (string, error) {
	db, err := b.postgres.connect(ctx, "postgres")
	if err != nil {
		return "", err
	}
	defer db.Close(ctx)
	var version string
	if err := db.QueryRow(ctx, "SHOW server_version").Scan(&version); err != nil {
		return "", err
	}
	var took []time.Duration
	for range 100 {
		start := time.Now() // of the smallest transaction that has to be flushed
		if _, err := db.Exec(ctx, "SELECT pg_logical_emit_message(true, 'bench', '')"); err != nil {
			return "", err
		}
		took = append(took, time.Since(start))
	}
	return fmt.Sprintf("%d cores, %s/%s, %s, PostgreSQL %s, %.2f ms a commit; medians of %d rounds", runtime.NumCPU(),
		runtime.GOOS, runtime.GOARCH, runtime.Version(), version, latencies(took)[p50], b.rounds), nil
}
