package main

// The pages of missions: their list, and the board of each.

import (
	"context"
	"html/template"
	"time"
)

// pageFunctions are what templates call.
func pageFunctions() template.FuncMap {
	return template.FuncMap{
		"key": newID, // of a form
		"ago": func(at time.Time) template.HTML { return relative(at, "ago") },
	}
}

func relative(at time.Time, _ string) template.HTML {
	return template.HTML(at.UTC().Format(time.RFC3339))
}

// missionsPage is GET /.
func (s *Server) missionsPage(ctx context.Context, c *call, q *query) (*pageView, error) {
	missions, err := s.listMissions(ctx, c, q)
	return &pageView{Name: "missions", Title: "Missions", Data: missions}, err
}
