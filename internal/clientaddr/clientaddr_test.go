package clientaddr

import (
	"net/http"
	"net/netip"
	"testing"
)

var testProxies = []netip.Prefix{
	netip.MustParsePrefix("10.0.0.0/8"), netip.MustParsePrefix("192.0.2.1/32"), netip.MustParsePrefix("fd00::/8"),
}

func TestOf(t *testing.T) {
	t.Parallel()
	tests := map[string]struct {
		peer      string
		forwarded []string
		want      string // "" for none
	}{
		"peer":                             {"203.0.113.5:1234", nil, "203.0.113.5"},
		"IPv6 peer":                        {"[2001:db8::1]:1234", nil, "2001:db8::1"},
		"IPv4 as IPv6":                     {"[::ffff:203.0.113.5]:1234", nil, "203.0.113.5"},
		"zone":                             {"[fe80::1%eth0]:1234", nil, "fe80::1"},
		"Unix socket":                      {"@", []string{"1.1.1.1"}, ""},
		"unnamed Unix socket":              {"", []string{"1.1.1.1"}, ""},
		"untrusted peer":                   {"203.0.113.5:1234", []string{"1.1.1.1"}, "203.0.113.5"},
		"trusted peer":                     {"10.0.0.1:1234", []string{"1.1.1.1"}, "1.1.1.1"},
		"trusted peer as IPv6":             {"[::ffff:10.0.0.1]:1234", []string{"1.1.1.1"}, "1.1.1.1"},
		"trusted IPv6 peer with zone":      {"[fd00::1%eth0]:1234", []string{"1.1.1.1"}, "1.1.1.1"},
		"trusted peer, no header":          {"10.0.0.1:1234", nil, "10.0.0.1"},
		"trusted peer, empty header":       {"10.0.0.1:1234", []string{""}, "10.0.0.1"},
		"forged left part":                 {"10.0.0.1:1234", []string{"9.9.9.9, 1.1.1.1"}, "1.1.1.1"},
		"two proxies":                      {"10.0.0.1:1234", []string{"9.9.9.9, 1.1.1.1, 10.2.3.4 ,192.0.2.1"}, "1.1.1.1"},
		"two headers":                      {"10.0.0.1:1234", []string{"9.9.9.9, 1.1.1.1", "10.2.3.4"}, "1.1.1.1"},
		"two headers, forged first":        {"10.0.0.1:1234", []string{"10.9.9.9", "1.1.1.1"}, "1.1.1.1"},
		"all trusted":                      {"10.0.0.1:1234", []string{"10.0.0.3, 10.0.0.2"}, "10.0.0.3"},
		"port":                             {"10.0.0.1:1234", []string{"1.2.3.4:567"}, "1.2.3.4"},
		"IPv6 in brackets with port":       {"10.0.0.1:1234", []string{"[2001:db8::1]:80"}, "2001:db8::1"},
		"IPv6 in brackets":                 {"10.0.0.1:1234", []string{"[2001:db8::1]"}, "2001:db8::1"},
		"IPv4 as IPv6 in a hop":            {"10.0.0.1:1234", []string{"1.1.1.1, ::ffff:10.0.0.2"}, "1.1.1.1"},
		"zone in a hop":                    {"10.0.0.1:1234", []string{"fe80::1%eth0"}, "fe80::1"},
		"empty elements":                   {"10.0.0.1:1234", []string{"1.1.1.1,, ,\t10.0.0.2,"}, "1.1.1.1"},
		"garbage to the left":              {"10.0.0.1:1234", []string{"<script>, 1.1.1.1"}, "1.1.1.1"},
		"garbage ends at its proxy":        {"10.0.0.1:1234", []string{"1.1.1.1, unknown, 10.0.0.2"}, "10.0.0.2"},
		"only garbage":                     {"10.0.0.1:1234", []string{"unknown"}, "10.0.0.1"},
		"half an address":                  {"10.0.0.1:1234", []string{"1.1.1"}, "10.0.0.1"},
		"IPv4 in brackets":                 {"10.0.0.1:1234", []string{"[1.1.1.1]"}, "10.0.0.1"},
		"trusted only as part of its name": {"110.0.0.1:1234", []string{"1.1.1.1"}, "110.0.0.1"},
	}
	for name, tt := range tests {
		t.Run(name, func(t *testing.T) {
			t.Parallel()
			r := &http.Request{RemoteAddr: tt.peer, Header: http.Header{"X-Forwarded-For": tt.forwarded}}
			var want netip.Addr
			if tt.want != "" {
				want = netip.MustParseAddr(tt.want)
			}
			if got := Of(r, testProxies); got != want {
				t.Errorf("%v, want %v", got, want)
			}
		})
	}
	r := &http.Request{RemoteAddr: "10.0.0.1:1", Header: http.Header{"X-Forwarded-For": {"1.1.1.1"}}}
	if got := Of(r, nil); got != netip.MustParseAddr("10.0.0.1") {
		t.Errorf("with no trusted proxy: %v", got)
	}
}

func TestKey(t *testing.T) {
	t.Parallel()
	same := [][]string{
		{"203.0.113.5", "::ffff:203.0.113.5"},
		{"203.0.113.6"},
		{"2001:db8::1", "2001:db8::2", "2001:db8:0:0:ffff::"},
		{"2001:db8:0:1::1"},
		{"fe80::1", "fe80::1%eth0"},
	}
	seen := map[string]int{Key(netip.Addr{}): -1}
	for group, addrs := range same {
		for _, addr := range addrs {
			key := Key(netip.MustParseAddr(addr))
			if before, ok := seen[key]; ok && before != group {
				t.Errorf("%s has the key %s of another client", addr, key)
			}
			seen[key] = group
		}
	}
	if len(seen) != len(same)+1 {
		t.Errorf("%d keys for %d clients: %v", len(seen), len(same)+1, seen)
	}
}

func FuzzOf(f *testing.F) {
	f.Add("10.0.0.1:80", "1.2.3.4:567, [::1]:80", "10.0.0.2")
	f.Add("[fd00::1%x]:1", "::ffff:10.0.0.1,,", "")
	f.Fuzz(func(t *testing.T, peer, first, second string) {
		r := &http.Request{RemoteAddr: peer, Header: http.Header{"X-Forwarded-For": {first, second}}}
		got := Of(r, testProxies)
		if got.Is4In6() || got.Zone() != "" {
			t.Errorf("%v isn't in its plain form", got)
		}
		Key(got)
		if direct := parseHop(peer); !trusts(testProxies, direct) && got != direct {
			t.Errorf("an untrusted peer %v became %v", direct, got)
		}
		r.Header.Add("X-Forwarded-For", "198.51.100.9") // what a trusted proxy adds can't be forged
		if trusts(testProxies, parseHop(peer)) && Of(r, testProxies) != netip.MustParseAddr("198.51.100.9") {
			t.Errorf("%q, %q hide the last hop", first, second)
		}
	})
}
