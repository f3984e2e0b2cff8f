package main

import (
	"bytes"
	"fmt"
	"log/slog"
	"net/netip"
	"os"
	"path/filepath"
	"reflect"
	"slices"
	"strings"
	"tachikoma/internal/certfile/certtest"
	"testing"
	"time"
)

// load reads a configuration from env and from a .env file with that content.
func load(t *testing.T, env map[string]string, envFile string) (Config, error) {
	t.Helper()
	path := filepath.Join(t.TempDir(), ".env")
	if envFile != "" {
		writeFile(t, path, envFile)
	}
	return loadConfig(func(name string) string { return env[name] }, path)
}

func writeFile(t *testing.T, path, content string) {
	t.Helper()
	if err := os.WriteFile(path, []byte(content), 0o600); err != nil {
		t.Fatal(err)
	}
}

// wantProblems checks that err has exactly one line for each part, in order,
// and that the line has the part in it.
func wantProblems(t *testing.T, err error, parts ...string) {
	t.Helper()
	var lines []string
	if err != nil {
		lines = strings.Split(err.Error(), "\n")
	}
	if len(lines) != len(parts) {
		t.Fatalf("got %d problems, want %d:\n%v", len(lines), len(parts), err)
	}
	for i, part := range parts {
		if !strings.Contains(lines[i], part) {
			t.Errorf("problem %d is %q, want %q in it", i+1, lines[i], part)
		}
	}
}

func TestConfigDefaults(t *testing.T) {
	t.Parallel()
	got, err := load(t, nil, "")
	want := Config{
		Host: "127.0.0.1", Port: 8080, DatabaseMaxConns: 16,
		AccessTokenTTL: 15 * time.Minute, RefreshTokenTTL: 720 * time.Hour, Registration: "first",
		LogLevel: slog.LevelInfo, LogFormat: "text",
		RequestTimeout: 30 * time.Second, MaxBodyBytes: 1 << 20, MaxImportBytes: 64 << 20,
		RateLimit: 1200, AuthRateLimit: 10,
		LeaseDefault: 5 * time.Minute, LeaseMax: 4 * time.Hour, MaxAttempts: 3,
		ShutdownTimeout: 30 * time.Second, EventRetention: 720 * time.Hour,
		WSMaxMessage: 64 << 10, WSQueue: 1000, WSPing: 30 * time.Second, WSPong: 10 * time.Second,
		WSMaxSubscriptions: 100, WSMaxConnections: 10_000, WSMaxPerAccount: 1000,
	}
	if err != nil || !reflect.DeepEqual(got, want) {
		t.Errorf("got %v, %v\nwant %v", got, err, want)
	}
}

func TestDefaultDataDirIsTheUsersStateFolder(t *testing.T) {
	t.Parallel()
	env := map[string]string{"HOME": "/home/major"}
	dir, err := defaultDataDir(func(key string) string { return env[key] })
	if err != nil || !filepath.IsAbs(dir) || filepath.Base(dir) != "tachikoma" {
		t.Fatalf("%q, %v", dir, err)
	}
	if os.Geteuid() == 0 {
		if dir != "/var/lib/tachikoma" {
			t.Errorf("root has %s", dir)
		}
		return
	}
	if !strings.HasPrefix(dir, "/home/major/") {
		t.Errorf("%s isn't in the home folder", dir)
	}
	_, err = defaultDataDir(func(string) string { return "" })
	wantError(t, err, "HOME", "DATA_DIR", "DATABASE_URL")
}

