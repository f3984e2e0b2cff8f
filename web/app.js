// The pages in a browser that runs scripts: they follow their stream, and take
// keys, without losing what somebody is reading or writing. Whatever is newer is
// fetched whole and fitted in; without this file every page works by itself.

const wait = (ms) => new Promise((done) => setTimeout(done, ms));
const find = (selector, within = document) => within.querySelector(selector);
const all = (selector, within = document) => [...within.querySelectorAll(selector)];

// Fitting in

// dirty says whether somebody has begun to fill in a form.
function dirty(form) {
  return [...form.elements].some((field) =>
    field.type === 'hidden' ? false
    : 'selectedIndex' in field
      ? field.selectedIndex !== Math.max(0, [...field.options].findIndex((o) => o.defaultSelected))
    : field.type === 'checkbox' ? field.checked !== field.defaultChecked
    : 'defaultValue' in field && field.value !== field.defaultValue);
}

// busy says whether something must stay although the page no longer has it.
const busy = (node) => node.nodeType === 1 &&
  (node.matches('dialog, .problem') || [node, ...all('form', node)].some((one) => one.matches('form') && dirty(one)));

// fit makes old look like now, and keeps what is in both: its focus, its scrolling,
// what is open, and what is written in it.
function fit(old, now) {
  if (old.nodeType !== 1) {
    if (old.data !== now.data) old.data = now.data;
    return;
  }
  if (old.matches('form') && dirty(old)) return;
  const kept = old.matches('details, dialog') ? ['open'] : [];
  for (const { name } of [...old.attributes]) {
    if (!now.hasAttribute(name) && !kept.includes(name)) old.removeAttribute(name);
  }
  for (const { name, value } of now.attributes) {
    if (old.getAttribute(name) !== value && !kept.includes(name)) old.setAttribute(name, value);
  }
  const named = new Map([...old.children].filter((child) => child.id).map((child) => [child.id, child]));
  let at = old.firstChild;
  if (at?.className === 'problem') at = at.nextSibling; // nothing moves before it, since what moves loses the focus
  for (const want of [...now.childNodes]) {
    let have = named.get(want.id) ?? null;
    if (!want.id) for (have = at; have && (have.id || have.nodeName !== want.nodeName);) have = have.nextSibling;
    if (!have || have.nodeName !== want.nodeName) {
      old.insertBefore(document.importNode(want, true), at);
      continue;
    }
    if (have === at) at = at.nextSibling;
    else old.insertBefore(have, at);
    fit(have, want);
  }
  while (at) {
    const next = at.nextSibling;
    if (!busy(at)) {
      if (at.nodeType === 1) all('.problem', at).forEach(rescue);
      at.remove();
    }
    at = next;
  }
}

// rescue keeps what was said in a form that goes, such as who was faster, at the top.
function rescue(problem) {
  const about = find('a', problem.closest('li') ?? problem);
  if (about) problem.prepend(about.cloneNode(true));
  find('main > .problem')?.remove();
  find('main').prepend(problem);
}

// show fits a whole page in, and gives the focus back to what has moved.
function show(page) {
  const before = document.activeElement, place = before?.closest('[id]')?.id;
  const columns = new Map(all('.card').map((card) => [card.id, card.closest('.column')?.id]));
  document.title = page.title;
  const mark = find('#live'), fresh = find('#live', page);
  if (mark && fresh) fresh.replaceWith(mark.cloneNode(true));
  fit(document.body, page.body);
  for (const card of all('.card')) {
    card.classList.toggle('fresh', columns.size > 0 && columns.get(card.id) !== card.closest('.column')?.id);
  }
  if (before !== document.body && before?.isConnected) before.focus({ preventScroll: true }); // also if it was moved
  else if (before !== document.body) {
    const again = document.getElementById(place);
    (find('a, button', again ?? document.createElement('i')) ?? find('#main')).focus({ preventScroll: true });
  }
  tell();
}

// Fetching

const html = { Accept: 'text/html' };
let latest = 0; // of what was asked for: an answer that a later one has overtaken isn't shown

// load shows the page at an address. It reports whether the server gave one.
async function load(to = location.href) {
  const mine = ++latest;
  const response = await fetch(to, { headers: html });
  if (new URL(response.url).pathname === '/login' && location.pathname !== '/login') return leave();
  const text = await response.text();
  if (response.status >= 500 || response.status === 429) return false;
  if (mine === latest) show(new DOMParser().parseFromString(text, 'text/html'));
  return true;
}

// leave goes to the log-in, and back from there.
function leave() {
  mark('out', 'signed out');
  if (all('form').some(dirty)) return true;
  location.href = '/login?next=' + encodeURIComponent(location.pathname + location.search);
  return true;
}

