package main

// The pages for people. Each is a line of pageRoutes, with its permission, reads
// through the functions of the API, and is written by a template of web/. A form
// of a page does what a route of the API does, in the same way.
// See docs/design.md, Pages.

import (
	"bytes"
	"cmp"
	"context"
	"crypto/sha256"
	"embed"
	"encoding/base64"
	"errors"
	"fmt"
	"html/template"
	"io"
	"io/fs"
	"maps"
	"mime"
	"net/http"
	"net/url"
	"path"
	"reflect"
	"slices"
	"strings"
	"sync"
	"unicode/utf8"
)

// pagePolicy lets nothing into a page but what this server sends.
const pagePolicy = "default-src 'none'; script-src 'self'; style-src 'self'; img-src 'self' data:; " +
	"connect-src 'self'; form-action 'self'; base-uri 'none'; frame-ancestors 'none'"

// forFiles is for what pages are made of, which they need also while the server starts.
var forFiles = permission{name: "public", unlimited: true}

// pageRoutes adds the pages to the route table.
func (s *Server) pageRoutes() {
	s.page(forFiles, "GET /assets/{name}", withoutQuery(getAsset))

	s.page(forAnyone, "GET /login", s.servePage(s.loginPage))
	s.page(forGuests, "POST /login", serveForm(s, s.loginPage, s.logInPage, s.entered), holdsSecrets)
	s.page(forAnyone, "GET /register", s.servePage(s.registerPage))
	s.page(forGuests, "POST /register", serveForm(s, s.registerPage, s.registerOnPage, s.entered), holdsSecrets)
	s.page(forSessions, "POST /logout", serveForm(s, nil, inOneTx(s, s.logout), s.left), holdsSecrets)

	s.page(forSessions, "GET /{$}", s.servePage(s.missionsPage))
	s.page(forSessions, "GET /needs-you", s.servePage(s.needsYouPage))
	s.page(forSessions, "GET /stream", s.listOwnEvents, mayStream)
	s.page(mayCreate, "POST /missions", serveForm(s, s.missionsPage, inOneTx(s, s.createMission), madeMission))
	s.page(mayCreate, "POST /missions/import", s.importFolder, movesBulk)
	s.page(mayEdit, "POST /missions/{id}/import", s.importFolder, movesBulk)
	s.page(mayRead, "GET /missions/{id}/imported/{report}", s.servePage(s.importedPage))
	s.page(mayRead, "GET /missions/{id}", s.servePage(s.boardPage))
	s.page(mayRead, "GET /missions/{id}/stream", s.listMissionEvents, mayStream)
	s.page(mayRead, "GET /missions/{id}/graph", s.servePage(s.graphPage))
	s.page(mayRead, "GET /missions/{id}/activity", s.servePage(s.activityPage))
	for _, action := range slices.Sorted(maps.Keys(missionActions)) {
		s.page(mayEdit, "POST /missions/{id}/"+action,
			serveForm(s, s.boardPage, inOneTx(s, stepMission(action)), toBoard[missionView]))
	}
	s.page(mayRead, "GET /missions/{id}/settings", s.servePage(s.settingsPage))
	s.page(mayEdit, "POST /missions/{id}/settings",
		serveForm(s, s.settingsPage, inOneTx(s, s.updateMission), saved(s, toSettings[missionView])))
	s.page(mayOwn, "POST /missions/{id}/delete", serveForm(s, s.settingsPage, inOneTx(s, s.deleteMission), toMissions))
	s.page(mayOwn, "POST /missions/{id}/members",
		serveForm(s, s.settingsPage, inOneTx(s, s.setMember), toSettings[memberView]))
	s.page(mayOwn, "POST /missions/{id}/members/{user_id}/remove",
		serveForm(s, s.settingsPage, inOneTx(s, s.removeMember), toSettings[nothing]))

	s.page(mayRead, "GET /missions/{id}/specs/{key}", s.servePage(s.specPageOf("spec")))
	s.page(mayEdit, "GET /missions/{id}/specs/{key}/edit", s.servePage(s.specPageOf("edit")))
	s.page(mayEdit, "POST /missions/{id}/specs/{key}/edit",
		serveForm(s, s.specPageOf("edit"), inOneTx(s, s.updateSpec), toSpec))
	s.page(mayEdit, "POST /missions/{id}/specs/{key}/status",
		serveForm(s, s.specPageOf("spec"), inOneTx(s, s.setStatus), toSpec))
	s.page(mayReview, "POST /missions/{id}/specs/{key}/review",
		serveForm(s, s.specPageOf("spec"), inOneTx(s, s.reviewSpec), toSpec))
	s.page(mayAnswer, "POST /questions/{id}/answer",
		serveForm(s, s.needsYouPage, inOneTx(s, s.answerQuestion), toNeedsYou))
	s.page(mayEdit, "POST /missions/{id}/specs/{key}/delete",
		serveForm(s, s.specPageOf("spec"), inOneTx(s, s.deleteSpec), toBoard[nothing]))
	s.page(mayEdit, "GET /missions/{id}/new", s.servePage(s.newSpecPage))
	s.page(mayEdit, "POST /missions/{id}/specs", serveForm(s, s.newSpecPage, inOneTx(s, s.createSpec), toSpec))

	s.accountRoutes()
}

