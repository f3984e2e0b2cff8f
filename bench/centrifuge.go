package main

// The reference centrifuge: a node as its documentation starts, with the memory
// engine and the JSON protocol by WebSocket.

import (
	"context"
	"io"
	"net/http"
	"strconv"

	"github.com/centrifugal/centrifuge"
)

// channel is the one that is published to.
const channel = "mission"

// centrifugeFrames are what a client sends to follow it.
var centrifugeFrames = []string{`{"id":1,"connect":{}}`, `{"id":2,"subscribe":{"channel":"` + channel + `"}}`}

// centrifugeEvent is an event as the server sends it.
var centrifugeEvent = `{"stream":"01a21842-31db-78fc-9cac-e4eb09d56fc7","seq":1234567,"type":"log",` +
	`"mission_id":"01a21842-31db-78fc-9cac-e4eb09d56fc7","spec_id":null,` +
	`"actor":{"user_id":"01a21842-31db-78fc-9cac-e4eb09d56fc7","agent":null},"at":"2026-11-26T14:29:09.374123Z",` +
	`"data":{"level":"info","message":"` + message + `"}}`

// serveCentrifuge serves on an address: /ws, and POST /publish?n=N, which
// publishes its body N times.
func serveCentrifuge(args []string) error {
	node, err := centrifuge.New(centrifuge.Config{LogLevel: centrifuge.LogLevelError})
	if err != nil {
		return err
	}
	node.OnConnecting(func(context.Context, centrifuge.ConnectEvent) (centrifuge.ConnectReply, error) {
		// No pings, as with the server measured: the clients here wouldn't answer.
		return centrifuge.ConnectReply{Credentials: &centrifuge.Credentials{UserID: "ada"},
			PingPongConfig: &centrifuge.PingPongConfig{PingInterval: -1, PongTimeout: -1}}, nil
	})
	node.OnConnect(func(client *centrifuge.Client) {
		client.OnSubscribe(func(_ centrifuge.SubscribeEvent, done centrifuge.SubscribeCallback) {
			done(centrifuge.SubscribeReply{}, nil)
		})
	})
	if err := node.Run(); err != nil {
		return err
	}
	http.Handle("/ws", centrifuge.NewWebsocketHandler(node, centrifuge.WebsocketConfig{}))
	http.HandleFunc("POST /publish", func(w http.ResponseWriter, r *http.Request) {
		body, err := io.ReadAll(r.Body)
		n, _ := strconv.Atoi(r.URL.Query().Get("n"))
		for range n {
			if err == nil {
				_, err = node.Publish(channel, body)
			}
		}
		if err != nil {
			http.Error(w, err.Error(), http.StatusInternalServerError)
		}
	})
	return http.ListenAndServe(args[0], nil)
}
