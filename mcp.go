package main

// The Model Context Protocol at POST /mcp: its Streamable HTTP transport, in
// which each request is a JSON-RPC 2.0 message and each answer plain JSON.
// Nothing is kept from one request to the next. Since revision 2026-07-28
// a request says for itself which revision it speaks; clients of the earlier
// ones begin with a handshake, which leaves nothing behind here either.
// https://modelcontextprotocol.io/specification/2026-07-28
//
// What an agent can do is in mcp_tools.go and mcp_work.go.

import (
	"bytes"
	"cmp"
	"context"
	"crypto/sha256"
	"encoding/base64"
	"encoding/json"
	"errors"
	"fmt"
	"net/http"
	"slices"
	"strings"
	"sync"
	"time"

	"tachikoma/internal/ijson"
)

// Revisions of the protocol that are spoken here, the newest first. All but
// the first know a handshake and no metadata in requests. The last knows batches
// of messages too, which no client is known to send; they are refused.
var mcpRevisions = []string{mcpModern, mcpLatestHandshake, "2025-06-18", "2025-03-26"}

const (
	mcpModern          = "2026-07-28"
	mcpLatestHandshake = "2025-11-25"
)

// Error codes of JSON-RPC 2.0 (5.1) and of the Model Context Protocol.
const (
	rpcParseError         = -32700
	rpcInvalidRequest     = -32600
	rpcMethodNotFound     = -32601
	rpcInvalidParams      = -32602
	mcpResourceNotFound   = -32002 // until 2025-11-25
	mcpHeaderMismatch     = -32020
	mcpUnsupportedVersion = -32022
)

// mcpStable is how long a client may keep what changes only with the server.
const mcpStable = time.Hour

// rpcRequest is what a client asks. One without an id is a notification, and one
// without a method too is a response.
type rpcRequest struct {
	ID     json.RawMessage
	Method string
	Params mcpParams

	session string       // the Mcp-Session-Id, which tells clients of one credential apart; may be ""
	modern  bool         // it is of revision 2026-07-28
	odd     *ijson.Error // what keeps a tool's arguments from being stored; they aren't looked at then
}

// mcpParams are the parameters of all methods together.
type mcpParams struct {
	Name            string          // of a tool or a prompt
	Arguments       json.RawMessage // for it
	URI             string          // of a resource
	Cursor          string          // where a list goes on
	ProtocolVersion string          // that a handshake asks for
	RequestID       json.RawMessage // that is cancelled
	Meta            struct {
		ProtocolVersion    string
		ClientCapabilities json.RawMessage
	}
}

// rpcResponse carries a result or an error.
type rpcResponse struct {
	Version string          `json:"jsonrpc"`
	ID      json.RawMessage `json:"id,omitempty"`    // left out if the request had none that could be read
	Result  map[string]any  `json:"result,omitzero"` // of a tool with toolAnswer as structuredContent
	Error   *rpcError       `json:"error,omitempty"`
}

// rpcError is what is wrong with a request as a message. What is wrong with
// who sends it, or with the server, is a problem as on every other route.
type rpcError struct {
	Code    int    `json:"code"`
	Message string `json:"message"`
	Data    any    `json:"data,omitempty"`

	status int // of the HTTP response
}

func (e *rpcError) Error() string { return e.Message }

func newRPCError(status, code int, message string, args ...any) *rpcError {
	return &rpcError{Code: code, Message: fmt.Sprintf(message, args...), status: status}
}

// serveMCP is POST /mcp.
func (s *Server) serveMCP(w http.ResponseWriter, r *http.Request, c *call) error {
	if err := s.refuseForeign(r); err != nil {
		return err
	}
	request, err := readRPC(r)
	if err == nil {
		err = s.readmit(r.Context(), c) // also for what only reads, since its body may have come slowly
	}
	var result map[string]any
	if err == nil && request.ID == nil {
		if err := s.noticeRPC(r.Context(), c, request); err != nil {
			return err
		}
		w.WriteHeader(http.StatusAccepted) // of a notification nothing is expected
		return nil
	}
	if err == nil {
		result, err = s.answerRPC(r.Context(), c, request)
	}
	if err == nil && request.Method == "initialize" {
		w.Header().Set("Mcp-Session-Id", newID()) // nothing is kept of it: see cancelCall
	}
	response := rpcResponse{Version: "2.0", ID: request.ID, Result: result}
	status := http.StatusOK
	if wrong, ok := errors.AsType[*rpcError](err); ok {
		response.Error, status = wrong, wrong.status
	} else if err != nil {
		return err
	}
	body := rpcBodies.Get().(*bytes.Buffer)
	defer rpcBodies.Put(body)
	body.Reset()
	if err := response.encode(body); err != nil {
		return err
	}
	return writeBytes(w, r, c, status, "application/json", body.Bytes())
}

