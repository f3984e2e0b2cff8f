package main

import (
	"cmp"
	"context"
	"crypto/tls"
	"encoding/json"
	"errors"
	"fmt"
	"io"
	"io/fs"
	"maps"
	"net"
	"net/http"
	"slices"
	"strconv"
	"strings"

	"github.com/jackc/pgx/v5"
	"github.com/jackc/pgx/v5/pgconn"

	"tachikoma/internal/argon2id"
)

// apiError is the one error type that reaches a client. Handlers return it,
// asProblem finds it, and writeProblem writes it as an RFC 9457 problem.
// Everything public is in status, code, detail, fields and extra; the cause goes
// to the log and nowhere else.
type apiError struct {
	status int
	code   string         // stable, snake_case; clients branch on it
	detail string         // a sentence a client can act on
	fields []fieldError   // every problem of a 422
	extra  map[string]any // RFC 9457 extension members
	header http.Header    // Retry-After, Allow and the like
	cause  error
}

// fieldError is one problem of a 422: which field, a stable code, and what to do.
type fieldError struct {
	Field   string `json:"field"`
	Code    string `json:"code"`
	Message string `json:"message"`
}

func (e *apiError) Error() string {
	text := e.code
	if e.detail != "" {
		text += ": " + e.detail
	}
	for _, f := range e.fields {
		text += "; " + f.Field + " " + f.Message
	}
	if e.cause != nil {
		text += ": " + e.cause.Error()
	}
	return text
}

func (e *apiError) Unwrap() error { return e.cause }

// problem returns an apiError whose detail is formatted like fmt.Sprintf.
func problem(status int, code, detail string, args ...any) *apiError {
	if len(args) > 0 {
		detail = fmt.Sprintf(detail, args...)
	}
	return &apiError{status: status, code: code, detail: detail}
}

// with adds an extension member, which clients see beside the detail. Its name
// must not be one that every problem has (RFC 9457, 3.1 and 3.2).
func (e *apiError) with(name string, value any) *apiError {
	if e.extra == nil {
		e.extra = make(map[string]any)
	}
	e.extra[name] = value
	return e
}

// withHeader adds a response header.
func (e *apiError) withHeader(name, value string) *apiError {
	if e.header == nil {
		e.header = make(http.Header)
	}
	e.header.Set(name, value)
	return e
}

// because records the private cause.
func (e *apiError) because(err error) *apiError {
	e.cause = err
	return e
}

// violations gathers the problems of one request, so that a client sees all
// of them at once. The zero value is ready to use.
type violations struct{ fields []fieldError }

// add adds a problem, unless there are maxProblems already. The message is
// formatted like fmt.Sprintf.
func (v *violations) add(field, code, message string, args ...any) {
	if len(v.fields) == maxProblems {
		return
	}
	if len(args) > 0 {
		message = fmt.Sprintf(message, args...)
	}
	v.fields = append(v.fields, fieldError{field, code, message})
}

// err returns nil, or a 422 that carries every problem added.
func (v *violations) err() error {
	if len(v.fields) == 0 {
		return nil
	}
	return &apiError{
		status: http.StatusUnprocessableEntity,
		code:   "validation_failed",
		detail: "Some values can't be accepted; see errors.",
		fields: v.fields,
	}
}

// invalidField is a 422 with a single problem.
func invalidField(field, code, message string, args ...any) error {
	var v violations
	v.add(field, code, message, args...)
	return v.err()
}

// errNotFound is the error for what doesn't exist and for what the caller may
// not see: the two can't be told apart.
func errNotFound() *apiError {
	return problem(http.StatusNotFound, "not_found", "Not found, or not visible to you.")
}

func errForbidden(detail string) *apiError {
	return problem(http.StatusForbidden, "forbidden", detail)
}

// notFoundOr turns the error of a query for one row into a 404 where there is
// no row; nil stays nil.
func notFoundOr(err error, doing string) error {
	switch {
	case err == nil:
		return nil
	case errors.Is(err, pgx.ErrNoRows):
		return errNotFound()
	}
	return fmt.Errorf("%s: %w", doing, err)
}

