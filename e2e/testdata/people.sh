# What agents and people need of each other, as a script that has curl and jq: with
# "api" the agent uses the routes, with "mcp" the tools. ADA and BOB are the access
# tokens of two people, KEY is the agent's.
set -euo pipefail

# call TOKEN METHOD PATH [JSON]: one request to the API; prints the response.
call() { curl -sS --fail-with-body -X "$2" "$API/api/v1$3" -H "Authorization: Bearer $1" -H 'Content-Type: application/json' -d "${4-}"; }
# tool NAME JSON: one call of a tool.
tool() {
    curl -sS --fail-with-body "$API/mcp" -H "Authorization: Bearer $KEY" -H 'Content-Type: application/json' \
        -d "{\"jsonrpc\": \"2.0\", \"id\": 1, \"method\": \"tools/call\", \"params\": {\"name\": \"$1\", \"arguments\": $2}}" |
        jq -e '.result.structuredContent'
}

# What the agent does, either way; each prints what it gets.
if [ "$1" = api ]; then
    claim() { call "$KEY" POST "/missions/$mission/claim" '{"agent": "togusa"}' | jq '{token: .lease.token, history}'; }
    fail() { call "$KEY" POST "/specs/$spec/fail" "{\"lease_token\": $token, \"reason\": \"$1\"}" | jq .status; }
    ask() {
        question=$(call "$KEY" POST "/specs/$spec/questions" "{\"lease_token\": $token, \"question\": \"$1\"}" | jq -r .id)
        call "$KEY" GET "/questions/$question?wait_seconds=50" | jq .answer
    }
    complete() { call "$KEY" POST "/specs/$spec/complete" "{\"lease_token\": $token, \"notes\": \"$1\"}" | jq .status; }
else
    claim() { tool claim_spec "{\"mission_id\": \"$mission\", \"agent\": \"togusa\"}" | jq '{token: .lease_token, history}'; }
    fail() { tool fail_spec "{\"spec_id\": \"$spec\", \"lease_token\": $token, \"reason\": \"$1\"}" | jq .status; }
    ask() {
        tool ask "{\"spec_id\": \"$spec\", \"lease_token\": $token, \"question\": \"$1\", \"wait_seconds\": 50}" | jq .answer
    }
    complete() { tool complete_spec "{\"spec_id\": \"$spec\", \"lease_token\": $token, \"notes\": \"$1\"}" | jq .status; }
fi
# take claims, keeps the token, and prints the history.
take() {
    claimed=$(claim)
    token=$(jq .token <<<"$claimed")
    jq -c '[.history[]? | {number, outcome, notes, answers: [.questions[]?.answer], verdict: .verdict.notes}]' <<<"$claimed"
}
# ready prints whether the dependent is.
ready() { call "$ADA" GET "/specs/$dependent" | jq -c '{key, ready}'; }

mission=$(call "$ADA" POST /missions '{"name": "People and agents", "review": "human"}' | jq -r .id)
call "$ADA" PUT "/missions/$mission/members" '{"email": "bob@example.com", "role": "editor"}' >/dev/null
spec=$(call "$ADA" POST "/missions/$mission/specs" '{"key": "a", "title": "A"}' | jq -r .id)
dependent=$(call "$ADA" POST "/missions/$mission/specs" '{"key": "b", "title": "B", "dependencies": ["a"]}' | jq -r .id)
call "$ADA" POST "/missions/$mission/start" '{}' >/dev/null

take
fail "The file is empty."
take
ask "Which file?" &
until open=$(call "$BOB" GET "/questions?state=open&mission_id=$mission" | jq -er '.items[0].id'); do sleep 0.1; done
call "$BOB" POST "/questions/$open/answer" '{"answer": "a.csv"}' >/dev/null
wait $!
complete "It reads a.csv."
ready
call "$BOB" POST "/specs/$spec/review" '{"verdict": "reject", "notes": "It has no test."}' | jq .status
take
complete "It has a test."
call "$KEY" POST "/specs/$spec/review" '{"verdict": "approve"}' | jq -r .code || true
call "$BOB" POST "/specs/$spec/review" '{"verdict": "approve"}' | jq .status
ready
call "$ADA" GET "/missions/$mission/events?limit=200" |
    jq -r --arg spec "$spec" '[.items[] | select(.spec_id == $spec) | .type] | join(" ")'