// go follows a link to another view of this page.
async function go(to, push = true) {
  if (push) history.pushState(null, '', to);
  const opened = find('#drawer')?.getAttribute('aria-label');
  for (const form of all('#drawer form')) form.reset(); // who goes on has done with it
  try {
    if (!(await load(to))) throw 0;
  } catch {
    location.href = to;
    return;
  }
  const drawer = find('#drawer');
  if (drawer && drawer.getAttribute('aria-label') !== opened) {
    drawer.scrollTop = 0;
    find('.close', drawer).focus();
  } else if (!drawer && opened) {
    find('a', document.getElementById('c-' + opened) ?? find('#main'))?.focus();
  }
}

// Following

let stream, timer, loading, again, failures = 0;

function mark(state, words) {
  const live = find('#live');
  if (live && live.textContent !== words) [live.className, live.textContent] = [state, words];
}

const after = () => Number(document.body.dataset.after);

// refresh loads the page, once more if it is asked to meanwhile, and again and
// again where that fails.
async function refresh() {
  if (loading) return void (again = true);
  loading = true;
  do {
    again = false;
    try {
      if (!(await load())) throw 0;
      failures = 0;
      polled();
    } catch {
      mark('behind', 'behind');
      await wait(Math.min(15000, 500 * 2 ** failures++) * (0.7 + 0.6 * Math.random()));
      again = !document.hidden;
    }
    await wait(200); // a burst of events is one page
  } while (again);
  loading = false;
}

// polled marks a page that no stream keeps up to date.
const polled = () => 'poll' in document.body.dataset && !document.body.dataset.follow && !document.hidden &&
  mark('live', 'every 10 s');

function follow() {
  clearInterval(timer);
  stream?.close();
  stream = null;
  const { follow: path, poll } = document.body.dataset;
  if (document.hidden) return mark('', 'paused');
  if (poll !== undefined) timer = setInterval(refresh, 10000);
  if (!path) return polled();
  const own = stream = new EventSource(path + '?after=' + after());
  own.onopen = () => mark('live', 'live');
  own.onmessage = ({ lastEventId }) => Number(lastEventId) > after() && refresh();
  own.onerror = async () => {
    mark('behind', 'behind');
    if (own.readyState !== EventSource.CLOSED) return; // the browser tries again by itself
    await wait(1000);
    if (own !== stream || document.hidden) return;
    await refresh(); // the number is too old or too new, or the session has ended
    if (own === stream) follow();
  };
}

document.addEventListener('visibilitychange', () => {
  follow();
  if (!document.hidden && (document.body.dataset.follow || 'poll' in document.body.dataset)) refresh();
});

// Links and forms

addEventListener('popstate', () => go(location.href, false));

document.addEventListener('click', (event) => {
  const link = event.target.closest('a[href]');
  if (!link || event.defaultPrevented || event.button) return;
  if (event.metaKey || event.ctrlKey || event.shiftKey || event.altKey) return;
  if (link.origin !== location.origin || link.pathname !== location.pathname) return;
  if (!link.getAttribute('href').startsWith('?')) return;
  event.preventDefault();
  go(link.href);
});

document.addEventListener('submit', async (event) => {
  const form = event.target, button = event.submitter;
  if (form.method !== 'post' || form.dataset.plain !== undefined) return;
  if (/\/(login|register|logout)$/.test(form.action)) return;
  event.preventDefault();
  if (form.ariaBusy) return;
  form.ariaBusy = 'true';
  for (const said of [find('.problem', form), find('main > .problem')]) said?.remove();
  const files = form.enctype === 'multipart/form-data';
  const data = new FormData(form, button);
  if (files) {
    const chosen = [...find('[type=file]', form).files];
    takeFiles(data, dropped.get(form) ?? chosen.map((file) => [file.webkitRelativePath || file.name, file]));
  }
  const mine = ++latest;
  try {
    const body = files ? data : new URLSearchParams(data);
    const response = await fetch(form.action, { method: 'POST', headers: html, body });
    const page = new DOMParser().parseFromString(await response.text(), 'text/html');
    if (response.redirected) {
      const to = new URL(response.url);
      if (to.pathname === '/login') return leave();
      form.reset();
      if (to.pathname !== location.pathname) return void (location.href = to);
      if (to.href !== location.href) history.pushState(null, '', to);
      if (mine === latest) show(page);
      else refresh();
    } else if (response.ok) {
      show(page);
    } else {
      refuse(form, find('.problem', page)?.innerHTML);
      refresh();
    }
  } catch {
    refuse(form);
    refresh();
  } finally {
    form.ariaBusy = null;
  }
});

// refuse says in a form why it wasn't done, until it is sent again. What is written
// in it stays.
function refuse(form, why = '<p>The server can’t be reached. Nothing is lost: try again.</p>') {
  const box = document.createElement('div');
  box.className = 'problem';
  box.role = 'alert';
  box.innerHTML = why; // a part of a page of this server
  form.prepend(box);
}

// Folders

const dropped = new WeakMap(); // files by the form that they were dropped on
const read = /\.(md|markdown|jsonl?)$/i; // the server says which of these are specs
const unread = /(^|\/)(\.git|node_modules|__MACOSX)\//;

function takeFiles(data, files) {
  data.delete('files');
  for (const [path, file] of files) if (read.test(path) && !unread.test(path)) data.append('files', file, path);
}