// asProblem turns any error into what the client is told. An unexpected error is
// a bare 500, and a database that can't do its work is a 503.
func asProblem(err error) *apiError {
	if e, ok := errors.AsType[*apiError](err); ok {
		return e
	}
	if errors.Is(err, argon2id.ErrBusy) {
		return problem(http.StatusServiceUnavailable, "busy",
			"Too many people are signing in right now. Try again in a moment.").withHeader("Retry-After", "1").because(err)
	}
	if t := writeTrouble(err); t != noTrouble {
		return t.problem().because(err)
	}
	if databaseGone(err) {
		return unreachable.problem().because(err)
	}
	state := sqlState(err)
	if errors.Is(err, context.DeadlineExceeded) {
		state = "57014"
	}
	switch state {
	case "57014", "25P03": // query_canceled by a timeout, idle_in_transaction_session_timeout
		return problem(http.StatusServiceUnavailable, "timeout",
			"This took longer than the server allows.").withHeader("Retry-After", "1").because(err)
	case "54000": // program_limit_exceeded: a text that can't be indexed
		return problem(http.StatusUnprocessableEntity, "too_complex",
			"The text is too large for the search index.").because(err)
	case "55P03", "40001", "40P01": // lock_not_available, serialization_failure, deadlock_detected
		return problem(http.StatusServiceUnavailable, "busy",
			"Other requests are changing the same data. Try again.").withHeader("Retry-After", "1").because(err)
	}
	return errInternal().because(err)
}

func errInternal() *apiError {
	return problem(http.StatusInternalServerError, "internal_error",
		"Something went wrong on the server. The request id helps to find it in the log.")
}

// dbTrouble is what keeps the database from its work.
type dbTrouble int32

const (
	noTrouble   dbTrouble = iota
	unreachable           // or it doesn't answer
	readOnly              // a standby after a failover, or configured so: only writes are refused
	diskFull              // likewise
)

// code is what clients are told, and "" for noTrouble.
func (t dbTrouble) code() string {
	return [...]string{"", "database_unavailable", "database_read_only", "database_full"}[t]
}

// problem is the error of a request that can't be served because of this trouble.
func (t dbTrouble) problem() *apiError {
	detail := [...]string{unreachable: "The database can't serve this right now. Try again in a moment.",
		readOnly: "The database accepts no changes right now, but can be read. Try again in a moment.",
		diskFull: "The database has no space for changes right now, but can be read. Try again later."}[t]
	return problem(http.StatusServiceUnavailable, t.code(), "%s", detail).withHeader("Retry-After", "1")
}

// writeTrouble is what the error of one statement means for all writes.
func writeTrouble(err error) dbTrouble {
	switch sqlState(err) {
	case "25006": // read_only_sql_transaction
		return readOnly
	case "53100": // disk_full
		return diskFull
	}
	return noTrouble
}

// passing returns the trouble behind err if it is worth waiting for it to pass,
// and noTrouble if not, as with a wrong password or a certificate that isn't
// trusted.
func passing(err error) dbTrouble {
	if t := writeTrouble(err); t != noTrouble {
		return t
	}
	_, alert := errors.AsType[tls.AlertError](err) // such as that a client certificate is needed
	switch {
	case errors.Is(err, pgconn.ErrReadOnlyConnection):
		return readOnly
	case err == nil || alert || errors.Is(err, fs.ErrPermission),
		sqlState(err) == "" && !networkFailed(err) || sqlState(err) != "" && !databaseGone(err):
		return noTrouble
	}
	return unreachable
}

// advise adds what an operator can do about it to an error that passing knows.
func advise(err error) error {
	advice := [...]string{unreachable: "the database can't be reached: start it, or correct DATABASE_URL",
		readOnly: "the database is read-only: connect to the primary (of several hosts, target_session_attrs=read-write in " +
			"DATABASE_URL finds it), or run ALTER DATABASE … RESET default_transaction_read_only",
		diskFull: "the database's disk is full: free some space on it"}[passing(err)]
	if advice == "" {
		return err
	}
	return fmt.Errorf("%s: %w", advice, err)
}

// databaseGone reports whether err means that the database, or the way to it,
// is lost or full, rather than that it refused a statement.
func databaseGone(err error) bool {
	switch state := sqlState(err); {
	case strings.HasPrefix(state, "08"), // connection exceptions
		strings.HasPrefix(state, "57P"), // shutdown, crash, starting up
		strings.HasPrefix(state, "53"):  // out of connections, memory, disk
		return true
	case state != "":
		return false
	}
	_, connecting := errors.AsType[*pgconn.ConnectError](err)
	if connecting || pgconn.Timeout(err) || errors.Is(err, errNoConnection) {
		return true
	}
	ours := errors.Is(err, context.DeadlineExceeded) // the request ran out of time, but not because of the database
	return !ours && networkFailed(err) || pgconn.SafeToRetry(err)
}