// rpcBodies are for responses: one that holds all of a spec twice is large, and
// making room for it would take as long as filling it.
var rpcBodies = sync.Pool{New: func() any { return new(bytes.Buffer) }}

// toolAnswer is what a tool answers, as JSON.
type toolAnswer []byte

// encode writes the response as JSON to b. What a tool answers stands in it
// twice, as the protocol asks for: as it is, and as a text, for clients that know
// no other. It is encoded once, since it may hold all of a spec.
func (r rpcResponse) encode(b *bytes.Buffer) error {
	answer, ok := r.Result["structuredContent"].(toolAnswer)
	if !ok {
		encoded, err := encode(r)
		b.Write(encoded)
		return err
	}
	delete(r.Result, "structuredContent")
	others, err := encode(r.Result)
	if err != nil {
		return fmt.Errorf("encoding an answer: %w", err)
	}
	b.Grow(len(answer)*9/4 + len(others) + 256)
	fmt.Fprintf(b, `{"jsonrpc":"2.0","id":%s,"result":{"content":[{"type":"text","text":"`, r.ID)
	written := 0
	for i, c := range answer { // all else that a string can't have is escaped in it already
		if c == '"' || c == '\\' {
			b.Write(answer[written:i])
			b.WriteByte('\\')
			written = i
		}
	}
	b.Write(answer[written:])
	b.WriteString(`"}],"structuredContent":`)
	b.Write(answer)
	if len(others) > len("{}") {
		b.WriteByte(',')
	}
	b.Write(others[1:])
	b.WriteByte('}')
	return nil
}

// readRPC reads a request and checks that it is one this server can answer.
func readRPC(r *http.Request) (request rpcRequest, err error) {
	request.session = r.Header.Get("Mcp-Session-Id")
	body, err := readBody(r)
	if err != nil {
		return request, err
	}
	odd, _ := errors.AsType[*ijson.Error](ijson.Check(body))
	if odd != nil && odd.Syntax {
		request.ID = idBefore(body)
		return request, newRPCError(http.StatusBadRequest, rpcParseError, "At byte %d of the body: %s.",
			odd.Offset, odd.Reason)
	}
	if err := request.decode(body); err != nil {
		return request, err
	}
	if odd != nil {
		if err := request.take(odd); err != nil {
			return request, err
		}
	}
	if request.ID == nil {
		return request, nil
	}
	return request, request.checkRevision(r.Header)
}

// take refuses what isn't I-JSON in a request, unless it is in a tool's arguments:
// of these the agent is told, which can mend them, and not only its client. The
// parameters of a notification matter to nobody, nor does a response.
func (q *rpcRequest) take(odd *ijson.Error) error {
	code, path := rpcInvalidRequest, odd.Path
	if q.Method == "" {
		return nil
	}
	if len(path) > 0 && path[0] == "id" {
		q.ID = nil
	}
	if len(path) > 0 && path[0] == "params" {
		if code = rpcInvalidParams; q.ID == nil {
			return nil
		}
		if q.Method == "tools/call" && len(path) > 1 && path[1] == "arguments" {
			q.odd = odd
			return nil
		}
	}
	return newRPCError(http.StatusBadRequest, code, "At byte %d of the body, in %q: %s.",
		odd.Offset, pathText(path), odd.Reason)
}

// idBefore reads the id of a message that can't be parsed to its end, if it
// stands before what is wrong.
func idBefore(body []byte) json.RawMessage {
	d := json.NewDecoder(bytes.NewReader(body))
	if start, err := d.Token(); err != nil || start != json.Delim('{') {
		return nil
	}
	for d.More() {
		var value json.RawMessage
		name, err := d.Token()
		if err != nil || d.Decode(&value) != nil {
			return nil
		}
		if name == "id" && validRPCID(value) {
			return value
		}
	}
	return nil
}

// decode fills q from a message, and of one that is no request at least its id
// if that can be read, so that the error reaches who waits for it.
func (q *rpcRequest) decode(body []byte) error {
	var version string
	var id, params, result, failure json.RawMessage
	err := pick(body, map[string]any{"id": &id, "jsonrpc": &version, "method": &q.Method, "params": &params,
		"result": &result, "error": &failure})
	if err == nil && version == "2.0" && q.Method == "" && (result != nil || failure != nil) {
		return nil // a response, though nothing is asked here
	}
	if validRPCID(id) {
		q.ID = id
	}
	if err != nil || version != "2.0" || q.Method == "" || id != nil && q.ID == nil {
		return newRPCError(http.StatusBadRequest, rpcInvalidRequest,
			`This isn't a JSON-RPC request. Send one at a time, with "jsonrpc": "2.0", a method, and an id that is `+
				`a string or a number.`)
	}
	if params != nil && q.Params.decode(params) != nil {
		return newRPCError(http.StatusBadRequest, rpcInvalidParams,
			"The params are an object; name, uri, cursor and protocolVersion in it are strings, and _meta is an object.")
	}
	return nil
}