func TestConfigAcceptsEverySetting(t *testing.T) {
	t.Parallel()
	dir := t.TempDir()
	certFile, keyFile := certtest.WritePair(t, dir, "example.com")
	env := map[string]string{
		"HOST": "::", "PORT": "0", "DATABASE_URL": "postgres://u:p@db/x?sslmode=disable",
		"DATABASE_MAX_CONNS": "4", "DATA_DIR": "/var/lib/t", "JWT_SECRET": strings.Repeat("k", 32),
		"ACCESS_TOKEN_TTL": "1m", "REFRESH_TOKEN_TTL": "1h", "REGISTRATION": "closed",
		"ADMIN_EMAIL": "root@example.com", "ADMIN_PASSWORD": "a long enough password",
		"LOG_LEVEL": "debug", "LOG_FORMAT": "json", "TLS_CERT_FILE": certFile, "TLS_KEY_FILE": keyFile,
		"INTERNAL_ADDR":        "localhost:9090",
		"CORS_ALLOWED_ORIGINS": "https://app.example.com, http://[::1]:3000",
		"TRUSTED_PROXIES":      "10.1.2.3/8, 192.0.2.7, fd00::/8, ::ffff:198.51.100.0/120",
		"REQUEST_TIMEOUT":      "10s", "MAX_BODY_BYTES": "2048", "MAX_IMPORT_BYTES": "1 GiB",
		"RATE_LIMIT": "0", "AUTH_RATE_LIMIT": "5", "LEASE_DEFAULT": "10s", "LEASE_MAX": "10s",
		"MAX_ATTEMPTS": "1", "DRAIN_DELAY": "5s", "SHUTDOWN_TIMEOUT": "1m30s",
		"EVENT_RETENTION": "24h", "WS_MAX_MESSAGE": "4KiB", "WS_QUEUE": "50", "WS_PING": "5s", "WS_PONG_TIMEOUT": "2s",
		"WS_MAX_SUBSCRIPTIONS": "7", "WS_MAX_CONNECTIONS": "70", "WS_MAX_PER_ACCOUNT": "8",
	}
	got, err := load(t, env, "")
	if err != nil {
		t.Fatal(err)
	}
	want := Config{
		Host: "::", Port: 0, DatabaseURL: env["DATABASE_URL"], DatabaseMaxConns: 4, DataDir: "/var/lib/t",
		JWTSecret: []byte(env["JWT_SECRET"]), AccessTokenTTL: time.Minute, RefreshTokenTTL: time.Hour,
		Registration: "closed", AdminEmail: "root@example.com", AdminPassword: "a long enough password",
		LogLevel: slog.LevelDebug, LogFormat: "json", TLSCertFile: certFile, TLSKeyFile: keyFile,
		InternalAddr:       "localhost:9090",
		CORSAllowedOrigins: []string{"https://app.example.com", "http://[::1]:3000"},
		TrustedProxies: []netip.Prefix{
			netip.MustParsePrefix("10.0.0.0/8"), netip.MustParsePrefix("192.0.2.7/32"),
			netip.MustParsePrefix("fd00::/8"), netip.MustParsePrefix("198.51.100.0/24"),
		},
		RequestTimeout: 10 * time.Second, MaxBodyBytes: 2048, MaxImportBytes: 1 << 30,
		AuthRateLimit: 5, LeaseDefault: 10 * time.Second, LeaseMax: 10 * time.Second,
		MaxAttempts: 1, DrainDelay: 5 * time.Second, ShutdownTimeout: 90 * time.Second,
		EventRetention: 24 * time.Hour, WSMaxMessage: 4 << 10, WSQueue: 50, WSPing: 5 * time.Second, WSPong: 2 * time.Second,
		WSMaxSubscriptions: 7, WSMaxConnections: 70, WSMaxPerAccount: 8,
	}
	if !reflect.DeepEqual(got, want) {
		t.Errorf("got  %v\nwant %v", got, want)
	}
	if len(env) != len(got.settings()) {
		t.Errorf("this test sets %d of %d settings", len(env), len(got.settings()))
	}
}

