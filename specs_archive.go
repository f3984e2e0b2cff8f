package main

import (
	"archive/tar"
	"bufio"
	"bytes"
	"compress/gzip"
	"context"
	"errors"
	"fmt"
	"io"
	"mime"
	"mime/multipart"
	"net"
	"net/http"
	"path"
	"strings"
	"time"
	"unicode"
	"unicode/utf8"

	"github.com/jackc/pgx/v5"

	"tachikoma/internal/specfile"
)

// archive is what an import sent: files that can be specs, and the paths of what
// it passes over, with a warning for what isn't passed over for its name.
type archive struct {
	files      []specfile.Source // each path once
	skipped    []string          // all that is passed over
	passedOver []string          // of these what isn't work, by its name
	warnings   []specfile.Warning
	at         map[string]int // of a path, its place in files

	fields map[string]string // that a form has sent beside its files
}

// upload is the body of an import as it arrives, in chunks that each have a place.
type upload struct {
	chunks net.Buffers
	take   func() bool
}

// upload reads the whole body, also the padding behind a tar's end: what stays
// unread would make closing the connection a reset, which takes the end of the
// answer with it. release gives back its places, also after an error.
func (s *Server) upload(r *http.Request, userID string) (body io.Reader, release func(), err error) {
	most := int(max(maxImports*s.config.MaxImportBytes, leastUploads) / uploadChunk)
	taken := 0
	release = func() { s.uploads.Give(userID, taken) }
	if coding := r.Header.Get("Content-Encoding"); coding != "" && !strings.EqualFold(coding, "identity") {
		return nil, release, problem(http.StatusUnsupportedMediaType, "unsupported_media_type",
			"Send the archive without a Content-Encoding: a .tar.gz is recognised by itself.")
	}
	u := upload{take: func() bool {
		ok := s.uploads.Take(userID, 1, most, most*maxImportsOfEach/maxImports)
		if ok {
			taken++
		}
		return ok
	}}
	if _, err := io.Copy(&u, r.Body); err != nil {
		if busy, ok := errors.AsType[*apiError](err); ok {
			return nil, release, busy
		}
		return nil, release, bodyProblem(err)
	}
	return &u.chunks, release, nil
}

func (u *upload) Write(p []byte) (n int, err error) {
	for n < len(p) {
		last := len(u.chunks) - 1
		if last < 0 || len(u.chunks[last]) == uploadChunk {
			if !u.take() {
				return n, errImportsBusy()
			}
			u.chunks = append(u.chunks, make([]byte, 0, uploadChunk))
			last++
		}
		some := p[n:min(len(p), n+uploadChunk-len(u.chunks[last]))]
		u.chunks[last] = append(u.chunks[last], some...)
		n += len(some)
	}
	return n, nil
}

func errImportsBusy() error {
	return problem(http.StatusServiceUnavailable, "busy", "Too many imports are running. Try again soon.").
		withHeader("Retry-After", "5")
}

// readArchive reads a whole import: multipart/form-data with many files, or a
// tar stream, also gzipped, told by its first bytes. limit bounds what it unpacks
// to, in bytes.
func readArchive(header http.Header, body io.Reader, limit int64) (*archive, error) {
	a := archive{at: make(map[string]int), fields: make(map[string]string)}
	mediaType, params, _ := mime.ParseMediaType(header.Get("Content-Type"))
	var err error
	advice := "Send multipart/form-data with files, or a tar stream, which may be gzipped: tar c specs | curl " +
		"--data-binary @- …"
	if mediaType == "multipart/form-data" {
		advice = "The upload is incomplete or malformed. Send the files again." // a page shows it too
		err = a.readMultipart(multipart.NewReader(body, params["boundary"]), limit)
	} else {
		err = a.readTar(body, limit)
	}
	if err != nil {
		return nil, archiveProblem(err, advice)
	}
	return &a, nil
}

var errArchiveTooLarge = errors.New("the archive unpacks to more than MAX_IMPORT_BYTES")

func errTooManyFiles() error {
	return problem(http.StatusRequestEntityTooLarge, "too_many_files",
		"An import has at most %d files, counting the items of trackers.", specfile.MaxFiles)
}

// archiveProblem tells a client what is wrong with its archive; advice is for one that
// can't be read.
func archiveProblem(err error, advice string) error {
	if e, ok := errors.AsType[*apiError](err); ok {
		return e
	}
	if errors.Is(err, errArchiveTooLarge) {
		return problem(http.StatusRequestEntityTooLarge, "body_too_large",
			"The import unpacks to more than MAX_IMPORT_BYTES allows.").because(err)
	}
	return problem(http.StatusBadRequest, "malformed_archive", advice).because(err)
}