func (p *mcpParams) decode(params json.RawMessage) error {
	var meta json.RawMessage
	if err := pick(params, map[string]any{
		"name": &p.Name, "arguments": &p.Arguments, "uri": &p.URI, "cursor": &p.Cursor, "protocolVersion": &p.ProtocolVersion,
		"requestId": &p.RequestID, "_meta": &meta,
	}); err != nil || meta == nil {
		return err
	}
	return pick(meta, map[string]any{
		"io.modelcontextprotocol/protocolVersion":    &p.Meta.ProtocolVersion,
		"io.modelcontextprotocol/clientCapabilities": &p.Meta.ClientCapabilities,
	})
}

// pick decodes members of an object into what their names point to, also those
// beside one that doesn't fit, which is its error. Others may be there too.
// Names are told apart by case, as encoding/json wouldn't: a
// proxy that looks for "name" must not be passed by with a second "Name".
func pick(object []byte, into map[string]any) error {
	var members map[string]json.RawMessage
	err := json.Unmarshal(object, &members)
	for name, v := range into {
		if member, ok := members[name]; ok {
			err = cmp.Or(err, json.Unmarshal(member, v))
		}
	}
	return err
}

// validRPCID accepts strings and numbers that can be sent back as they are.
func validRPCID(id json.RawMessage) bool {
	return len(id) > 0 && (id[0] == '"' || isNumber(id)) && ijson.Check(id) == nil
}

// checkRevision finds out which revision a request speaks. Of the modern one
// the headers must repeat what the body says, so that a proxy can trust them.
func (q *rpcRequest) checkRevision(header http.Header) error {
	told, meta := header.Get("Mcp-Protocol-Version"), q.Params.Meta
	q.modern = told == mcpModern || meta.ProtocolVersion != "" || q.Method == "server/discover"
	refuse := func(code int, message string, args ...any) error {
		return newRPCError(http.StatusBadRequest, code, message, args...)
	}
	for _, name := range []string{"Mcp-Protocol-Version", "Mcp-Method", "Mcp-Name"} {
		if len(header.Values(name)) > 1 {
			return refuse(mcpHeaderMismatch, "The header %s is there more than once.", name)
		}
	}
	if !q.modern {
		if told != "" && !slices.Contains(mcpRevisions, told) && q.Method != "initialize" {
			return unsupportedRevision(told)
		}
		return nil
	}
	if meta.ProtocolVersion == "" || !bytes.HasPrefix(meta.ClientCapabilities, []byte("{")) {
		return refuse(rpcInvalidParams, "params._meta must have io.modelcontextprotocol/protocolVersion and "+
			"io.modelcontextprotocol/clientCapabilities.")
	}
	var name string
	switch q.Method {
	case "tools/call", "prompts/get":
		name = q.Params.Name
	case "resources/read":
		name = q.Params.URI
	}
	for _, pair := range []struct{ name, got, value string }{
		{"Mcp-Protocol-Version", told, meta.ProtocolVersion}, {"Mcp-Method", header.Get("Mcp-Method"), q.Method},
		{"Mcp-Name", decodeMCPHeader(header.Get("Mcp-Name")), name},
	} {
		if pair.got != pair.value {
			return refuse(mcpHeaderMismatch, "The header %s is %q, and the body says %q.",
				pair.name, clip(pair.got), clip(pair.value))
		}
	}
	if meta.ProtocolVersion != mcpModern {
		return unsupportedRevision(meta.ProtocolVersion)
	}
	return nil
}

func unsupportedRevision(requested string) error {
	wrong := newRPCError(http.StatusBadRequest, mcpUnsupportedVersion, "Unsupported protocol version")
	wrong.Data = map[string]any{"supported": mcpRevisions, "requested": clip(requested)}
	return wrong
}

// decodeMCPHeader undoes the encoding of names that a header can't hold.
func decodeMCPHeader(value string) string {
	inner, encoded := strings.CutPrefix(value, "=?base64?")
	inner, ends := strings.CutSuffix(inner, "?=")
	if !encoded || !ends {
		return value
	}
	text, err := base64.StdEncoding.DecodeString(inner)
	if err != nil {
		return value
	}
	return string(text)
}