func TestPathsCanBeginAtHome(t *testing.T) {
	t.Parallel()
	home := t.TempDir()
	certFile, keyFile := certtest.WritePair(t, home, "example.com")
	writeFile(t, home+"/secret", strings.Repeat("k", 32)+"\n")
	settings := map[string]string{"DATA_DIR": "~/data", "TLS_CERT_FILE": "~/" + filepath.Base(certFile),
		"TLS_KEY_FILE": "~/" + filepath.Base(keyFile), "JWT_SECRET_FILE": "~/secret"}
	file, env := "", map[string]string{"HOME": home}
	for name, value := range settings {
		file += name + "='" + value + "'\n"
		env[name] = value
	}
	fromFile, err := load(t, map[string]string{"HOME": home}, file)
	fromEnv, err2 := load(t, env, "")
	for _, got := range []Config{fromFile, fromEnv} {
		if err != nil || err2 != nil || got.DataDir != home+"/data" || got.TLSCertFile != certFile ||
			len(got.JWTSecret) != 32 {
			t.Errorf("got %v, %v, %v", got, err, err2)
		}
	}
	if got, err := load(t, map[string]string{"HOME": home, "DATA_DIR": "~"}, ""); err != nil || got.DataDir != home {
		t.Errorf("~ is %q, %v", got.DataDir, err)
	}
	for _, name := range []string{"DATA_DIR", "TLS_CERT_FILE", "TLS_KEY_FILE", "JWT_SECRET_FILE", "DATABASE_URL_FILE"} {
		for _, value := range []string{"~root/x", "$HOME/x", "${HOME}/x", "%h/x"} {
			_, err := load(t, map[string]string{"HOME": home, name: value}, "")
			wantProblems(t, err, name+": ")
			if !strings.Contains(fmt.Sprint(err), "write the whole path") || strings.Contains(fmt.Sprint(err), value) {
				t.Errorf("%s=%s: %v", name, value, err)
			}
		}
		_, err := load(t, map[string]string{name: "~/x"}, "")
		wantProblems(t, err, name+": begins with ~, but HOME isn't an absolute path")
	}
	for _, option := range []string{"sslrootcert", "passfile", "host"} {
		_, err := load(t, map[string]string{"DATABASE_URL": "postgres://h/d?" + option + "=~/x"}, "")
		wantProblems(t, err, "DATABASE_URL: ~ isn't expanded in its option "+option)
	}
}

func TestConfigRefusesBadValues(t *testing.T) {
	t.Parallel()
	tests := map[string][]string{
		"HOST": {"localhost:80", "[::1]", "http://x", "10.0.0", "a b", "*"},
		"PORT": {"-1", "65536", "http", "80.5", " 80"},
		"DATABASE_URL": {"mysql://u:p@h/d", "mysql://h/d?a=b", "somewhere", "postgres://h:port/d",
			"postgres://h/d?sslmode=maybe"},
		"DATABASE_MAX_CONNS":   {"0", "1", "many"},
		"JWT_SECRET":           {strings.Repeat("k", 31)},
		"ACCESS_TOKEN_TTL":     {"15", "0", "-1m", "25h", "soon"},
		"REFRESH_TOKEN_TTL":    {"1ms", "30d"},
		"REGISTRATION":         {"First", "yes"},
		"ADMIN_EMAIL":          {"root", "a b@c"},
		"LOG_LEVEL":            {"loud", "warning"},
		"LOG_FORMAT":           {"xml"},
		"TLS_CERT_FILE":        {"/does/not/exist"},
		"TLS_KEY_FILE":         {"/does/not/exist"},
		"INTERNAL_ADDR":        {"9090", "localhost", "localhost:http", "localhost:70000", "10.0:80"},
		"CORS_ALLOWED_ORIGINS": {"*", "https://*.example.com", "https://example.com/", "https://example.com/app", "example.com", "null", "HTTPS://EXAMPLE.COM", "https://example.com:443", "http://example.com:80", "http://example.com:", "http://example.com:99999", "http://example.com:080", "https://u:p@example.com", "https://example.com?x", "https://bücher.example", "https://ok.example,nonsense"},
		"TRUSTED_PROXIES":      {"proxy.example.com", "10.0.0.0/33", "fe80::1%eth0", "10.0.0.1:80"},
		"REQUEST_TIMEOUT":      {"0s", "2h"},
		"MAX_BODY_BYTES":       {"0", "-1", "1MB", "1.5MiB", "2GiB", "99999999999GiB", "-9007199254740992GiB", "MiB"},
		"MAX_IMPORT_BYTES":     {"1", "lots"},
		"RATE_LIMIT":           {"-1", "1e3"},
		"AUTH_RATE_LIMIT":      {"-1"},
		"LEASE_MAX":            {"9s"},
		"LEASE_DEFAULT":        {"0s", "5h"},
		"MAX_ATTEMPTS":         {"0"},
		"DRAIN_DELAY":          {"-1s"},
		"SHUTDOWN_TIMEOUT":     {"0s"},
	}
	for name, values := range tests {
		for _, value := range values {
			t.Run(name+"="+value, func(t *testing.T) {
				t.Parallel()
				_, err := load(t, map[string]string{name: value}, "")
				wantProblems(t, err, name+": ")
			})
		}
	}
}

