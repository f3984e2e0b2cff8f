package pgserver

// PostgreSQL's own programs: where they are, the account that runs them, and how
// to install them.

import (
	"cmp"
	"context"
	"errors"
	"fmt"
	"io/fs"
	"os"
	"os/exec"
	"os/user"
	"path/filepath"
	"regexp"
	"runtime"
	"slices"
	"strconv"
	"strings"
	"syscall"
)

// programFolders is where packages put PostgreSQL's programs when they don't
// put them in PATH: Debian, Homebrew (Apple silicon, Intel), Postgres.app.
var programFolders = []string{
	"/usr/lib/postgresql/*/bin",
	"/opt/homebrew/opt/postgresql*/bin",
	"/usr/local/opt/postgresql*/bin",
	"/Applications/Postgres.app/Contents/Versions/*/bin",
}

// postgresFolders lists the folders to look for PostgreSQL's programs in:
// those of PATH, then those of packages, the newest version first.
func postgresFolders(path string) []string {
	folders := filepath.SplitList(path)
	for _, pattern := range programFolders {
		matches, _ := filepath.Glob(pattern) // its one error is a bad pattern
		slices.SortFunc(matches, func(a, b string) int {
			i, _ := firstNumber(a)
			j, _ := firstNumber(b)
			return cmp.Or(cmp.Compare(j, i), cmp.Compare(b, a))
		})
		folders = append(folders, matches...)
	}
	return folders
}

// withPrograms keeps the folders that hold a server's programs, each once.
// Links are followed, since beside a link in PATH not all programs are linked.
func withPrograms(folders []string) []string {
	var found []string
	for _, folder := range folders {
		postgres, err := filepath.EvalSymlinks(filepath.Join(folder, "postgres"))
		if err != nil || !filepath.IsAbs(postgres) {
			continue
		}
		folder = filepath.Dir(postgres)
		if _, err := os.Stat(filepath.Join(folder, "initdb")); err == nil && !slices.Contains(found, folder) {
			found = append(found, folder)
		}
	}
	return found
}

// choosePrograms sets bin: for an existing cluster to the first folder with its
// version, else to the first that is new enough.
func (s *Server) choosePrograms() error {
	wanted, err := s.clusterVersion()
	if err != nil {
		return err
	}
	var found []string
	for _, folder := range s.folders {
		version, err := s.version(folder)
		if err != nil {
			return err
		}
		if version == wanted || wanted == 0 && version >= MinVersion {
			s.bin = folder
			return nil
		}
		found = append(found, fmt.Sprintf("%d in %s", version, folder))
	}
	if wanted == 0 {
		return fmt.Errorf("PostgreSQL %d or later is needed, but only %s is installed: %s, "+
			"or name a database in DATABASE_URL",
			MinVersion, strings.Join(found, ", "), installAdvice())
	}
	return fmt.Errorf("the cluster in %s is PostgreSQL %d's, but only %s is installed: install version %[2]d beside it "+
		"and start; "+
		"to move to a newer version, then make a backup (pg_dump -h %[4]s -U postgres -Fc -f %[5]s.dump %[5]s), stop, "+
		"rename %[6]s, start again, and restore (docs/operations.md)",
		s.dir, wanted, strings.Join(found, ", "), s.path("run"), Database, s.path("postgres"))
}

// clusterVersion returns the major version of the cluster in dir, or 0 if there is none.
func (s *Server) clusterVersion() (int, error) {
	content, err := os.ReadFile(s.path("postgres", "PG_VERSION"))
	if errors.Is(err, fs.ErrNotExist) {
		return 0, nil
	}
	if err != nil {
		return 0, s.unusable(err)
	}
	version, err := strconv.Atoi(strings.TrimSpace(string(content)))
	if err != nil {
		return 0, s.unusable(fmt.Errorf("reading PG_VERSION: %w", err))
	}
	return version, nil
}