// page adds a page, or what a form of one does. What it answers is kept under
// the form's key, unless it holds secrets.
func (s *Server) page(p permission, pattern string, h handler, traits ...trait) {
	rt := route{pattern: pattern, permission: p, answer: h, traits: isPage}
	for _, t := range traits {
		rt.traits |= t
	}
	if strings.HasPrefix(pattern, "POST ") && rt.traits&holdsSecrets == 0 {
		rt.traits |= takesKey
	}
	s.register(s.mux, rt)
}

//go:embed web
var webFiles embed.FS

// site is what web/ holds, ready to be used.
type site struct {
	pages  map[string]*template.Template // by the name of the file, without .html
	assets map[string]asset              // by their names in paths
}

// theSite is made once per process, since tests start many servers.
var theSite = sync.OnceValue(func() site {
	made := site{make(map[string]*template.Template), make(map[string]asset)}
	paths := make(map[string]string) // of an asset, by its file's name
	for name, contentType := range map[string]string{"style.css": "text/css; charset=utf-8",
		"app.js": "text/javascript; charset=utf-8", "icon.svg": "image/svg+xml"} {
		content := webFile(name)
		sum := sha256.Sum256(content)
		stem, extension, _ := strings.Cut(name, ".")
		hashed := stem + "." + base64.RawURLEncoding.EncodeToString(sum[:9]) + "." + extension
		made.assets[hashed], paths[name] = newAsset(content, contentType), "/assets/"+hashed
	}
	functions := pageFunctions()
	functions["asset"] = func(name string) string { return paths[name] }
	layout := template.Must(template.New("").Funcs(functions).ParseFS(webFiles, "web/shared/*.html"))
	files, _ := fs.Glob(webFiles, "web/*.html") // the pattern is valid
	for _, file := range files {
		own := template.Must(template.Must(layout.Clone()).ParseFS(webFiles, file))
		made.pages[strings.TrimSuffix(path.Base(file), ".html")] = own
	}
	return made
})

func webFile(name string) []byte {
	content, err := webFiles.ReadFile("web/" + name)
	if err != nil {
		panic(err) // it is embedded
	}
	return content
}

// getAsset is GET /assets/{name}. A name has the hash of the content, so browsers
// may cache it for ever.
func getAsset(w http.ResponseWriter, r *http.Request, c *call) error {
	a, ok := theSite().assets[r.PathValue("name")]
	if !ok {
		return errNotFound()
	}
	w.Header().Set("Cache-Control", "public, max-age=31536000, immutable")
	return writeBytes(w, r, c, http.StatusOK, a.contentType, a.body)
}

// pageView is a page to be written.
type pageView struct {
	Name    string // of its template
	Title   string
	Mission *missionView // that it is about; nil for none
	Follow  string       // the path of the stream that says when it is out of date; "" for none
	Polls   bool         // that stream doesn't say it all, so it is asked for again and again
	After   int64        // the newest event of that stream when it was read
	Spec    *specPage    // that it shows; nil for none
	Data    any

	elsewhere string // the path that has what was asked for; "" where it is here

	head eventsView // of the mission's stream

	// The adapters set what follows; missionPage sets Account too, for MayEdit.
	Saved   bool       // what a form of it sent was saved
	Here    string     // its own address; of a form that was refused, where that leads back to
	Account account    // that it is shown to; the zero one for nobody
	Problem *apiError  // what a form of it was refused for; nil for nothing
	Form    url.Values // what that form held
	request *call
}