func TestConfigAcceptsUsualValues(t *testing.T) {
	t.Parallel()
	tests := map[string][]string{
		"HOST": {"0.0.0.0", "::1", "localhost", "api-1.example.com"},
		"PORT": {"0", "65535"},
		"DATABASE_URL": {"postgresql:///d?host=/run/postgresql", "host=/run/postgresql dbname=d password='a=b://c'",
			"postgres://u:p%40@h1,h2:6432/d"},
		"INTERNAL_ADDR": {":9090", "[::1]:0", "10.0.0.1:80"},
		"CORS_ALLOWED_ORIGINS": {"http://localhost:3000", "https://example.com:8443", "chrome-extension://abcdef",
			"https://xn--bcher-kva.example", ","},
		"TRUSTED_PROXIES": {"0.0.0.0/0,::/0", "::1", " 10.0.0.0/8 ,"},
		"MAX_BODY_BYTES":  {"1048576", "64KiB", "1 MiB", "1GiB"},
	}
	for name, values := range tests {
		for _, value := range values {
			t.Run(name+"="+value, func(t *testing.T) {
				t.Parallel()
				_, err := load(t, map[string]string{name: value}, "")
				wantProblems(t, err)
			})
		}
	}
}

func TestConfigReportsAllProblemsAtOnce(t *testing.T) {
	t.Parallel()
	_, err := load(t, map[string]string{"PORT": "x", "LOG_FORMAT": "xml", "LEASE_DEFAULT": "8h",
		"ADMIN_EMAIL": "a@b.example"},
		"RATELIMIT=5\nMAX_ATTEMPTS='3\n")
	wantProblems(t, err, "line 1: RATELIMIT is not a setting", "PORT: ", "LOG_FORMAT: ",
		"MAX_ATTEMPTS: line 2 of the .env file: want 'a value", "LEASE_DEFAULT: ", "ADMIN_PASSWORD: is missing")
}

func TestConfigChecksSettingsTogether(t *testing.T) {
	t.Parallel()
	dir := t.TempDir()
	certFile, keyFile := certtest.WritePair(t, dir, "example.com")
	_, otherKey := certtest.WritePair(t, t.TempDir(), "example.com")
	tests := map[string]struct {
		env  map[string]string
		want []string
	}{
		"lease": {map[string]string{"LEASE_DEFAULT": "11s",
			"LEASE_MAX": "10s"}, []string{"LEASE_DEFAULT: is longer than LEASE_MAX (10s)"}},
		"lease, one bad": {map[string]string{"LEASE_DEFAULT": "5h", "LEASE_MAX": "x"}, []string{"LEASE_MAX: want"}},
		"tokens":         {map[string]string{"REFRESH_TOKEN_TTL": "10m"}, []string{"ACCESS_TOKEN_TTL: is longer"}},
		"admin, no mail": {map[string]string{"ADMIN_PASSWORD": "a long enough password"},
			[]string{"ADMIN_EMAIL: is missing"}},
		"admin, too weak": {map[string]string{"ADMIN_EMAIL": "a@b.example",
			"ADMIN_PASSWORD": "short"}, []string{"ADMIN_PASSWORD: must have at least 15 characters"}},
		"certificate": {map[string]string{"TLS_CERT_FILE": certFile}, []string{"TLS_KEY_FILE: is missing"}},
		"key":         {map[string]string{"TLS_KEY_FILE": keyFile}, []string{"TLS_CERT_FILE: is missing"}},
		"pair": {map[string]string{"TLS_CERT_FILE": certFile, "TLS_KEY_FILE": otherKey},
			[]string{"TLS_CERT_FILE and TLS_KEY_FILE: "}},
	}
	for name, tt := range tests {
		t.Run(name, func(t *testing.T) {
			t.Parallel()
			_, err := load(t, tt.env, "")
			wantProblems(t, err, tt.want...)
		})
	}
}

