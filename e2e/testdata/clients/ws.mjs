// The npm package ws against a server: what a client in Node sees. It is run
// by clients_test.go, which stops the server when this asks for it.
import assert from 'node:assert/strict'
import WebSocket from 'ws'

const { BASE, TOKEN, MISSION } = process.env
const mission = `${BASE}/api/v1/missions/${MISSION}`

const post = async (url, body) => {
  const response = await fetch(url, {
    method: 'POST', body: JSON.stringify(body),
    headers: { Authorization: `Bearer ${TOKEN}`, 'Content-Type': 'application/json' },
  })
  assert.ok(response.ok, `${url}: ${response.status}`)
}
const log = (message) => post(`${mission}/logs`, { entries: [{ level: 'info', message }] })

// A client keeps its messages until somebody asks for them.
class Client {
  #messages = []
  #waiting = []

  constructor(protocols, headers) {
    this.socket = new WebSocket(BASE.replace('http', 'ws') + '/ws', protocols, { headers })
    this.closed = new Promise((resolve) => this.socket.on('close', resolve))
    this.socket.on('message', (data) => {
      const message = JSON.parse(data)
      const waits = this.#waiting.shift()
      waits ? waits(message) : this.#messages.push(message)
    })
    this.socket.on('error', (error) => { console.error(error); process.exitCode = 1 })
  }
  next() {
    return this.#messages.length > 0 ? this.#messages.shift() : new Promise((resolve) => this.#waiting.push(resolve))
  }
  async ask(message) {
    this.socket.send(JSON.stringify(message))
    return this.next()
  }
  async subscribe(after) {
    assert.equal((await this.next()).type, 'welcome')
    const ack = await this.ask({ type: 'subscribe', topic: 'mission', mission_id: MISSION, after, id: 1 })
    assert.deepEqual([ack.type, ack.reply_to], ['ack', 1])
    return ack.seq
  }
  // Events until one after seq has the message; each number is the last one plus one.
  async until(message, seq) {
    for (;;) {
      for (const event of (await this.next()).events) {
        assert.equal(event.seq, ++seq)
        if (JSON.stringify(event).includes(message)) return seq
      }
    }
  }
}

// By header, from the beginning, then live.
const first = new Client([], { Authorization: `Bearer ${TOKEN}` })
assert.equal(await first.subscribe(0), 0)
await log('one')
let seen = await first.until('one', 0)

// Cut, and resumed by subprotocol: what came between isn't lost.
first.socket.terminate()
await log('two')
await log('three')
const second = new Client(['tachikoma.v1', `bearer.${TOKEN}`])
await second.subscribe(seen)
assert.equal(second.socket.protocol, 'tachikoma.v1')
seen = await second.until('three', seen)

// A bad message is answered, and the connection lives.
assert.equal((await second.ask({ type: 'dance' })).code, 'unknown_type')
assert.equal((await second.ask({ type: 'ping', id: 'p' })).reply_to, 'p')

// One that goes on until the server stops, with a key that outlives the session.
const last = new Client([], { Authorization: `Bearer ${process.env.KEY}` })
await last.subscribe('latest')

await post(`${BASE}/api/v1/auth/logout`, {})
assert.equal(await second.closed, 4401)

console.log('stop the server')
assert.equal(await last.closed, 1001)
console.log('done')