// SignedIn and the others report what a page may offer.
func (v *pageView) SignedIn() bool { return v.Account.userID != "" }
func (v *pageView) Admin() bool    { return v.Account.admin() }
func (v *pageView) MayMake() bool  { return v.Account.role >= roleUser }
func (v *pageView) MayEdit() bool {
	return v.Mission != nil && v.MayMake() && v.Mission.MyRole != accessReader.String()
}

// Value is what a field of a form shows: what it held when it was refused, or else
// what is stored.
func (v *pageView) Value(field string, stored any) string {
	if v.Form.Has(field) {
		return v.Form.Get(field)
	}
	return fmt.Sprint(stored)
}

// RequestID is what an operator finds the log lines of a problem by.
func (v *pageView) RequestID() string { return v.request.requestID }

// pageFunc reads what a page shows.
type pageFunc func(ctx context.Context, c *call, q *query) (*pageView, error)

// servePage adapts a page.
func (s *Server) servePage(read pageFunc) handler {
	return func(w http.ResponseWriter, r *http.Request, c *call) error {
		if err := s.nameSpec(r, c); err != nil {
			return err
		}
		q := newQuery(r)
		maps.DeleteFunc(q.values, func(_, value string) bool { return value == "" }) // a field of a form, left empty
		v, err := read(r.Context(), c, q)
		if err != nil {
			return err
		}
		if v.elsewhere != "" {
			seeOther(w, v.elsewhere)
			return nil
		}
		v.Here, v.Saved = r.URL.RequestURI(), s.takeSaved(w, r)
		return v.write(w, r, c, http.StatusOK)
	}
}

// write sends the page. Nothing is sent if it can't be made.
func (v *pageView) write(w http.ResponseWriter, r *http.Request, c *call, status int) error {
	v.Account, v.request = c.account, c
	var b bytes.Buffer
	if err := theSite().pages[v.Name].ExecuteTemplate(&b, "page", v); err != nil {
		return fmt.Errorf("writing the page %s: %w", v.Name, err)
	}
	w.Header().Set("Content-Security-Policy", pagePolicy)
	w.Header().Set("Referrer-Policy", "same-origin")
	return writeBytes(w, r, c, status, "text/html; charset=utf-8", b.Bytes())
}

func seeOther(w http.ResponseWriter, to string) {
	w.Header().Set("Location", to)
	w.WriteHeader(http.StatusSeeOther)
}

// nameSpec adds the spec to the target of a call whose path has its mission and key.
func (s *Server) nameSpec(r *http.Request, c *call) (err error) {
	if key := r.PathValue("key"); key != "" {
		c.target.spec, err = s.specByKey(r.Context(), c.account, c.target.mission, key)
	}
	return err
}

// formFields are fields that every form may have beside its own: the version
// that it was made for, its key, and the page that it leads back to.
const (
	versionField = "if_match"
	keyField     = "idempotency_key"
	backField    = "back"
)

// serveForm adapts what a form of a page does: do, with the request that the API
// has for it, and then lead to another page. Where it is refused, again is shown
// with the reason and with what the form held; nil is a page of its own.
func serveForm[T any, In checkedRequest[T], Out any](s *Server, again pageFunc,
	do func(ctx context.Context, c *call, in In) (*Out, error),
	to func(w http.ResponseWriter, r *http.Request, out *Out) string) handler {
	return doForm(s, again, do, func(w http.ResponseWriter, r *http.Request, _ *call, back string, out *Out) error {
		seeOther(w, cmp.Or(back, to(w, r, out)))
		return nil
	})
}

// serveShown is serveForm for what makes a secret: it is shown once, in the response.
func serveShown[T any, In checkedRequest[T], Out any](s *Server, again pageFunc,
	do func(ctx context.Context, c *call, in In) (*Out, error), show func(r *http.Request, out *Out) *pageView) handler {
	return doForm(s, again, do, func(w http.ResponseWriter, r *http.Request, c *call, _ string, out *Out) error {
		return show(r, out).write(w, r, c, http.StatusOK)
	})
}