// noticeRPC takes note of what a notification says.
func (s *Server) noticeRPC(ctx context.Context, c *call, q rpcRequest) error {
	if q.Method != "notifications/cancelled" || !validRPCID(q.Params.RequestID) {
		return nil
	}
	return s.cancelCall(ctx, c, q.callName(c, q.Params.RequestID))
}

// callName names a request of a client by its credential, its session and its id.
func (q rpcRequest) callName(c *call, id json.RawMessage) string {
	var v any
	_ = json.Unmarshal(id, &v) // it is a string or a number
	sum := sha256.Sum256(fmt.Appendf(nil, "%q %q %#v", c.account.credential(), q.session, v))
	return base64.RawURLEncoding.EncodeToString(sum[:])
}

// cancelCall ends a call as if the time were over that it may wait. Before
// revision 2026-07-28 a client that cancels keeps its connection open. A call that
// isn't here may be on another instance; what nobody knows has ended before. That
// two of a name end together costs one of them a poll.
func (s *Server) cancelCall(ctx context.Context, c *call, name string) error {
	if s.calls.Cancel(name) {
		return nil
	}
	_, err := transact(ctx, s, c, func(_ context.Context, t *tx) (*nothing, error) {
		t.cancelElsewhere(name)
		return nil, nil
	})
	return err
}

// answerRPC does what a request asks. Its errors are an rpcError, or a problem
// that concerns the HTTP request.
func (s *Server) answerRPC(ctx context.Context, c *call, q rpcRequest) (map[string]any, error) {
	result, err := s.callMethod(ctx, c, q)
	if err != nil || !q.modern {
		return result, err
	}
	result["resultType"] = "complete"
	result["_meta"] = map[string]any{"io.modelcontextprotocol/serverInfo": mcpServerInfo()}
	return result, nil
}

func (s *Server) callMethod(ctx context.Context, c *call, q rpcRequest) (map[string]any, error) {
	switch q.Method {
	case "initialize":
		if !q.modern {
			return initializeResult(q.Params.ProtocolVersion), nil
		}
	case "ping":
		if !q.modern {
			return map[string]any{}, nil
		}
	case "server/discover":
		return cacheable(map[string]any{"supportedVersions": mcpRevisions, "capabilities": mcpCapabilities(),
			"instructions": mcpInstructions}, mcpStable), nil
	case "tools/list":
		return cacheable(map[string]any{"tools": s.tools}, mcpStable), nil
	case "tools/call":
		return s.callTool(ctx, c, q)
	case "resources/list":
		return s.listResources(ctx, c.account, q.Params.Cursor)
	case "resources/templates/list":
		return cacheable(map[string]any{"resourceTemplates": []any{map[string]any{
			"uriTemplate": resourcePrefix + "{id}", "name": "spec", "title": "Spec", "description": "A spec, as Markdown.",
			"mimeType": "text/markdown",
		}}}, mcpStable), nil
	case "resources/read":
		return s.readResource(ctx, c.account, q)
	case "prompts/list":
		return cacheable(map[string]any{"prompts": []any{workPrompt}}, mcpStable), nil
	case "prompts/get":
		return getPrompt(q.Params)
	}
	status := http.StatusOK
	if q.modern {
		status = http.StatusNotFound
	}
	return nil, newRPCError(status, rpcMethodNotFound, "There is no method %q here.", clip(q.Method))
}

// cacheable says for how long a client may keep a result. What is the same for
// everybody may be shared.
func cacheable(result map[string]any, lasts time.Duration) map[string]any {
	result["ttlMs"], result["cacheScope"] = lasts.Milliseconds(), "private"
	if lasts > 0 {
		result["cacheScope"] = "public"
	}
	return result
}

func textContent(text string) map[string]any { return map[string]any{"type": "text", "text": text} }

func mcpServerInfo() map[string]string {
	return map[string]string{"name": "tachikoma", "title": "Tachikoma", "version": programVersion()}
}

func mcpCapabilities() map[string]any {
	return map[string]any{"tools": struct{}{}, "resources": struct{}{}, "prompts": struct{}{}}
}

// initializeResult answers the handshake of older revisions: with the one that
// the client asks for, or else with the last of them.
func initializeResult(asked string) map[string]any {
	if !slices.Contains(mcpRevisions[1:], asked) {
		asked = mcpLatestHandshake
	}
	return map[string]any{"protocolVersion": asked, "capabilities": mcpCapabilities(), "serverInfo": mcpServerInfo(),
		"instructions": mcpInstructions}
}

const mcpInstructions = "Tachikoma hands out specs: Markdown work items with acceptance criteria. Find a mission " +
	"with list_missions, " +
	"take a spec with claim_spec, do the work it describes, report as you go, and end with complete_spec or fail_spec. " +
	"Every answer says in next what to do then."
