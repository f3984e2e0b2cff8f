// The pages in Debian's Chromium, by clicks. It is run by pages_test.go, with the
// name of what to do; for what only that can do, such as to stop the server, it
// writes a line and waits for one.
import assert from 'node:assert/strict'
import { createInterface } from 'node:readline'
import { mkdir, readFile, writeFile } from 'node:fs/promises'
import { chromium } from 'playwright-core'

const { BASE, OTHER, CHROMIUM, HOME, PICTURES } = process.env
const password = 'correct horse battery staple'
const axe = await readFile('node_modules/axe-core/axe.min.js', 'utf8')
const browser = await chromium.launch({ executablePath: CHROMIUM, args: ['--no-sandbox'] })
const lines = createInterface({ input: process.stdin })[Symbol.asyncIterator]()

// ask has the test do something.
async function ask(what) {
  console.log(what)
  assert.equal((await lines.next()).value, 'done', what)
}

// person opens a browser of its own, which minds what the pages' policy forbids and
// what scripts throw.
async function person(options = {}) {
  const context = await browser.newContext({ baseURL: BASE, viewport: { width: 1280, height: 900 }, ...options })
  context.setDefaultTimeout(180_000)
  context.on('weberror', (e) => assert.fail(`a script threw ${e.error()}`))
  context.on('console', (m) => assert.ok(!/Content Security Policy|violates/.test(m.text()), m.text()))
  // For this browser all tabs are to be seen, always: a test says which one isn't.
  await context.addInitScript(() => Object.defineProperty(document, 'hidden', { get: () => window.away === true }))
  const page = await context.newPage()
  return Object.assign(page, {
    // logIn is by the form.
    async logIn(name) {
      await page.goto('/login')
      await page.getByLabel('E-mail').fill(name + '@example.com')
      await page.getByLabel('Password').fill(password)
      await page.getByRole('button', { name: 'Log in' }).click()
      await page.getByRole('heading', { name: 'Missions' }).waitFor()
    },
  })
}

// agent calls tools with a key, as agents do.
function agent(key) {
  return async (name, args) => {
    const response = await fetch(BASE + '/mcp', {
      method: 'POST', headers: { Authorization: `Bearer ${key}`, 'Content-Type': 'application/json', Accept: 'application/json' },
      body: JSON.stringify({ jsonrpc: '2.0', id: 1, method: 'tools/call', params: { name, arguments: args } }),
    })
    const { result, error } = await response.json()
    assert.ok(result && !result.isError, `${name}: ${JSON.stringify(error ?? result)}`)
    return result.structuredContent
  }
}

// api calls a route as somebody.
async function api(name) {
  const call = async (method, path, body, token) => {
    const response = await fetch(BASE + path, {
      method, body: body && JSON.stringify(body),
      headers: { 'Content-Type': 'application/json', ...(token && { Authorization: `Bearer ${token}` }) },
    })
    const text = await response.text()
    assert.ok(response.ok, `${method} ${path}: ${text}`)
    return text && JSON.parse(text)
  }
  const { access_token } = await call('POST', '/api/v1/auth/login', { email: name + '@example.com', password })
  return (method, path, body) => call(method, path, body, access_token)
}

// newMission makes an active mission with specs, each a key and what it depends on.
async function newMission(call, name, specs, settings) {
  const { id } = await call('POST', '/api/v1/missions', { name, ...settings })
  for (const [key, ...dependencies] of specs) {
    await call('POST', `/api/v1/missions/${id}/specs`,
      { key, title: 'About ' + key, dependencies, body: `# ${key}\n\n## Acceptance Criteria\n\n- [ ] It works\n` })
  }
  await call('POST', `/api/v1/missions/${id}/start`, {})
  return id
}

// claimAndComplete does the work on what is ready first.
async function claimAndComplete(tool, mission_id) {
  const { spec, lease_token } = await tool('claim_spec', { mission_id, agent: 'robin' })
  const check = spec.criteria.map((c) => c.index)
  await tool('report', { spec_id: spec.id, lease_token, check, message: 'It works: https://ci.example.com/1' })
  await tool('complete_spec', { spec_id: spec.id, lease_token })
}

const hide = (tab, away) => tab.evaluate((away) => {
  window.away = away
  document.dispatchEvent(new Event('visibilitychange'))
}, away)