// doForm does what a form asks for, and then done, or shows again why not. back is
// where the form wants to lead to, or "".
func doForm[T any, In checkedRequest[T], Out any](s *Server, again pageFunc,
	do func(ctx context.Context, c *call, in In) (*Out, error),
	done func(w http.ResponseWriter, r *http.Request, c *call, back string, out *Out) error) handler {
	return func(w http.ResponseWriter, r *http.Request, c *call) error {
		if err := s.nameSpec(r, c); err != nil {
			return err
		}
		form, err := readForm(r)
		if err != nil {
			return err
		}
		back := localPath(form.Get(backField))
		in := In(new(T))
		if err = s.takeForm(r, c, form, in); err == nil {
			err = s.validate(in)
		}
		var out *Out
		if err == nil {
			out, err = do(r.Context(), c, in)
		}
		if kept, ok := errors.AsType[*keptResponse](err); ok {
			out = new(Out)
			if err = nil; kept.body != nil {
				err = unmarshal(kept.body, out)
			}
		}
		if err != nil {
			return s.showAgain(w, r, c, again, form, err)
		}
		return done(w, r, c, back, out)
	}
}

// showAgain shows a page of which a form was refused.
func (s *Server) showAgain(w http.ResponseWriter, r *http.Request, c *call, again pageFunc, form url.Values,
	refused error) error {
	e := asProblem(refused)
	unknown := e.status == http.StatusNotFound || e.status == http.StatusUnauthorized && e.code != "invalid_credentials"
	if again == nil || unknown || e.status == http.StatusInternalServerError {
		return refused
	}
	v, err := again(r.Context(), c, queryOf(nil))
	if err != nil || v.elsewhere != "" {
		return cmp.Or(err, refused)
	}
	if e.code == "version_mismatch" {
		e.detail = s.whoWasFaster(r.Context(), v) + e.detail
	}
	v.Here, v.Problem, v.Form, c.cause = localPath(form.Get(backField)), e, form, e.cause
	maps.Copy(w.Header(), e.header)
	return v.write(w, r, c, e.status)
}

// readForm reads the fields of a form from the body, in UTF-8 without NUL. Lines
// end as they do in files.
func readForm(r *http.Request) (url.Values, error) {
	if err := newQuery(r).err(); err != nil {
		return nil, err
	}
	mediaType, _, _ := mime.ParseMediaType(r.Header.Get("Content-Type"))
	if mediaType != "application/x-www-form-urlencoded" {
		return nil, problem(http.StatusUnsupportedMediaType, "unsupported_media_type", "Send a form of a page.")
	}
	body, err := io.ReadAll(r.Body)
	if err != nil {
		return nil, bodyProblem(err)
	}
	form, err := url.ParseQuery(string(body))
	if err != nil {
		return nil, invalidField("form", "malformed_form", "isn't percent-encoded text")
	}
	for name, values := range form {
		for i, value := range values {
			if !utf8.ValidString(name+value) || strings.ContainsRune(name+value, 0) {
				return nil, invalidField("form", "malformed_form", "isn't UTF-8 without NUL")
			}
			values[i] = strings.ReplaceAll(value, "\r\n", "\n")
		}
	}
	return form, nil
}

// takeForm fills in, a request of the API, and what the call has to know from the
// fields of a form. The hash of these is stored, and may be that of a password, so
// nobody can make it without the server's secret.
func (s *Server) takeForm(r *http.Request, c *call, form url.Values, in any) error {
	own := make(url.Values, len(form))
	for name, values := range form {
		if name != versionField && name != keyField && name != backField {
			own[name] = values
		}
	}
	if version := form.Get(versionField); version != "" {
		c.ifMatch = []string{`"` + version + `"`}
	}
	asks := fmt.Sprintf("%s %s\n%s\n%s", r.Method, r.URL.Path, form.Get(versionField), own.Encode())
	if err := c.takeOnce(form, []byte(s.derive("form", asks))); err != nil {
		return err
	}
	body, err := encode(asMembers(own, fieldTypes(reflect.TypeOf(in).Elem())))
	if err != nil {
		return fmt.Errorf("reading a form: %w", err)
	}
	return decodeLoosely(body, in)
}