func (a *archive) readMultipart(parts *multipart.Reader, limit int64) error {
	for range specfile.MaxFiles + maxFormFields + 1 {
		part, err := parts.NextPart()
		if errors.Is(err, io.EOF) {
			return nil
		}
		if err != nil {
			return err
		}
		// Part.FileName would drop the folders.
		_, params, err := mime.ParseMediaType(part.Header.Get("Content-Disposition"))
		if err != nil {
			return err
		}
		if params["filename"] == "" {
			if err := a.addField(params["name"], part); err != nil {
				return err
			}
			continue
		}
		if limit, err = a.add(params["filename"], part, limit); err != nil {
			return err
		}
	}
	return errTooManyFiles() // also of parts that are passed over: each takes as long to read
}

// addField takes a field of a form, of a long one the start: that is longer than
// whatever asks for it accepts.
func (a *archive) addField(name string, content io.Reader) error {
	text, err := io.ReadAll(io.LimitReader(content, maxFormField))
	if err == nil && len(a.fields) < maxFormFields {
		a.fields[name] = strings.ToValidUTF8(string(text), "\ufffd")
	}
	return err
}

const (
	maxFormField  = 4 << 10 // bytes
	maxFormFields = 16
)

func (a *archive) readTar(body io.Reader, limit int64) error {
	buffered := bufio.NewReader(body)
	var stream io.Reader = buffered
	if magic, _ := buffered.Peek(2); bytes.Equal(magic, []byte{0x1f, 0x8b}) {
		unzipped, err := gzip.NewReader(buffered)
		if err != nil {
			return err
		}
		stream = unzipped
	}
	capped := &cappedReader{Reader: stream, left: limit}
	entries := tar.NewReader(capped)
	for {
		entry, err := entries.Next()
		if errors.Is(err, io.EOF) && capped.ended {
			return io.ErrUnexpectedEOF // tar.Reader does without the two blocks that end a whole archive
		}
		if errors.Is(err, io.EOF) {
			return nil
		}
		if err != nil {
			return err
		}
		switch entry.Typeflag {
		case tar.TypeReg:
			limit, err = a.add(entry.Name, entries, limit)
		case tar.TypeDir, tar.TypeXGlobalHeader:
		default: // a link, which is never followed, or the like
			limit, err = a.add(entry.Name, nil, limit)
		}
		if err != nil {
			return err
		}
	}
}

// cappedReader fails once more than left bytes are read, and notes when
// somebody wants to read on behind the end.
type cappedReader struct {
	io.Reader
	left  int64
	ended bool
}

func (c *cappedReader) Read(p []byte) (int, error) {
	n, err := c.Reader.Read(p)
	if c.left -= int64(n); c.left < 0 {
		return 0, errArchiveTooLarge
	}
	c.ended = c.ended || n == 0 && errors.Is(err, io.EOF)
	return n, err
}

// add takes one file, or names it as skipped, and returns how many bytes are
// left of the limit. content is nil for what is no regular file.
func (a *archive) add(name string, content io.Reader, limit int64) (left int64, err error) {
	if len(a.files)+len(a.skipped) >= specfile.MaxFiles {
		return 0, errTooManyFiles()
	}
	name = cleanName(name)
	if content == nil || len(name) > specfile.MaxPath || specfile.Skips(name) {
		name = strings.ToValidUTF8(name[:min(len(name), specfile.MaxPath)], "")
		a.skipped, a.passedOver = append(a.skipped, name), append(a.passedOver, name)
		return limit, nil
	}
	most := int64(maxSpecBody)
	if specfile.IsTracker(name) {
		most = limit
	}
	text, err := io.ReadAll(io.LimitReader(content, min(limit, most)+1))
	if err != nil {
		return 0, err
	}
	if int64(len(text)) > limit {
		return 0, errArchiveTooLarge
	}
	if why := unreadable(text, most); why != nil {
		a.skipped = append(a.skipped, name)
		why.File = name
		a.warnings = append(a.warnings, *why)
		return limit - int64(len(text)), nil
	}
	file := specfile.Source{Path: name, Text: string(text)}
	if at, twice := a.at[name]; twice {
		a.files[at] = file // as tar unpacks it
		a.warnings = append(a.warnings, specfile.Warning{File: name, Code: "duplicate_path",
			Message: "The file is in the archive twice; the last one counts."})
		return limit - int64(len(text)), nil
	}
	a.at[name] = len(a.files)
	a.files = append(a.files, file)
	return limit - int64(len(text)), nil
}

// cleanName makes a file's name a path below the archive's root, in valid UTF-8 and
// without control characters, which neither the database nor a terminal can show.
func cleanName(name string) string {
	name = strings.Map(func(r rune) rune {
		switch {
		case r == '\\':
			return '/'
		case unicode.IsControl(r):
			return utf8.RuneError
		}
		return r // also RuneError for a byte that isn't UTF-8
	}, name)
	return strings.TrimPrefix(path.Clean("/"+name), "/")
}

