package pgserver

import (
	"log/slog"
	"os"
	"path/filepath"
	"strings"
	"testing"
)

func TestMissingProgramsAreToldWithTheInstallCommand(t *testing.T) {
	t.Parallel()
	dir := filepath.Join(t.TempDir(), "data")
	s := &Server{log: slog.New(slog.DiscardHandler), dir: dir, folders: []string{"/nowhere", t.TempDir()}}
	err := s.start(t.Context())
	if err == nil {
		t.Fatal("it started without programs")
	}
	for _, word := range []string{"no PostgreSQL programs", installAdvice(), "DATABASE_URL"} {
		if !strings.Contains(err.Error(), word) {
			t.Errorf("the error doesn't say %q: %v", word, err)
		}
	}
	if _, err := os.Stat(dir); err == nil {
		t.Error("a folder was made for nothing")
	}
}

func TestInstallCommandFitsTheSystem(t *testing.T) {
	t.Parallel()
	for _, test := range []struct{ goos, release, want string }{
		{"darwin", "", "brew install postgresql@17"},
		{"linux", "NAME=\"Debian GNU/Linux\"\nID=debian\n", "sudo apt-get install -y postgresql"},
		{"linux", "ID=linuxmint\nID_LIKE=\"ubuntu debian\"\n", "sudo apt-get install -y postgresql"},
		{"linux", "ID=\"rocky\"\nID_LIKE=\"rhel centos fedora\"\n", "sudo dnf install -y postgresql-server"},
		{"linux", "ID=other\n", ""},
		{"linux", "", ""},
	} {
		if got := installCommand(test.goos, test.release); got != test.want {
			t.Errorf("%s %q: %q, want %q", test.goos, test.release, got, test.want)
		}
	}
}
