package main

import (
	"context"
	_ "embed"
	"fmt"
	"strconv"
	"strings"

	"github.com/jackc/pgx/v5"
)

//go:embed testdata/fill.sql
var fillSQL string

// filling is how much there is in a database that testdata/fill.sql fills.
type filling struct {
	specs  int // in each of its two large missions
	beside int // of everything beside these
}

// fill fills a migrated database for an account, and has PostgreSQL look at it.
func (f filling) fill(ctx context.Context, databaseURL, owner string) error {
	conn, err := pgx.Connect(ctx, databaseURL)
	if err != nil {
		return err
	}
	defer conn.Close(ctx)
	variables := strings.NewReplacer(
		":'owner'", "'"+owner+"'", ":specs", strconv.Itoa(f.specs), ":beside", strconv.Itoa(f.beside))
	sql := variables.Replace(fillSQL)
	if _, err := conn.Exec(ctx, sql); err != nil {
		return fmt.Errorf("filling a database: %w", err)
	}
	if _, err := conn.Exec(ctx, "VACUUM ANALYZE"); err != nil {
		return fmt.Errorf("analyzing a database: %w", err)
	}
	return nil
}