func networkFailed(err error) bool {
	_, network := errors.AsType[net.Error](err)
	return network || errors.Is(err, context.DeadlineExceeded) ||
		errors.Is(err, io.EOF) || errors.Is(err, io.ErrUnexpectedEOF) || errors.Is(err, net.ErrClosed)
}

// sqlState is the SQLSTATE of a PostgreSQL error, or "" for any other error.
// https://www.postgresql.org/docs/current/errcodes-appendix.html
func sqlState(err error) string {
	if e, ok := errors.AsType[*pgconn.PgError](err); ok {
		return e.Code
	}
	return ""
}

// violated returns the name of the constraint that err breaks, or "".
func violated(err error) string {
	if e, ok := errors.AsType[*pgconn.PgError](err); ok && strings.HasPrefix(e.Code, "23") {
		return e.ConstraintName
	}
	return ""
}

// writeProblem is the one place that writes an error to a client.
func writeProblem(w http.ResponseWriter, r *http.Request, c *call, e *apiError) {
	if c.traits&isPage != 0 || c.pattern == "" && wantsPage(r) {
		writeProblemPage(w, r, c, e)
		return
	}
	body := map[string]any{
		"type":       "about:blank",
		"title":      http.StatusText(e.status),
		"status":     e.status,
		"detail":     e.detail,
		"code":       e.code,
		"request_id": c.requestID,
	}
	if len(e.fields) > 0 {
		body["errors"] = e.fields
	}
	for name, value := range e.extra {
		body[name] = value
	}
	encoded, err := json.Marshal(body)
	if err != nil {
		c.cause = fmt.Errorf("encoding the problem %s: %w", e.code, err)
		encoded = []byte(`{"type":"about:blank","title":"Internal Server Error","status":500,"code":"internal_error"}`)
		e = &apiError{status: http.StatusInternalServerError}
	}
	maps.Copy(w.Header(), e.header)
	if e.status == http.StatusUnauthorized && w.Header().Get("WWW-Authenticate") == "" {
		w.Header().Set("WWW-Authenticate", `Bearer realm="tachikoma"`)
	}
	c.mustSend = true
	_ = writeBytes(w, r, c, e.status, "application/problem+json", encoded) // mustSend: it isn't refused
}

// pageLabels are what forms call the fields of their requests.
var pageLabels = map[string]string{
	"answer": "Answer", "body": "Text", "current_password": "Current password", "dependencies": "Depends on",
	"description": "Description", "disabled": "Log-in", "email": "E-mail", "expires_at": "Lifetime",
	"files": "A folder of specs", "form": "This form", "Idempotency-Key": "This form", keyField: "This form", "key": "Key",
	"max_in_review": "Limit of specs in review", "name": "Name", "new_password": "New password", "notes": "Note",
	"number": "Number", "override": "Why criteria stay open", "owner_id": "Owner", "password": "Password",
	"phase": "Phase", "priority": "Priority", "review": "Review", "role": "Role", "scope": "Access",
	"setup_token": "Setup token", "tags": "Tags", "title": "Title", "triage": "New work that agents find",
}

// pageTexts are what pages say, by code, where the API speaks of JSON or HTTP.
var pageTexts = map[string]string{
	"validation_failed":    "Some values can't be accepted.",
	"criteria_unmet":       "Its acceptance criteria aren't all checked: say why they stay open.",
	"setup_token_required": "The first account needs the setup token that the server printed when it started.",
	"idempotency_conflict": "This is still being saved. Try again in a moment.",
	"outcome_unknown": "The connection to the database was lost while this was being saved: it may or may not have been " +
		"saved. Check that before you try again.",
	"is_owner": "belongs to the owner",
	"reused":   "was already sent, with other values: check what was saved, and load the page again",
	"wrong":    "is wrong",
}

// labelOf is what pages call a field, and of a list which entry of it.
func labelOf(field string) string {
	name, entry, _ := strings.Cut(strings.TrimSuffix(field, "]"), "[")
	label := cmp.Or(pageLabels[name], strings.ReplaceAll(name, "_", " "))
	if i, err := strconv.Atoi(entry); err == nil {
		label += fmt.Sprintf(", entry %d", i+1)
	}
	return label
}

// Detail is what a page says of a problem.
func (e *apiError) Detail() string { return cmp.Or(pageTexts[e.code], e.detail) }

// Fields are its fields, by their labels.
func (e *apiError) Fields() []fieldError {
	fields := slices.Clone(e.fields)
	for i, f := range fields {
		fields[i].Field, fields[i].Message = labelOf(f.Field), cmp.Or(pageTexts[f.Code], f.Message)
	}
	return fields
}

// Status is its status.
func (e *apiError) Status() int { return e.status }