async function filesOf(entry, path = entry.name) {
  if (entry.isFile) return [[path, await new Promise((done, fail) => entry.file(done, fail))]];
  if (unread.test(path + '/')) return [];
  const reader = entry.createReader(), files = [];
  for (let some; (some = await new Promise((done, fail) => reader.readEntries(done, fail))).length;) {
    for (const inner of some) files.push(...await filesOf(inner, path + '/' + inner.name));
  }
  return files;
}

for (const kind of ['dragover', 'dragleave', 'drop']) {
  document.addEventListener(kind, async (event) => {
    const area = event.target.closest?.('.drop');
    area?.classList.toggle('over', kind === 'dragover');
    if (!area || kind === 'dragleave') return;
    event.preventDefault();
    if (kind !== 'drop') return;
    const entries = [...event.dataTransfer.items].map((item) => item.webkitGetAsEntry()).filter(Boolean);
    const form = area.closest('form'), name = find('[name=name]', form);
    dropped.set(form, (await Promise.all(entries.map((entry) => filesOf(entry)))).flat());
    find('[type=file]', form).required = false;
    if (name && !name.value) name.value = entries[0]?.name ?? '';
    form.requestSubmit();
  });
}

// Keys

const keys = ['j k next and previous card', 'h l previous and next column', 'Enter opens', 'Esc closes', '/ filter',
  'a approve', 'r send back'];

function move(down, right) {
  const columns = all('.column').map((column) => all('.card > a', column)).filter((cards) => cards.length);
  if (!columns.length) columns.push(all('main li > p:first-child > a')); // of a list
  if (!columns[0].length) return;
  let x = columns.findIndex((cards) => cards.includes(document.activeElement));
  let y = x < 0 ? -1 : columns[x].indexOf(document.activeElement);
  if (x < 0) [x, y] = [0, 0];
  else [x, y] = [Math.max(0, Math.min(columns.length - 1, x + right)), Math.max(0, y + down)];
  const cards = columns[x];
  cards[Math.min(y, cards.length - 1)].focus();
}

document.addEventListener('keydown', (event) => {
  const { key, target } = event;
  if (event.ctrlKey || event.metaKey || event.altKey || find('dialog[open]')) return;
  if (key === 'Escape') {
    if (target.matches('input, textarea, select')) target.blur();
    else find('.close')?.click();
    return;
  }
  if (target.matches('input, textarea, select')) return;
  const act = {
    j: () => move(1, 0), k: () => move(-1, 0), l: () => move(0, 1), h: () => move(0, -1),
    '/': () => {
      const field = find('[role=search] :is(input, select)');
      const around = field?.closest('details');
      if (around) around.open = true;
      field?.focus();
    },
    '?': () => {
      const box = document.createElement('dialog');
      box.ariaLabel = 'Keys';
      box.append(...keys.map((line) => Object.assign(document.createElement('p'), { textContent: line })));
      box.onclose = () => box.remove();
      document.body.append(box);
      box.showModal();
    },
  }[key] ?? (() => press(key, target));
  if (act() !== false) event.preventDefault();
});

// press clicks what has a key: in the drawer, or in the row that has the focus.
function press(key, target) {
  const scope = find('#drawer') ?? target.closest('li') ?? find('[data-page=spec]');
  const button = scope && all('[data-key]', scope).find((one) => one.dataset.key === key);
  if (!button) return false;
  const note = find('[name=notes]', button.form ?? scope);
  if (key === 'r' && note && !note.value) note.focus();
  else button.click();
}

// A graph that is wider than the window is shown from its middle.
for (const box of all('.scroll')) box.scrollLeft = (box.scrollWidth - box.clientWidth) / 2;

// Copying

for (const block of all('.copy')) {
  const button = Object.assign(document.createElement('button'), { textContent: 'Copy' });
  button.onclick = () => navigator.clipboard.writeText(block.textContent.trim())
    .then(() => button.textContent = 'Copied', () => getSelection().selectAllChildren(block));
  if (navigator.clipboard) block.after(button); // it isn't there without HTTPS, but for this machine
}

// Times

const span = (s) => s < 60 ? `${Math.max(0, Math.floor(s))} s` : s < 3600 ? `${Math.floor(s / 60)} min`
  : s < 172800 ? `${Math.floor(s / 3600)} h` : `${Math.floor(s / 86400)} days`;

// tell writes the times as the server does, but points in time as the clock here has them.
function tell() {
  for (const time of all('time')) {
    const at = new Date(time.dateTime), s = (Date.now() - at) / 1000;
    let words = span(s);
    if (time.matches('.exact')) words = at.toLocaleString('sv'); // which is written as in ISO 8601
    if (time.matches('.lease')) {
      time.classList.toggle('late', s > -30);
      words = s >= 0 ? 'late: the lease is over' : s > -30 ? `late: ${span(-s)} left` : `${span(-s)} left`;
    }
    if (time.textContent !== words) time.textContent = words; // or what is selected would be lost
  }
}

tell();
setInterval(tell, 5000);
follow();
