// A program against the types that openapi-typescript makes of openapi.json.
// typescript_test.go has them made as openapi.ts, compiles this with --strict,
// and runs it in Node: a mission from its beginning to its end.
import createClient from 'openapi-fetch'
import type { components, paths } from './openapi.js'

declare const process: { env: Record<string, string | undefined> }
const baseUrl = process.env.BASE ?? ''

// good is the body of an answer that has to be a success.
const good = <T>({ data, error, response }: { data?: T; error?: components['schemas']['Problem']; response: Response }): T => {
  if (data === undefined) throw new Error(`${response.url}: ${response.status} ${error?.code}: ${error?.detail}`)
  return data
}

const nobody = createClient<paths>({ baseUrl })
const session = good(await nobody.POST('/api/v1/auth/login', {
  body: { email: process.env.EMAIL ?? '', password: process.env.PASSWORD ?? '' },
}))
const api = createClient<paths>({ baseUrl, headers: { Authorization: `Bearer ${session.access_token}` } })

// What openapi.json doesn't have doesn't compile.
// @ts-expect-error: a mission has a name
void (() => api.POST('/api/v1/missions', { body: { title: 'Web shop' } }))
// @ts-expect-error: there is no such path
void (() => api.GET('/api/v1/mission'))

const { id } = good(await api.POST('/api/v1/missions', { body: { name: 'Web shop', tags: ['typed'] } }))
const mission = { params: { path: { id } } }
good(await api.POST('/api/v1/missions/{id}/specs', {
  ...mission,
  body: { key: '001-catalogue', title: 'Catalogue', body: '## Acceptance Criteria\n\n- [ ] Products are read\n' },
}))
good(await api.POST('/api/v1/missions/{id}/start', mission))

const { spec, lease } = good(await api.POST('/api/v1/missions/{id}/claim', { ...mission, body: { agent: 'togusa' } }))
const held = { params: { path: { id: spec.id } } }
const lease_token: string = lease.token
const open: number[] = spec.criteria.filter((criterion) => !criterion.done).map((criterion) => criterion.index)
good(await api.POST('/api/v1/specs/{id}/progress', { ...held, body: { lease_token, check: open } }))
const completed = good(await api.POST('/api/v1/specs/{id}/complete', { ...held, body: { lease_token } }))
const status: 'proposed' | 'planned' | 'in_progress' | 'in_review' | 'testing' | 'completed' | 'blocked' | 'deferred' = completed.status

// A refusal is typed too.
const again = await api.POST('/api/v1/specs/{id}/complete', { ...held, body: { lease_token } })
const code: string | undefined = again.error?.code

const events = good(await api.GET('/api/v1/missions/{id}/events', { params: { path: { id }, query: { after: 0 } } }))
if (typeof events === 'string') throw new Error('they came as text/event-stream')
console.log(JSON.stringify({ user: session.user.email, status, code, events: events.items.map((event) => event.type) }))
