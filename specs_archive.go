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
	"net/http"
	"path"
	"strings"
	"time"
	"unicode/utf8"

	"github.com/jackc/pgx/v5"

	"tachikoma/internal/specfile"
)

const (
	maxImportFiles = 20_000
	maxImportPath  = 1024 // bytes
)

// specSource is a spec file as it came in.
type specSource struct{ path, text string }

// archive is what an import sent: spec files, and the paths of what it passes
// over.
type archive struct {
	files   []specSource
	skipped []string
}

// readArchive reads a whole import: multipart/form-data with many files, or a
// tar stream, also gzipped, told by its first bytes. limit bounds it in bytes,
// before and after decompression.
func readArchive(r *http.Request, limit int64) (*archive, error) {
	if coding := r.Header.Get("Content-Encoding"); coding != "" && !strings.EqualFold(coding, "identity") {
		return nil, problem(http.StatusUnsupportedMediaType, "unsupported_media_type", "Send the archive without a Content-Encoding: a .tar.gz is recognised by itself.")
	}
	var a archive
	mediaType, params, _ := mime.ParseMediaType(r.Header.Get("Content-Type"))
	var err error
	if mediaType == "multipart/form-data" {
		err = a.readMultipart(multipart.NewReader(r.Body, params["boundary"]), limit)
	} else {
		err = a.readTar(r.Body, limit)
	}
	if err != nil {
		return nil, archiveProblem(err)
	}
	return &a, nil
}

// errArchiveTooLarge is found while unpacking; before that, it is MaxBytesReader's.
var errArchiveTooLarge = errors.New("the archive unpacks to more than MAX_IMPORT_BYTES")

// archiveProblem tells a client what is wrong with its archive.
func archiveProblem(err error) error {
	if e, ok := errors.AsType[*apiError](err); ok {
		return e
	}
	if _, tooLarge := errors.AsType[*http.MaxBytesError](err); tooLarge || errors.Is(err, errArchiveTooLarge) {
		return problem(http.StatusRequestEntityTooLarge, "body_too_large", "The import is larger than MAX_IMPORT_BYTES allows, as sent or unpacked.").because(err)
	}
	return problem(http.StatusBadRequest, "malformed_archive",
		"Send multipart/form-data with files, or a tar stream, which may be gzipped: tar c specs | curl --data-binary @- …").because(err)
}

func (a *archive) readMultipart(parts *multipart.Reader, limit int64) error {
	for {
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
			continue
		}
		if limit, err = a.add(params["filename"], part, limit); err != nil {
			return err
		}
	}
}

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
	if len(a.files)+len(a.skipped) >= maxImportFiles {
		return 0, problem(http.StatusRequestEntityTooLarge, "too_many_files", "An import has at most %d files.", maxImportFiles)
	}
	name = strings.TrimPrefix(path.Clean("/"+strings.ToValidUTF8(strings.ReplaceAll(name, `\`, "/"), "\uFFFD")), "/")
	if content == nil || len(name) > maxImportPath || strings.ContainsRune(name, 0) || specfile.Skips(name) {
		a.skipped = append(a.skipped, strings.ToValidUTF8(name[:min(len(name), maxImportPath)], ""))
		return limit, nil
	}
	text, err := io.ReadAll(io.LimitReader(content, min(limit, maxSpecBody)+1))
	switch {
	case err != nil:
		return 0, err
	case int64(len(text)) > limit:
		return 0, errArchiveTooLarge
	case len(text) > maxSpecBody:
		return 0, invalidField(name, "too_long", "must have at most 256 KiB")
	case !utf8.Valid(text) || bytes.IndexByte(text, 0) >= 0:
		a.skipped = append(a.skipped, name)
	default:
		a.files = append(a.files, specSource{name, string(text)})
	}
	return limit - int64(len(text)), nil
}

// exportPage is how many specs an export reads at a time.
const exportPage = 100

// exportSpecs is GET /api/v1/missions/{id}/export: a tar of the spec files, in
// pages, so that a slow client holds no connection to the database.
func (s *Server) exportSpecs(w http.ResponseWriter, r *http.Request, c *call) error {
	a, id := c.account, c.target.mission
	if _, err := readMission(r.Context(), s.db, a, id); err != nil {
		return err
	}
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
	header := &tar.Header{Name: f.path, Mode: 0o644, Size: int64(len(f.text)), ModTime: f.at.Truncate(time.Second), Typeflag: tar.TypeReg}
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
		SELECT s.id, coalesce(s.path, s.key || '.md'), h.updated_at, s.body, h.done, h.status, s.derived_status `+specsSQL+`
		AND s.mission_id = $3 AND s.id > $4 ORDER BY s.id LIMIT $5`, a.userID, a.admin(), missionID, after, exportPage)
	if err != nil {
		return nil, fmt.Errorf("reading files: %w", err)
	}
	files, err := pgx.CollectRows(rows, func(row pgx.CollectableRow) (f exportFile, err error) {
		var body, status, derived string
		var done []bool
		err = row.Scan(&f.id, &f.path, &f.at, &body, &done, &status, &derived)
		f.text = specfile.Render(body, done, status, derived)
		return f, err
	})
	if err != nil {
		return nil, fmt.Errorf("reading files: %w", err)
	}
	return files, nil
}
