//go:build nows

package witness

// BySocket is nil, since there are no WebSockets.
var BySocket Follow