// version asks the programs in folder for their major version, as the account
// and in the folder that Postgres will run with.
func (s *Server) version(folder string) (int, error) {
	cmd := s.command(context.Background(), filepath.Join(folder, "postgres"), "--version")
	answer, err := cmd.Output()
	if errors.Is(err, fs.ErrPermission) && s.account != nil {
		return 0, s.denied(cmd.Path)
	}
	if err != nil {
		return 0, fmt.Errorf("asking %s for its version: %w", cmd.Path, err)
	}
	number, ok := firstNumber(strings.TrimPrefix(string(answer), "postgres (PostgreSQL) "))
	if !ok {
		return 0, fmt.Errorf("asking %s for its version: the answer is %q", cmd.Path, answer)
	}
	return number, nil
}

// denied returns an error that names the folder that the account of Postgres may
// not enter: the homes of root and of users are closed to it.
func (s *Server) denied(program string) error {
	const advice = "choose another DATA_DIR (not in a home folder), or start the server as an ordinary user"
	at := "/"
	for _, name := range strings.Split(s.dir, "/") {
		at = filepath.Join(at, name)
		cmd := s.command(context.Background(), program, "--version")
		cmd.Dir = at
		if err := cmd.Run(); errors.Is(err, fs.ErrPermission) {
			if at == "/" {
				return fmt.Errorf("started by root, Postgres runs as the user postgres, which may not run %s", program)
			}
			return fmt.Errorf("started by root, Postgres runs as the user postgres, which may not enter %s: %s", at, advice)
		}
	}
	return fmt.Errorf("started by root, Postgres runs as the user postgres, which may not enter %s: %s", s.dir, advice)
}

// command returns a command for one of PostgreSQL's programs. It runs as Postgres's
// account, in a process group of its own, so that Ctrl-C doesn't reach it, and with
// an environment without secrets and settings. Cancelling ctx kills it.
func (s *Server) command(ctx context.Context, path string, args ...string) *exec.Cmd {
	cmd := exec.CommandContext(ctx, path, args...)
	cmd.Dir = s.dir
	cmd.Env = []string{"PATH=" + os.Getenv("PATH"), "LC_ALL=C", "TZ=UTC"}
	cmd.SysProcAttr = &syscall.SysProcAttr{Setpgid: true, Credential: s.account}
	cmd.Cancel = func() error { return syscall.Kill(-cmd.Process.Pid, syscall.SIGKILL) }
	return cmd
}

func (s *Server) program(name string) string { return filepath.Join(s.bin, name) }

// Account returns the account that Postgres runs as. Postgres refuses to run as
// root, so for root it is the user postgres; otherwise it is nil, which means the
// account of this process. The cluster and the folder of its socket belong to it
// and are closed to others.
func Account() (*syscall.Credential, error) {
	if os.Geteuid() != 0 {
		return nil, nil
	}
	account, err := user.Lookup("postgres")
	if err != nil {
		return nil, fmt.Errorf("started by root, Postgres must run as the user postgres: %w: "+
			"create that user, start the server as an ordinary one, or name a database in DATABASE_URL", err)
	}
	uid, err := strconv.ParseUint(account.Uid, 10, 32)
	if err != nil {
		return nil, fmt.Errorf("reading the user postgres: %w", err)
	}
	gid, err := strconv.ParseUint(account.Gid, 10, 32)
	if err != nil {
		return nil, fmt.Errorf("reading the user postgres: %w", err)
	}
	return &syscall.Credential{Uid: uint32(uid), Gid: uint32(gid)}, nil
}

// checkOwner refuses a cluster of another user before anything is changed
// beside it: Postgres only runs as the owner of its files.
func (s *Server) checkOwner() error {
	info, err := os.Stat(s.path("postgres"))
	if errors.Is(err, fs.ErrNotExist) {
		return nil
	}
	if err != nil {
		return s.unusable(err)
	}
	runner := uint32(os.Geteuid())
	if s.account != nil {
		runner = s.account.Uid
	}
	if owner := info.Sys().(*syscall.Stat_t).Uid; owner != runner {
		return fmt.Errorf("the cluster in %s belongs to the user %d, and Postgres would run as the user %d: "+
			"start the server as the owner, or choose another DATA_DIR", s.dir, owner, runner)
	}
	return nil
}

