package main

// The reference PocketBase, as it comes: SQLite inside, its log on. A
// collection of missions is open to everybody, so it checks no credential.

import (
	"strconv"

	"github.com/pocketbase/dbx"
	"github.com/pocketbase/pocketbase"
	"github.com/pocketbase/pocketbase/apis"
	"github.com/pocketbase/pocketbase/core"
	"github.com/pocketbase/pocketbase/tools/types"
)

// pocketMissions is the path of PocketBase's missions.
const pocketMissions = "/api/collections/missions/records"

// servePocketBase serves on an address, with its data in a folder and a number of missions.
func servePocketBase(args []string) error {
	n, err := strconv.Atoi(args[2])
	if err != nil {
		return err
	}
	app := pocketbase.NewWithConfig(pocketbase.Config{DefaultDataDir: args[1]})
	app.OnServe().BindFunc(func(e *core.ServeEvent) error {
		e.InstallerFunc = nil // it would open a browser
		if err := fillPocketBase(e.App, n); err != nil {
			return err
		}
		return e.Next()
	})
	if err := app.Bootstrap(); err != nil {
		return err
	}
	return apis.Serve(app, apis.ServeConfig{HttpAddr: args[0]})
}

// fillPocketBase makes the collection and its records; their ids are the
// numbers from 1, with zeros in front.
func fillPocketBase(app core.App, n int) error {
	missions := core.NewBaseCollection("missions")
	missions.ViewRule, missions.CreateRule = types.Pointer(""), types.Pointer("")
	missions.Fields.Add(
		&core.TextField{Name: "name"}, &core.TextField{Name: "description"}, &core.TextField{Name: "status"},
		&core.JSONField{Name: "tags"}, &core.JSONField{Name: "metadata"},
		&core.AutodateField{Name: "created", OnCreate: true},
		&core.AutodateField{Name: "updated", OnCreate: true, OnUpdate: true})
	if err := app.Save(missions); err != nil {
		return err
	}
	_, err := app.DB().NewQuery(`
		WITH RECURSIVE numbers (i) AS (SELECT 1 UNION ALL SELECT i + 1 FROM numbers WHERE i < {:n})
		INSERT INTO missions (id, name, description, status, tags, metadata, created, updated)
		SELECT printf('%015d', i), 'Load', 'A mission of the load test.', 'draft', '["a", "b"]', '{"team": "perf"}',
		       strftime('%Y-%m-%d %H:%M:%fZ'), strftime('%Y-%m-%d %H:%M:%fZ')
		FROM numbers`).Bind(dbx.Params{"n": n}).Execute()
	return err
}