func TestSecretsComeFromFiles(t *testing.T) {
	t.Parallel()
	dir := t.TempDir()
	secret := strings.Repeat("s", 40)
	file := func(name, content string) string {
		path := filepath.Join(dir, name)
		writeFile(t, path, content)
		return path
	}
	unix, dos, two := file("unix", secret+"\n"), file("dos", secret+"\r\n"), file("two", secret+"\n\n")
	empty, large := file("empty", "\n"), file("large", strings.Repeat("s", maxSecretFile+1))
	tests := map[string]struct {
		env  map[string]string
		file string
		want string
		err  []string
	}{
		"file":         {env: map[string]string{"JWT_SECRET_FILE": unix}, want: secret},
		"dos line end": {env: map[string]string{"JWT_SECRET_FILE": dos}, want: secret},
		"one line end": {env: map[string]string{"JWT_SECRET_FILE": two}, want: secret + "\n"},
		"from .env":    {file: "JWT_SECRET_FILE=" + unix, want: secret},
		"both": {env: map[string]string{"JWT_SECRET_FILE": unix, "JWT_SECRET": secret},
			err: []string{"JWT_SECRET: is set, and so is JWT_SECRET_FILE"}},
		"both in .env": {file: "JWT_SECRET_FILE=" + unix + "\nJWT_SECRET=" + secret,
			err: []string{"JWT_SECRET: is set, and so is JWT_SECRET_FILE"}},
		"environment wins": {env: map[string]string{"JWT_SECRET": secret}, file: "JWT_SECRET_FILE=" + empty, want: secret},
		"empty": {env: map[string]string{"JWT_SECRET_FILE": empty},
			err: []string{"JWT_SECRET_FILE: the file is empty"}},
		"too large": {env: map[string]string{"JWT_SECRET_FILE": large},
			err: []string{"JWT_SECRET_FILE: the file is larger than 64KiB"}},
		"missing": {env: map[string]string{"JWT_SECRET_FILE": dir + "/no"},
			err: []string{"JWT_SECRET_FILE: the file can't be opened: no such file"}},
		"folder": {env: map[string]string{"JWT_SECRET_FILE": dir},
			err: []string{"JWT_SECRET_FILE: the file can't be read: is a directory"}},
		"only secrets do so": {env: map[string]string{"PORT_FILE": "/does/not/exist"}},
	}
	for name, tt := range tests {
		t.Run(name, func(t *testing.T) {
			t.Parallel()
			c, err := load(t, tt.env, tt.file)
			wantProblems(t, err, tt.err...)
			if string(c.JWTSecret) != tt.want {
				t.Errorf("JWTSecret is %q, want %q", c.JWTSecret, tt.want)
			}
		})
	}
}

