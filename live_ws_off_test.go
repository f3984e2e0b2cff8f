//go:build nows

package main

import "context"

var followBySocket func(context.Context, *witness) error