// installAdvice returns how to install PostgreSQL on this system.
func installAdvice() string {
	release, _ := os.ReadFile("/etc/os-release") // without it the system is unknown
	command := installCommand(runtime.GOOS, string(release))
	if command == "" {
		return fmt.Sprintf("install PostgreSQL %d or later", MinVersion)
	}
	if os.Geteuid() == 0 {
		command = strings.TrimPrefix(command, "sudo ")
	}
	return "install them with " + command
}

// installCommand is the command line that installs PostgreSQL, or "" where it isn't known.
func installCommand(goos, osRelease string) string {
	if goos == "darwin" {
		return "brew install postgresql@17"
	}
	commands := []struct{ id, command string }{
		{"debian", "sudo apt-get install -y postgresql"},
		{"ubuntu", "sudo apt-get install -y postgresql"},
		{"fedora", "sudo dnf install -y postgresql-server"},
		{"rhel", "sudo dnf install -y postgresql-server"},
		{"suse", "sudo zypper install -y postgresql-server"},
		{"arch", "sudo pacman -S --noconfirm postgresql"},
		{"alpine", "sudo apk add postgresql"},
	}
	for line := range strings.Lines(osRelease) {
		key, value, _ := strings.Cut(strings.TrimSpace(line), "=")
		if key != "ID" && key != "ID_LIKE" {
			continue
		}
		for _, c := range commands {
			if slices.Contains(strings.Fields(strings.Trim(value, `"'`)), c.id) {
				return c.command
			}
		}
	}
	return ""
}

var digits = regexp.MustCompile(`[0-9]+`)

// firstNumber is the first number in a text, such as 16 in "postgresql@16".
func firstNumber(text string) (int, bool) {
	number, err := strconv.Atoi(digits.FindString(text))
	return number, err == nil
}

var plainWord = regexp.MustCompile(`^[A-Za-z0-9/._@+-]+$`)

// shellQuote quotes a word so that a shell takes it literally.
func shellQuote(word string) string {
	if plainWord.MatchString(word) {
		return word
	}
	return "'" + strings.ReplaceAll(word, "'", `'\''`) + "'"
}

// initCluster makes the cluster under another name and renames it when it is
// complete, so an unfinished one is never taken for a cluster.
func (s *Server) initCluster(ctx context.Context, life, out *os.File) error {
	s.log.InfoContext(ctx, "making a Postgres cluster, which takes a few seconds", "dir", s.dir, "programs", s.bin)
	err := s.initdb(ctx, life, out, "C.UTF-8")
	if err != nil && ctx.Err() == nil {
		err = s.initdb(ctx, life, out, "C") // not every C library has the other
	}
	if err != nil {
		return err
	}
	if err := os.Rename(s.path("postgres.new"), s.path("postgres")); err != nil {
		return s.unusable(err)
	}
	if s.throwaway {
		return nil
	}
	return syncFolder(s.dir) // or a power cut could undo the rename, and the next start make a new cluster
}

// initdb makes a cluster that sorts by bytes, so that an update of the C library
// doesn't change the order, with the character classes of the locale ctype.
func (s *Server) initdb(ctx context.Context, life, out *os.File, ctype string) error {
	if err := errors.Join(os.RemoveAll(s.path("postgres.new")), s.makeOwned("postgres.new")); err != nil {
		return s.unusable(err)
	}
	args := []string{"-D", s.path("postgres.new"), "--encoding=UTF8", "--locale=C",
		"--lc-ctype=" + ctype, "--username=postgres",
		"--auth-local=trust", "--auth-host=reject", "--no-instructions"}
	if s.throwaway {
		args = append(args, "--no-sync")
	}
	cmd := s.command(ctx, s.program("initdb"), args...)
	cmd.Stdout, cmd.Stderr, cmd.ExtraFiles = out, out, []*os.File{life}
	if err := cmd.Run(); err != nil {
		return s.failure("making a Postgres cluster", cmp.Or(ctx.Err(), err))
	}
	return nil
}