func TestNoSecretIsInAnErrorText(t *testing.T) {
	t.Parallel()
	const secret = "hunter2"
	for _, tt := range []struct {
		env  map[string]string
		file string
	}{
		{env: map[string]string{"DATABASE_URL": "postgres://u:" + secret + "@h:x/d"}},
		{env: map[string]string{"DATABASE_URL": "postgres://u:" + secret + "%zz@h/d"}},
		{env: map[string]string{"DATABASE_URL": "postgres://u:a/" + secret + "#@h:1:2/d"}},
		{env: map[string]string{"DATABASE_URL": "host=h port=x password=" + secret}},
		{env: map[string]string{"DATABASE_URL": "host=h password='" + secret}},
		{env: map[string]string{"DATABASE_URL": "mysql://u:" + secret + "@h/d"}},
		{env: map[string]string{"DATABASE_URL_FILE": "postgres://u:" + secret + "@h/d"}},
		{env: map[string]string{"JWT_SECRET": secret}},
		{env: map[string]string{"JWT_SECRET_FILE": secret}},
		{env: map[string]string{"ADMIN_EMAIL": "a@b.example", "ADMIN_PASSWORD": secret}},
		{env: map[string]string{"ADMIN_PASSWORD_FILE": secret}},
		{env: map[string]string{"CORS_ALLOWED_ORIGINS": "https://u:" + secret + "@h"}},
		{file: "JWT_SECRET=\"" + secret},
		{file: "JWT_SECRET=\"" + secret + "\\x\""},
		{file: "JWT_SECRET='" + secret + "\n" + strings.ToUpper(secret) + "=\n'"},
		{file: "JWT_SECRET='x' " + secret},
		{file: secret},
		{file: secret + "=x"},
		{file: "JWT_SECRET: " + secret},
	} {
		_, err := load(t, tt.env, tt.file)
		if err == nil {
			t.Errorf("%v %q: accepted", tt.env, tt.file)
		} else if strings.Contains(strings.ToLower(err.Error()), secret) {
			t.Errorf("%v %q: the error tells the secret: %v", tt.env, tt.file, err)
		}
	}
}

func TestConfigPrintsNoSecret(t *testing.T) {
	t.Parallel()
	const secret = "a secret of 32 bytes, at the least"
	c, err := load(t, map[string]string{
		"DATABASE_URL": "postgres://u:" + strings.ReplaceAll(secret, " ", "%20") + "@h/d",
		"JWT_SECRET":   secret, "ADMIN_EMAIL": "a@b.example", "ADMIN_PASSWORD": secret,
	}, "")
	if err != nil {
		t.Fatal(err)
	}
	var out bytes.Buffer
	for _, verb := range []string{"%v", "%+v", "%#v", "%s", "%q", "%x", "%d"} {
		fmt.Fprintf(&out, verb+"\n", c)
		fmt.Fprintf(&out, verb+"\n", &c)
	}
	slog.New(slog.NewTextHandler(&out, nil)).Info("start", "config", c)
	slog.New(slog.NewJSONHandler(&out, nil)).Info("start", "config", &c)
	for _, part := range []string{"a secret", "a%20secret", "61207365", "[97 32", "YSBzZWNyZXQ"} {
		if strings.Contains(out.String(), part) {
			t.Errorf("%q is in the output:\n%s", part, out.String())
		}
	}
}

func TestEnvFile(t *testing.T) {
	t.Parallel()
	content := "\ufeff# a comment\r\n\r\n" + `
HOST=db.example.com # the comment
export  DATA_DIR = /srv/a b#c
  LOG_FORMAT="json"   # quoted
DATABASE_URL='host=h password=p#\$w"x'
JWT_SECRET="\\ \" \n $HOME # and more to make it thirty-two bytes"
ADMIN_EMAIL=
INTERNAL_ADDR= # nothing
PORT=1`
	got, err := load(t, map[string]string{"PORT": "2"}, content)
	if err != nil {
		t.Fatal(err)
	}
	for _, tt := range []struct{ name, got, want string }{
		{"HOST", got.Host, "db.example.com"},
		{"DATA_DIR", got.DataDir, "/srv/a b#c"},
		{"LOG_FORMAT", got.LogFormat, "json"},
		{"DATABASE_URL", got.DatabaseURL, `host=h password=p#\$w"x`},
		{"JWT_SECRET", string(got.JWTSecret), "\\ \" \n $HOME # and more to make it thirty-two bytes"},
		{"ADMIN_EMAIL", got.AdminEmail, ""},
		{"INTERNAL_ADDR", got.InternalAddr, ""},
		{"addr", got.addr(), "db.example.com:2"},
	} {
		if tt.got != tt.want {
			t.Errorf("%s is %q, want %q", tt.name, tt.got, tt.want)
		}
	}
}

