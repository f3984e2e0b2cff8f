// Package clientaddr tells which address a client has, and whether it uses TLS, by
// the two headers that a trusted proxy may set: X-Forwarded-For and
// X-Forwarded-Proto.
package clientaddr

import (
	"net/http"
	"net/netip"
	"slices"
	"strings"
)

// Of returns the address that a request counts against and that the access log
// shows: the peer's, unless that is one of trusted. Then it is the rightmost hop of
// X-Forwarded-For that isn't trusted, since everything to the left of it is only
// what the client claims. If all are trusted, it is the leftmost; an element that
// isn't an address ends the search at the proxy that wrote it.
//
// The address is never an IPv4 one in IPv6 form and has no zone. It is invalid
// if the peer has none, as on a Unix socket; such a peer isn't trusted.
func Of(r *http.Request, trusted []netip.Prefix) netip.Addr {
	addr := parseHop(r.RemoteAddr)
	// Lines of one header are one list, in order.
	for _, line := range slices.Backward(r.Header["X-Forwarded-For"]) {
		for more := true; more; {
			if !trusts(trusted, addr) {
				return addr
			}
			hop := line
			if comma := strings.LastIndexByte(line, ','); comma >= 0 {
				line, hop = line[:comma], line[comma+1:]
			} else {
				more = false
			}
			if hop = strings.Trim(hop, " \t"); hop == "" {
				continue // RFC 9110, 5.6.1.2: empty elements of a list don't count
			}
			next := parseHop(hop)
			if !next.IsValid() {
				return addr
			}
			addr = next
		}
	}
	return addr
}

// parseHop parses an address, with or without a port, IPv6 also in brackets. For
// anything else it returns the zero Addr.
func parseHop(text string) netip.Addr {
	addr, err := netip.ParseAddr(text)
	if err != nil {
		if inner, ok := strings.CutPrefix(text, "["); ok && strings.HasSuffix(inner, "]") {
			addr, err = netip.ParseAddr(strings.TrimSuffix(inner, "]"))
			if err != nil || addr.Is4() {
				return netip.Addr{}
			}
		} else if withPort, err := netip.ParseAddrPort(text); err == nil {
			addr = withPort.Addr()
		} else {
			return netip.Addr{}
		}
	}
	return addr.Unmap().WithZone("")
}

// OverTLS reports whether the client uses TLS, as a trusted proxy says in
// X-Forwarded-Proto or else as the connection shows. With several proxies the first
// value is the client's; some proxies write wss or ws for a WebSocket.
func OverTLS(r *http.Request, trusted []netip.Prefix) bool {
	if trusts(trusted, parseHop(r.RemoteAddr)) {
		first, _, _ := strings.Cut(strings.TrimLeft(r.Header.Get("X-Forwarded-Proto"), " \t,"), ",")
		switch strings.ToLower(strings.TrimSpace(first)) {
		case "https", "wss":
			return true
		case "http", "ws":
			return false
		}
	}
	return r.TLS != nil
}

func trusts(trusted []netip.Prefix, addr netip.Addr) bool {
	return slices.ContainsFunc(trusted, func(p netip.Prefix) bool { return p.Contains(addr) })
}

// Key returns a key that is the same for all addresses of one client. An IPv6 /64
// is one client, since that is what one customer gets. All invalid addresses are
// one client.
func Key(addr netip.Addr) string {
	switch addr = addr.Unmap().WithZone(""); {
	case !addr.IsValid():
		return "no address"
	case addr.Is4():
		return addr.String()
	}
	return netip.PrefixFrom(addr, 64).Masked().String()
}
