// What the tests build into the program beside its own files: on a machine that is busy
// with them the database can be silent for longer than a server would wait.

package main

import "time"

func init() {
	defaultTimeouts = timeouts{acquireTimeout: time.Minute, pollTimeout: time.Minute, lockTimeout: time.Minute}
}
