// The official clients of the Model Context Protocol against a server: each
// works a mission to its end. It is run by mcp_clients_test.go.
import assert from 'node:assert/strict'
import { Client as OldClient } from '@modelcontextprotocol/sdk/client/index.js'
import { StreamableHTTPClientTransport as OldTransport } from '@modelcontextprotocol/sdk/client/streamableHttp.js'
import { Client, StreamableHTTPClientTransport as Transport } from '@modelcontextprotocol/client'

const { BASE, KEY, MISSIONS } = process.env
const missions = MISSIONS.split(',')
const url = new URL(BASE + '/mcp')
const options = { requestInit: { headers: { Authorization: `Bearer ${KEY}` } } }
const me = { name: 'test', version: '1' }

// work claims, reports and completes until the answers say that it is enough.
async function work(client, mission_id) {
  const call = async (name, args) => {
    const result = await client.callTool({ name, arguments: args })
    assert.ok(!result.isError, `${name}: ${result.content[0].text}`)
    assert.deepEqual(JSON.parse(result.content[0].text), result.structuredContent)
    return result.structuredContent
  }
  const tools = (await client.listTools()).tools.map((tool) => tool.name)
  assert.equal(tools.length, 10)
  const prompt = await client.getPrompt({ name: 'work', arguments: { mission_id } })
  assert.match(prompt.messages[0].content.text, new RegExp(mission_id))
  const templates = await client.listResourceTemplates()
  assert.equal(templates.resourceTemplates[0].uriTemplate, 'tachikoma://specs/{id}')

  const keys = []
  for (;;) {
    const { spec, lease_token, next } = await call('claim_spec', { mission_id, agent: 'node' })
    if (!spec) assert.fail(`nothing to claim: ${next}`)
    const resource = await client.readResource({ uri: `tachikoma://specs/${spec.id}` })
    assert.equal(resource.contents[0].text, spec.markdown)
    const early = await client.callTool({ name: 'complete_spec', arguments: { spec_id: spec.id, lease_token } })
    assert.ok(early.isError && early.content[0].text.startsWith('criteria_unmet'), early.content[0].text)
    const { open } = await call('report', {
      spec_id: spec.id, lease_token, check: spec.criteria.map((c) => c.index), logs: [{ level: 'info', message: 'done' }],
    })
    assert.deepEqual(open, [])
    const { mission } = await call('complete_spec', { spec_id: spec.id, lease_token })
    keys.push(spec.key)
    if (mission.status === 'completed') return keys
  }
}

const failures = []
const clients = [
  [new OldClient(me), new OldTransport(url, options), '2025-11-25'],
  [new Client(me), new Transport(url, options), '2025-11-25'],
  [new Client(me, { versionNegotiation: { mode: 'auto' } }), new Transport(url, options), '2026-07-28'],
]
for (const [i, [client, transport, revision]] of clients.entries()) {
  client.onerror = (error) => failures.push(error)
  await client.connect(transport)
  assert.equal(client.getServerVersion().name, 'tachikoma')
  assert.equal(client.getNegotiatedProtocolVersion?.() ?? transport.protocolVersion, revision)
  assert.deepEqual(await work(client, missions[i]), ['first', 'second'])
  await client.close()
}
assert.deepEqual(failures, [])
console.log('done')