// takeOnce takes the key of a form, and the hash of what it asks for.
func (c *call) takeOnce(form url.Values, hash []byte) error {
	c.hash = hash
	if c.traits&takesKey == 0 {
		return nil
	}
	if c.key = strings.ToLower(form.Get(keyField)); c.key != "" && !validID(c.key) {
		return invalidField(keyField, "invalid_id", "isn't as this page was sent: load it again")
	}
	return nil
}

// asMembers are the fields of a form as members of an object: lists are separated
// by commas, and an empty field is absent unless it is a text. Of several
// fields of a name, such as a text and a button, the last that isn't empty counts.
func asMembers(form url.Values, types map[string]reflect.Type) map[string]any {
	members := make(map[string]any, len(form))
	for name, values := range form {
		value := ""
		for _, one := range values {
			value = cmp.Or(one, value)
		}
		t, known := types[name]
		if !known {
			members[name] = value // which is refused
			continue
		}
		switch t, _ = unwrap(t); {
		case t.Kind() == reflect.Slice && t.Elem().Kind() != reflect.Uint8:
			items := strings.Split(strings.Join(values, ","), ",")
			for i := range items {
				items[i] = strings.TrimSpace(items[i])
			}
			members[name] = slices.DeleteFunc(items, func(item string) bool { return item == "" })
		case value != "" || t.Kind() == reflect.String:
			members[name] = value
		}
	}
	return members
}

const maxLocalPath = 2000 // bytes

// localPath returns to if it is a path of this server that a header can hold, or "".
func localPath(to string) string {
	u, err := url.Parse(to)
	odd := func(c rune) bool { return c <= ' ' || c == '\\' || c >= 0x7f }
	if err != nil || u.Scheme != "" || u.Host != "" || u.User != nil || !strings.HasPrefix(to, "/") ||
		strings.HasPrefix(to, "//") || len(to) > maxLocalPath || strings.ContainsFunc(to, odd) {
		return ""
	}
	return to
}

// wantsPage reports whether a request that no route takes is a browser's, for a
// person. Paths of programs get problems in any case.
func wantsPage(r *http.Request) bool {
	first, _, _ := strings.Cut(strings.TrimPrefix(r.URL.Path, "/"), "/")
	return strings.Contains(r.Header.Get("Accept"), "text/html") &&
		!slices.Contains([]string{"api", "mcp", "ws", "internal"}, first)
}

// writeProblemPage shows a person why a page can't be shown. Without a session it
// leads to the log-in, and from there back to the page.
func writeProblemPage(w http.ResponseWriter, r *http.Request, c *call, e *apiError) {
	if e.status == http.StatusUnauthorized {
		to := "/login"
		next := localPath(r.URL.RequestURI())
		if r.Method == http.MethodGet && len(next) > len("/") && !wantsEventStream(r) {
			to += "?next=" + url.QueryEscape(next)
		}
		seeOther(w, to)
		return
	}
	maps.Copy(w.Header(), e.header)
	c.mustSend = true
	v := &pageView{Name: "problem", Title: http.StatusText(e.status), Problem: e}
	if err := v.write(w, r, c, e.status); err != nil {
		c.cause = err
		http.Error(w, http.StatusText(http.StatusInternalServerError), http.StatusInternalServerError)
	}
}

// paramsOf are the parameters of an address, without those that are empty.
func paramsOf(values map[string]string) url.Values {
	params := make(url.Values, len(values))
	for name, value := range values {
		if value != "" {
			params.Set(name, value)
		}
	}
	return params
}

// boardOf is the address of a mission's board.
func boardOf(missionID string) string { return "/missions/" + missionID }

// madeMission leads to the board of a mission that was made.
func madeMission(_ http.ResponseWriter, _ *http.Request, m *missionView) string { return boardOf(m.ID) }

// toMissions leads to the list of missions.
func toMissions(http.ResponseWriter, *http.Request, *nothing) string { return "/" }

// toSettings leads back to the settings of the mission in the path.
func toSettings[Out any](_ http.ResponseWriter, r *http.Request, _ *Out) string {
	return boardOf(r.PathValue("id")) + "/settings"
}