func TestEnvFileProblems(t *testing.T) {
	t.Parallel()
	tests := map[string]struct {
		content string
		want    []string
	}{
		"no equals sign":     {"PORT=1\nPORT 2", []string{"line 2: want NAME=value"}},
		"lower case":         {"port=1", []string{"line 1: want NAME=value"}},
		"unknown":            {"\nNAME=1", []string{"line 2: NAME is not a setting"}},
		"unknown file":       {"PORT_FILE=/x", []string{"line 1: PORT_FILE is not a setting"}},
		"twice":              {"PORT=1\n\nPORT=1", []string{"PORT: set on lines 1 and 3"}},
		"after a quote":      {"HOST='a'b", []string{"HOST: line 1 of the .env file: want 'a value"}},
		"unknown escape":     {`HOST="a\b"`, []string{"HOST: line 1 of the .env file: want 'a value"}},
		"open at the end":    {`HOST="a\`, []string{"HOST: line 1 of the .env file: want 'a value"}},
		"open hides the end": {"HOST=\"a\nABC=\nx", []string{"HOST: line 1 of the .env file: want 'a value"}},
	}
	for name, tt := range tests {
		t.Run(name, func(t *testing.T) {
			t.Parallel()
			_, err := load(t, nil, tt.content)
			wantProblems(t, err, tt.want...)
		})
	}
	dir := t.TempDir()
	_, err := loadConfig(func(string) string { return "" }, dir)
	wantProblems(t, err, dir+": can't be read: is a directory")
}

func FuzzEnvFile(f *testing.F) {
	f.Add("PORT=1\nHOST='x' # y\nexport JWT_SECRET=\"a\\n\\\"\"")
	f.Add("HOST=\"\\")
	f.Fuzz(func(t *testing.T, content string) {
		lines, problems := parseEnv(content, map[string]bool{"HOST": true})
		for name := range lines {
			if name != "HOST" {
				t.Errorf("%q is not known", name)
			}
		}
		if n := strings.Count(content, "\n") + 1; len(problems) > n {
			t.Errorf("%d problems on %d lines", len(problems), n)
		}
		if strings.ContainsAny(content, "'\r\n") {
			return
		}
		if got, err := envValue("'" + content + "' # x"); err != nil || got != content {
			t.Errorf("'%s' is read as %q, %v", content, got, err)
		}
		escaped := strings.NewReplacer(`\`, `\\`, `"`, `\"`).Replace(content)
		if got, err := envValue(`"` + escaped + `"`); err != nil || got != content {
			t.Errorf(`"%s" is read as %q, %v`, escaped, got, err)
		}
	})
}

func TestLoopback(t *testing.T) {
	t.Parallel()
	for host, want := range map[string]bool{
		"127.0.0.1": true, "127.9.9.9": true, "::1": true, "localhost": true, "LOCALHOST": true, "::ffff:127.0.0.1": true,
		"0.0.0.0": false, "::": false, "": false, "192.0.2.1": false, "localhost.example.com": false,
	} {
		if got := (Config{Host: host}).loopback(); got != want {
			t.Errorf("loopback of %q is %v", host, got)
		}
	}
	if got := (Config{Host: "::1", Port: 80}).addr(); got != "[::1]:80" {
		t.Errorf("addr is %s", got)
	}
}

// The table, the struct, the help and docs/operations.md say the same.
func TestEverySettingIsDocumented(t *testing.T) {
	t.Parallel()
	var c Config
	settings := c.settings()
	if fields := reflect.TypeFor[Config]().NumField(); fields != len(settings) {
		t.Errorf("Config has %d fields, the table %d settings", fields, len(settings))
	}
	var help bytes.Buffer
	configHelp(&help)
	lines := strings.Split(docText(t, "docs/operations.md"), "\n")
	for _, s := range settings {
		if !strings.Contains(help.String(), "\n  "+s.name+"="+s.preset+" ") {
			t.Errorf("-help doesn't have %s with its default %q", s.name, s.preset)
		}
		if !slices.ContainsFunc(lines, func(line string) bool {
			return strings.Contains(line, "`"+s.name+"`") && (s.preset == "" || strings.Contains(line, "`"+s.preset+"`"))
		}) {
			t.Errorf("docs/operations.md has no line with `%s` and its default `%s`", s.name, s.preset)
		}
	}
}