// unreadable says why a file can't be taken, or nil.
func unreadable(text []byte, most int64) *specfile.Warning {
	switch {
	case int64(len(text)) > most:
		return &specfile.Warning{Code: "file_too_large", Message: "The file is skipped: a spec can have 256 KiB."}
	case bytes.HasPrefix(text, []byte{0xff, 0xfe}), bytes.HasPrefix(text, []byte{0xfe, 0xff}):
		return &specfile.Warning{Code: "not_utf8", Message: "The file is skipped: it is in UTF-16. Save it as UTF-8."}
	case !utf8.Valid(text):
		return &specfile.Warning{Code: "not_utf8", Message: "The file is skipped: it isn't UTF-8. Save it as UTF-8."}
	case bytes.IndexByte(text, 0) >= 0:
		return &specfile.Warning{Code: "contains_nul", Message: "The file is skipped: it contains NUL bytes."}
	}
	return nil
}

// whyEmpty is a 422 that says why no file can be taken.
func (a *archive) whyEmpty() error {
	var why violations
	for _, w := range a.warnings {
		why.add(w.File, w.Code, w.Message)
	}
	switch n := len(a.passedOver); {
	case len(a.warnings) > 0:
	case n > 0:
		why.add("files", "required", "has no spec file in it; files passed over for their names: %d, such as %s", n,
			strings.Join(a.passedOver[:min(n, maxWarningPlaces)], ", "))
	default:
		why.add("files", "required", "has no Markdown file in it")
	}
	return why.err()
}

// exportPage is how many specs an export reads at a time, and holds until its
// client has read them. So only some exports run at a time.
const (
	exportPage       = 32
	maxExports       = 16
	maxExportsOfEach = 4 // account
)

// exportSpecs is GET /api/v1/missions/{id}/export: a tar of the spec files, in
// pages, so that a slow client holds no connection to the database.
func (s *Server) exportSpecs(w http.ResponseWriter, r *http.Request, c *call) error {
	a, id := c.account, c.target.mission
	if _, err := readMission(r.Context(), s.db, a, id); err != nil {
		return err
	}
	if !s.exports.Take(a.userID, 1, maxExports, maxExportsOfEach) {
		return problem(http.StatusServiceUnavailable, "busy", "Too many exports are running. Try again soon.").
			withHeader("Retry-After", "5")
	}
	defer s.exports.Give(a.userID, 1)
	files, err := s.exportFiles(r.Context(), a, id, serverStream)
	if err != nil {
		return err
	}
	w.Header().Set("Content-Type", "application/x-tar")
	w.Header().Set("Content-Disposition", `attachment; filename="mission-`+id+`.tar"`)
	control := http.NewResponseController(w)
	out := tar.NewWriter(w)
	for len(files) > 0 {
		_ = control.SetWriteDeadline(time.Now().Add(s.config.RequestTimeout)) // a recorder in a test has none
		for _, f := range files {
			if err := f.write(out); err != nil {
				c.abort(err)
			}
		}
		if files, err = s.exportFiles(r.Context(), a, id, files[len(files)-1].id); err != nil {
			c.abort(err)
		}
	}
	// The last page is empty also for who may not read the mission any more.
	if _, err := readMission(r.Context(), s.db, a, id); err != nil {
		c.abort(err)
	}
	if err := out.Close(); err != nil {
		c.abort(err)
	}
	return nil
}

// abort ends an answer of which a part is sent already, so that no client
// takes it for the whole.
func (c *call) abort(err error) {
	c.cause = err
	panic(http.ErrAbortHandler)
}

// exportFile is one file of an export.
type exportFile struct {
	id, path, text string
	at             time.Time
}

func (f exportFile) write(out *tar.Writer) error {
	header := &tar.Header{Name: f.path, Mode: 0o644, Size: int64(len(f.text)), ModTime: f.at.Truncate(time.Second),
		Typeflag: tar.TypeReg}
	if err := out.WriteHeader(header); err != nil {
		return err
	}
	_, err := io.WriteString(out, f.text)
	return err
}

// exportFiles reads the next page of a mission's files, as they stand, after
// the spec with the id after.
func (s *Server) exportFiles(ctx context.Context, a account, missionID, after string) ([]exportFile, error) {
	rows, err := s.db.Query(ctx, `
		SELECT s.id, coalesce(s.path, s.key || CASE WHEN EXISTS (SELECT FROM specs o WHERE o.mission_id = s.mission_id
		       AND o.path = s.key || '.md') THEN '-' || s.id ELSE '' END || '.md'),
		       h.updated_at, s.body, s.rules, h.done, h.status, s.derived_status `+specsSQL+`
		AND s.mission_id = $3 AND s.id > $4 ORDER BY s.id LIMIT $5`, a.userID, a.admin(), missionID, after, exportPage)
	if err != nil {
		return nil, fmt.Errorf("reading files: %w", err)
	}
	files, err := pgx.CollectRows(rows, func(row pgx.CollectableRow) (f exportFile, err error) {
		var body, status, derived string
		var done []bool
		var rules specfile.Rules
		err = row.Scan(&f.id, &f.path, &f.at, &body, &rules, &done, &status, &derived)
		f.text = specfile.Render(body, rules, done, status, derived)
		return f, err
	})
	if err != nil {
		return nil, fmt.Errorf("reading files: %w", err)
	}
	return files, nil
}