const column = (page, name) => page.getByRole('region', { name: new RegExp('^' + name) })

const tests = {
  // From an empty server to a completed spec.
  async first() {
    const page = await person()
    const folder = HOME + '/demo'
    await mkdir(folder)
    await writeFile(folder + '/001-hello.md', '# 001: Hello\n\n## Acceptance Criteria\n\n- [ ] It says hello\n')
    await writeFile(folder + '/002-bye.md', '# 002: Bye\n\n**Dependencies:** 001-hello\n')
    await page.goto('/')
    await page.getByRole('heading', { name: 'Welcome' }).waitFor()
    await page.getByLabel('E-mail').fill('ada@example.com')
    await page.getByLabel('Name').fill('Ada')
    await page.getByLabel('Password').fill(password)
    await page.getByRole('button', { name: 'Create the account' }).click()
    await page.getByText('There are no missions yet').waitFor()
    await page.locator('input[type=file]').setInputFiles(folder)
    await page.getByRole('button', { name: 'Import it' }).click()
    await page.getByText('2 new').waitFor()
    await page.getByRole('button', { name: 'Start' }).first().click()
    await column(page, 'Ready').getByRole('link', { name: 'Hello' }).waitFor()
    const board = page.url()
    await column(page, 'Waiting').getByRole('link', { name: 'Bye' }).waitFor()

    await page.getByRole('navigation', { name: 'Pages' }).getByRole('link', { name: 'Agents' }).click()
    await page.getByRole('button', { name: 'Create a key' }).click()
    const line = await page.getByText('claude mcp add').textContent()
    assert.match(line, new RegExp(`^claude mcp add --transport http tachikoma ${BASE}/mcp --header "Authorization: Bearer tk_`))
    const tool = agent(/tk_[\w-]+/.exec(line)[0])
    await page.goto(board)
    const { missions } = await tool('list_missions', {})
    await claimAndComplete(tool, missions[0].id)
    await column(page, 'Done').getByRole('link', { name: 'Hello' }).waitFor() // nothing was loaded anew
    await column(page, 'Ready').getByRole('link', { name: 'Bye' }).click()
    await page.getByRole('complementary', { name: '002-bye' }).waitFor()
    await page.getByRole('link', { name: 'Close' }).click()
    await page.getByRole('link', { name: 'Activity' }).click()
    await page.getByText('It works:').waitFor()
    assert.equal(await page.getByRole('link', { name: 'https://ci.example.com/1' }).getAttribute('rel'), 'noopener nofollow')
  },

  // A folder, with one in it, is dropped on the page: its files make a mission with its name.
  async drop() {
    const folder = HOME + '/dropped'
    await mkdir(folder + '/deeper', { recursive: true })
    await writeFile(folder + '/001-hello.md', '# 001: Hello\n')
    await writeFile(folder + '/deeper/002-bye.md', '# 002: Bye\n\n**Dependencies:** 001-hello\n')
    await writeFile(folder + '/photo.jpg', 'not read')
    const page = await person()
    await page.logIn('root')
    const { x, y } = await page.locator('.drop').boundingBox()
    const mouse = await page.context().newCDPSession(page)
    for (const type of ['dragEnter', 'dragOver', 'drop']) {
      await mouse.send('Input.dispatchDragEvent', { type, x: x + 10, y: y + 10, data: { items: [], files: [folder], dragOperationsMask: 1 } })
    }
    await page.getByText('2 new').waitFor()
    await page.getByRole('heading', { name: 'dropped' }).or(page.getByRole('link', { name: 'dropped' })).first().waitFor()
  },

  // The first run without scripts: forms, and pages that are loaded.
  async plain() {
    const page = await person({ javaScriptEnabled: false })
    await page.goto('/')
    await page.getByLabel('E-mail').fill('ada@example.com')
    await page.getByLabel('Password').fill(password)
    await page.getByRole('button', { name: 'Create the account' }).click()
    await page.locator('form[action="/missions"]').getByLabel('Name').fill('Plain')
    await page.locator('form[action="/missions"]').getByRole('button').click()
    await page.getByRole('link', { name: 'New spec' }).first().click()
    await page.getByLabel('Key as').fill('hello')
    await page.getByLabel('Title').first().fill('Hello')
    await page.locator('main form').getByRole('button').first().click()
    await page.getByRole('heading', { name: 'hello' }).waitFor()
    await page.getByRole('heading', { name: 'Plain' }).getByRole('link').or(page.getByRole('link', { name: 'Board' })).first().click()
    await page.getByRole('button', { name: 'Start' }).first().click()
    await column(page, 'Ready').getByRole('link', { name: 'Hello' }).waitFor()
    await page.goto('/agents')
    await page.getByRole('button', { name: 'Create a key' }).click()
    const tool = agent(/tk_[\w-]+/.exec(await page.locator('pre').first().textContent())[0])
    const { missions } = await tool('list_missions', {})
    const { spec, lease_token } = await tool('claim_spec', { mission_id: missions[0].id, agent: 'robin' })
    await page.goto('/agents')
    await page.getByText('robin').waitFor()
    await tool('fail_spec', { spec_id: spec.id, lease_token, reason: 'no idea', retry: false })
    await page.goto('/needs-you')
    await page.getByLabel('Note').fill('Try again')
    await page.getByRole('button', { name: 'Unblock' }).click()
    await page.getByText('Nothing is waiting for you').waitFor()
    await page.goto('/missions/' + missions[0].id + '/activity?errors=1')
    assert.equal(await page.locator('.log li').count(), 1)
    await page.getByRole('link', { name: 'Show all' }).click()
    await page.getByText('blocked → planned').waitFor()
    await page.getByRole('button', { name: 'Log out' }).click()
    await page.getByRole('heading', { name: 'Log in' }).waitFor()
  },

  // On no page, narrow or wide, light or dark, does axe-core find anything, or does the
  // page scroll sideways, or have targets that are too small for a finger.
  async look() {
    const call = await api('root')
    const id = await newMission(call, 'A mission', [['one'], ['two', 'one'], ['three', 'one', 'two'], ['four']])
    await call('POST', `/api/v1/missions/${id}/claim`, { agent: 'a-name-that-is-as-long-as-names-of-agents-may-be' })
    const { items } = await call('GET', `/api/v1/specs?mission_id=${id}`)
    await call('POST', `/api/v1/specs/${items.find((s) => s.key === 'four').id}/status`, { status: 'blocked', notes: 'Why?' })
    await call('POST', `/api/v1/missions/${id}/logs`, { entries: [{ level: 'error', message: 'x '.repeat(400) + '\nhttps://ci.example.com/' }] })
    const paths = ['/', '/needs-you', '/agents', '/keys', '/account', '/users', '/nothing', ...['', '?spec=one', '?q=one', '/graph',
      '/graph?around=two', '/activity', '/activity?errors=1', '/settings', '/new', '/specs/one', '/specs/one/edit'].map((p) => `/missions/${id}${p}`)]
    const found = []
    for (const [width, colorScheme] of [[360, 'light'], [1280, 'dark']]) {
      const page = await person({ viewport: { width, height: 800 }, colorScheme, reducedMotion: 'reduce' })
      for (const path of ['/login', ...paths, '/key']) {
        if (path === '/') await page.logIn('root')
        if (path === '/key') {
          await page.goto('/agents')
          await page.getByRole('button', { name: 'Create a key' }).click()
        } else await page.goto(path)
        const where = `${path} at ${width}, ${colorScheme}`
        await page.evaluate(axe)
        const { violations } = await page.evaluate(() => axe.run())
        found.push(...violations.map((v) => `${where}: ${v.id}: ${v.nodes[0].html} ${v.nodes[0].failureSummary}`))
        const scrolls = () => page.evaluate(() => document.documentElement.scrollWidth > innerWidth)
        if (await scrolls()) found.push(where + ' scrolls sideways')
        const beside = await page.evaluate(() => innerWidth - (document.querySelector('[action="/logout"]')?.getBoundingClientRect().right ?? innerWidth))
        if (beside > 40) found.push(where + ' has the log-out in the middle')
        if (width > 1000) { // which zoomed to 200 % shows as much as half of it
          await page.setViewportSize({ width: width / 2, height: 400 })
          if (await scrolls()) found.push(where + ' scrolls sideways at 200 %')
          await page.setViewportSize({ width, height: 800 })
        }
        const targets = 'button, .button, input:not([type=hidden], [type=checkbox]), select, summary' +
          (width < 400 ? ', main a:not(.prose a, .wrap a, .said a, pre a, .card > a, .mission h2 a)' : '') // which a card is, whole
        const small = await page.evaluate((targets) => [...document.querySelectorAll(targets)]
          .filter((e) => e.checkVisibility() && e.getBoundingClientRect().height < 43.5).map((e) => e.outerHTML), targets)
        found.push(...small.map((target) => `${where}: a small target: ${target}`))
        if (PICTURES) await page.screenshot({ path: `${PICTURES}/${path.replaceAll(/[^a-z]+/g, '-')}-${width}-${colorScheme}.png` })
      }
      await page.context().close()
    }
    assert.deepEqual(found, [])
  },

  // What agents and files say stays text, wherever it is shown.
  async hostile() {
    const call = await api('root')
    const evil = `"><img src=x onerror=alert(1)><script>alert(1)</script>' onclick='alert(1)`
    const { id } = await call('POST', '/api/v1/missions', { name: evil, description: evil, tags: ['<b>'] })
    const links = ['javascript:alert(1)', 'https://x.example/"onmouseover="alert(1)', 'data:text/html,<script>alert(1)</script>']
    const text = `# ${evil}\n\n${evil}\n\n- [ ] ${evil}\n\n| ${evil} |\n|-|\n\n${links.map((l) => `[a](${l}) <${l}>`).join('\n')}\n`
    const spec = await call('POST', `/api/v1/missions/${id}/specs`, { key: 'one', title: evil, phase: evil, tags: [evil.slice(0, 60)], body: text })
    await call('POST', `/api/v1/missions/${id}/start`, {})
    const { lease } = await call('POST', `/api/v1/missions/${id}/claim`, { agent: evil })
    await call('POST', `/api/v1/specs/${spec.id}/progress`, { lease_token: lease.token, message: evil + '\n' + links.join('\n') })
    await call('POST', `/api/v1/missions/${id}/logs`, { entries: [{ level: 'error', message: text, fields: { [evil]: evil } }] })
    await call('POST', '/api/v1/api-keys', { name: evil, scope: 'read' })
    await call('PATCH', '/api/v1/auth/me', { name: evil })
    const page = await person()
    page.on('dialog', (dialog) => assert.fail('a script ran: ' + dialog.message()))
    await page.logIn('root')
    for (const path of ['/', '/needs-you', '/agents', '/keys', '/account', '/users', ...['', '?spec=one', '?tag=' + encodeURIComponent(evil),
      '/graph', '/graph?around=one', '/activity', '/settings', '/specs/one', '/specs/one/edit'].map((p) => `/missions/${id}${p}`)]) {
      await page.goto(path)
      const found = await page.evaluate(() => [...document.querySelectorAll('main :is(img, script, style, iframe), main a')].filter((e) =>
        e.tagName !== 'a' && (e.tagName !== 'A' || !/^(https?|mailto):$/.test(e.protocol))).map((e) => e.outerHTML))
      const handlers = await page.evaluate(() => [...document.querySelectorAll('*')].flatMap((e) => e.getAttributeNames())
        .filter((name) => /^on|^style$/.test(name)))
      assert.deepEqual([...found, ...handlers], [], path)
    }
    await call('POST', `/api/v1/specs/${spec.id}/fail`, { lease_token: lease.token, reason: evil, retry: false })
    await page.goto('/needs-you')
    await page.getByRole('button', { name: 'Unblock' }).first().waitFor()
  },

  // A board with something in each column: the picture in the README.
  async board() {
    const call = await api('root')
    const { id } = await call('POST', '/api/v1/missions', { name: 'Web shop' })
    const specs = {}
    for (const [key, title, criteria, dependencies = [], review = null] of [
      ['001-catalogue', 'Show the catalogue', 3], ['002-search', 'Search for products', 2, ['001-catalogue']],
      ['003-cart', 'Fill a cart', 3, ['001-catalogue'], 'human'], ['004-accounts', 'Sign in with a passkey', 3],
      ['005-invoice', 'Send invoices by e-mail', 4], ['006-shipping', 'Compute shipping costs', 5],
      ['007-news', 'Subscribe to the newsletter', 2], ['008-payment', 'Pay by card', 6, ['004-accounts', '003-cart']],
      ['009-refunds', 'Refund an order', 3, ['008-payment']], ['010-reports', 'Report sales by month', 2, ['005-invoice', '009-refunds']],
      ['011-tax', 'Add sales tax', 4]]) {
      const body = `# ${title}\n\n## Acceptance Criteria\n\n` + '- [ ] It works\n'.repeat(criteria)
      specs[key] = await call('POST', `/api/v1/missions/${id}/specs`, { key, number: key.slice(0, 3), title, body, dependencies, review })
    }
    await call('POST', `/api/v1/missions/${id}/start`, {})
    const { key } = await call('POST', '/api/v1/api-keys', { name: 'agents', scope: 'write' })
    const tool = agent(key)
    const claim = (name) => tool('claim_spec', { mission_id: id, agent: name })
    for (let n = 0; n < 3; n++) await claimAndComplete(tool, id)
    const [togusa, batou] = [await claim('togusa'), await claim('batou')]
    for (const [held, check] of [[togusa, [1, 2]], [batou, [1]]]) {
      await tool('report', { spec_id: held.spec.id, lease_token: held.lease_token, check, message: 'The tests pass.' })
    }
    await tool('ask', { spec_id: batou.spec.id, lease_token: batou.lease_token, question: 'Which address sends the invoices?' })
    await tool('add_spec', { mission_id: id, title: 'Limit the rate of searches', markdown: 'One client can keep the database busy.' })
    await call('POST', `/api/v1/specs/${specs['011-tax'].id}/status`, { status: 'blocked', notes: 'Which countries do we sell to?' })

    const page = await person({ viewport: { width: 1280, height: 680 }, colorScheme: 'light' })
    await page.logIn('root')
    await page.goto(`/missions/${id}`)
    await page.locator('#live.live').waitFor()
    for (const [name, title] of [['Needs you', 'Fill a cart'], ['Needs you', 'Limit the rate of searches'], ['Needs you', 'Add sales tax'],
      ['Waiting', 'Pay by card'], ['Ready', 'Compute shipping costs'], ['Working', 'Sign in with a passkey'], ['Done', 'Show the catalogue']]) {
      await column(page, name).getByRole('link', { name: title }).waitFor()
    }
    if (PICTURES) await page.screenshot({ path: `${PICTURES}/board.png` })
  },

  // Two people on one board: what one does the other sees, and what is written stays.
  async two() {
    const call = await api('root')
    const id = await newMission(call, 'Shared', [['one'], ['two']])
    const board = `/missions/${id}`
    const [ada, bob] = [await person(), await person()]
    for (const page of [ada, bob]) {
      await page.logIn('root')
      await page.goto(board + '?spec=one')
      await page.locator('#live.live').waitFor()
    }
    await bob.getByLabel('Note').fill('Half a sent')
    await ada.getByRole('button', { name: 'Block' }).click()
    await column(ada, 'Needs you').getByRole('link', { name: 'About one' }).waitFor()
    await column(bob, 'Needs you').getByRole('link', { name: 'About one' }).waitFor()
    assert.equal(await bob.getByLabel('Note').inputValue(), 'Half a sent')
    await bob.getByRole('button', { name: 'Put off' }).click() // of the version that bob has seen
    await bob.getByRole('alert').getByText('changed').waitFor()
    assert.equal(await bob.getByLabel('Note').inputValue(), 'Half a sent')
    assert.equal((await call('GET', `/api/v1/specs?mission_id=${id}&status=deferred`)).items.length, 0)

    // Who was faster is said also where the row goes.
    await bob.getByLabel('Note').fill('')
    for (const page of [ada, bob]) await page.goto('/needs-you')
    let look
    const looks = new Promise((done) => look = done) // until then bob's page stays as it is
    await bob.route('**/needs-you', async (route) => route.continue(await looks))
    await ada.getByRole('button', { name: 'Unblock' }).click()
    await ada.getByText('Nothing is waiting for you').waitFor()
    await bob.getByRole('button', { name: 'Start by hand' }).click()
    await bob.getByRole('alert').getByText('root was faster').waitFor()
    look()
    await bob.getByText('Nothing is waiting for you').waitFor()
    await bob.locator('main > .problem').getByText('root was faster').waitFor()
    await bob.locator('main > .problem').getByRole('link', { name: 'About one' }).waitFor()
    assert.equal((await call('GET', `/api/v1/specs?mission_id=${id}&status=planned`)).items.length, 2)

    // An agent's steps at one instance are soon shown by the page of another.
    const page = await person({ baseURL: OTHER, timezoneId: 'Asia/Tokyo' })
    await page.logIn('root')
    const local = async (time) => { // nine hours ahead of UTC, whatever the season
      const at = Date.parse(await time.getAttribute('datetime'))
      assert.equal(await time.textContent(), new Date(at + 9 * 3600e3).toISOString().slice(0, 19).replace('T', ' '))
    }
    await page.goto('/account')
    await local(page.locator('time.exact').first())
    await page.getByRole('button', { name: 'Save' }).click()
    await page.getByRole('status').getByText('Saved.').waitFor()
    await page.goto(board + '/activity')
    await page.locator('#live.live').waitFor()
    const times = []
    for (let n = 0; n < 20; n++) {
      await new Promise((done) => setTimeout(done, 300)) // what comes in a burst is shown at once
      const started = Date.now()
      await call('POST', `/api/v1/missions/${id}/logs`, { entries: [{ level: 'info', message: `line ${n} of twenty` }] })
      await page.getByText(`line ${n} of twenty`).waitFor()
      times.push(Date.now() - started)
    }
    await local(page.locator('.log time').first())
    times.sort((a, b) => a - b)
    console.error(`events are shown after ${times[9]} ms, ${times[18]} ms at the 95th percentile`)
  },

  // What agents hand in, ask and find is decided on one page.
  async decide() {
    const call = await api('root')
    const id = await newMission(call, 'Decisions', [['one'], ['two']], { review: 'human', triage: true })
    const { key } = await call('POST', '/api/v1/api-keys', { name: 'robin', scope: 'write' })
    const tool = agent(key)
    const page = await person()
    await page.logIn('root')
    await page.goto('/needs-you')
    await page.getByText('Nothing is waiting for you').waitFor()
    const row = (text) => page.locator('main li', { hasText: text })

    await claimAndComplete(tool, id)
    await page.goto('/needs-you')
    assert.match(await page.title(), /^\(1\)/)
    let begin
    const begun = new Promise((done) => begin = done)
    await page.route('**/needs-you', async (route) => route.continue(await begun))
    await row('About one').getByRole('button', { name: 'Send back' }).click()
    await page.getByRole('alert').getByText('Note').waitFor() // without one nobody would know why
    await row('About one').getByLabel('Note').focus()
    const fresh = page.waitForResponse('**/needs-you') // a page fitted in under who begins to write
    begin()
    await (await fresh).finished()
    await page.evaluate(() => new Promise(requestAnimationFrame))
    await page.keyboard.type('It needs a test')
    await row('About one').getByRole('button', { name: 'Send back' }).click()
    await page.getByText('Nothing is waiting for you').waitFor()

    const { spec, lease_token } = await tool('claim_spec', { mission_id: id, agent: 'robin' })
    assert.equal(spec.key, 'one') // before what nobody has begun
    const question = await tool('ask', { spec_id: spec.id, lease_token, question: 'Which <b>database</b>?', options: ['PostgreSQL', 'SQLite'], wait_seconds: 0 })
    await tool('add_spec', { mission_id: id, lease_token, title: 'Found <i>it</i>', markdown: 'A bug.' })
    await page.goto('/needs-you')
    await page.locator('#live.live').waitFor()
    for (const text of ['About one', 'Found <i>it</i>']) {
      await page.keyboard.press('j')
      assert.ok((await page.evaluate(() => document.activeElement.textContent)).includes(text), text)
    }
    await row('Which <b>database</b>?').getByRole('button', { name: 'PostgreSQL' }).click()
    await row('Found <i>it</i>').getByRole('button', { name: 'Accept' }).click()
    await page.getByText('Nothing is waiting for you').waitFor()
    const { answer } = await tool('ask', { spec_id: spec.id, lease_token, question_id: question.question_id, wait_seconds: 0 })
    assert.equal(answer, 'PostgreSQL')

    await tool('report', { spec_id: spec.id, lease_token, check: [1] })
    await tool('complete_spec', { spec_id: spec.id, lease_token })
    await page.goto(`/missions/${id}?spec=one`)
    await page.getByText('It needs a test').first().waitFor() // the history tells what was said
    await page.locator('body').press('a')
    await column(page, 'Done').getByRole('link', { name: 'About one' }).waitFor()
    await page.goto(`/missions/${id}/activity`)
    for (const text of ['sent it back', 'It needs a test', 'Which <b>database</b>?', 'PostgreSQL']) {
      await page.locator('.log').getByText(text).first().waitFor()
    }
  },

  // The board by keys alone.
  async keys() {
    const call = await api('root')
    const id = await newMission(call, 'Keys', [['one'], ['two'], ['three', 'one']])
    const page = await person()
    await page.logIn('root')
    await page.goto(`/missions/${id}`)
    await page.locator('#live.live').waitFor()
    const press = (key) => page.keyboard.press(key)
    const focused = () => page.evaluate(() => document.activeElement.textContent.trim())
    await press('j')
    assert.match(await focused(), /About three/) // what waits is on the left
    await press('l')
    assert.match(await focused(), /About one/)
    await press('j')
    assert.match(await focused(), /About two/)
    await press('Enter')
    await page.getByRole('complementary', { name: 'two' }).waitFor()
    assert.match(page.url(), /spec=two/)
    await press('Escape')
    await page.getByRole('complementary').waitFor({ state: 'detached' })
    assert.match(await focused(), /About two/)
    await page.goBack()
    await page.getByRole('complementary', { name: 'two' }).waitFor()
    await press('Escape')
    await page.getByRole('complementary').waitFor({ state: 'detached' })
    await press('/')
    await page.keyboard.type('three')
    await press('Enter')
    await page.getByRole('link', { name: 'Text: three' }).waitFor()
    assert.equal(await page.locator('.card').count(), 1)
    await page.getByRole('link', { name: 'Text: three' }).click()
    await column(page, 'Ready').getByRole('link', { name: 'About two' }).waitFor()
    await press('?')
    await page.getByRole('dialog').waitFor()
    await press('?') // nothing acts behind it
    assert.equal(await page.locator('dialog').count(), 1)
    await press('Escape')
    await page.getByRole('dialog').waitFor({ state: 'detached' })
  },

  // The stream is cut, the server restarts, tabs are hidden, the session ends.
  async live() {
    const call = await api('root')
    const id = await newMission(call, 'Live', [['one'], ['two'], ['three']])
    const { items } = await call('GET', `/api/v1/specs?mission_id=${id}`)
    const path = (key) => `/api/v1/specs/${items.find((s) => s.key === key).id}/status`
    const page = await person()
    await page.logIn('root')
    const tabs = [page]
    for (let n = 1; n < 8; n++) tabs.push(await page.context().newPage())
    for (const tab of tabs) { // over HTTP/1.1 a browser has six connections for all of them
      await tab.goto(`/missions/${id}`)
      await tab.locator('#live.live').waitFor()
      if (tab !== tabs[7]) await hide(tab, true)
    }
    await tabs[7].context().setOffline(true)
    await call('POST', path('one'), { status: 'blocked' })
    await tabs[7].context().setOffline(false)
    await column(tabs[7], 'Needs you').getByRole('link', { name: 'About one' }).waitFor()
    await ask('restart')
    const again = await api('root')
    await again('POST', path('two'), { status: 'blocked' })
    await column(tabs[7], 'Needs you').getByRole('link', { name: 'About two' }).waitFor({ timeout: 180_000 })
    assert.equal(await column(tabs[0], 'Needs you').getByRole('link').count(), 0)
    await hide(tabs[0], false)
    await column(tabs[0], 'Needs you').getByRole('link', { name: 'About two' }).waitFor()

    const other = await person()
    await other.logIn('root')
    await other.goto('/account')
    await other.getByRole('button', { name: 'End all others' }).click()
    await tabs[0].getByRole('heading', { name: 'Log in' }).waitFor()
    await tabs[0].getByLabel('E-mail').fill('root@example.com')
    await tabs[0].getByLabel('Password').fill(password)
    await tabs[0].getByRole('button', { name: 'Log in' }).click()
    await column(tabs[0], 'Needs you').getByRole('link', { name: 'About two' }).waitFor() // and back
  },
}

try {
  await tests[process.argv[2]]()
} catch (error) {
  for (const page of browser.contexts().flatMap((context) => context.pages())) {
    console.error(page.url(), await page.locator('body').ariaSnapshot())
  }
  throw error
}
await browser.close()
console.log('done')
process.exit()
