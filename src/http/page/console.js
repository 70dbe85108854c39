// The console: what the server is doing, asked of it a few times a second while somebody looks, and never else.

import { duration } from '/page/chat.js';
import { el } from '/page/dom.js';
import { drawMap, forgetInks, Plot, short } from '/page/plots.js';
import { getJson } from '/page/server.js';

const $ = (id) => document.getElementById(id);
const BUSY_MS = 250;
const IDLE_MS = 1000;
const WINDOW_SECONDS = 120;
const ROWS_MAX = 28;
/** Rows of requests that have ended, however many are live. */
const ENDED_ROWS = 10;
const SVG = 'http://www.w3.org/2000/svg';

let settings;
let askForKey;
let shown = false;
let paused = false;
let timer = null;
let asking = false;
let failures = 0;
let last = null;
let marked = null;
/** A second each: `{at, rates and percentiles}`, oldest first. */
let seconds = [];
let running = null;
const firsts = new Map();
const plots = {};

export function openConsole(given, needKey) {
  settings = given;
  askForKey = needKey;
  const plot = (id, options) => { plots[id] = new Plot($(`plot-${id}`), { seconds: WINDOW_SECONDS, ...options }); };
  plot('rate', { unit: '', least: 10 });
  plot('load', { unit: '', least: 4 });
  plot('ttft', { unit: ' ms', log: true, least: 1 });
  plot('itl', { unit: ' ms', log: true, least: 1 });
  for (const one of Object.values(plots)) one.canvas.addEventListener('pointermove', () => last && notes());
  $('pause').addEventListener('click', pauseConsole);
  document.addEventListener('visibilitychange', wake);
  addEventListener('keychange', wake);
  addEventListener('themechange', () => { forgetInks(); if (last) draw(); });
  matchMedia('(prefers-color-scheme: dark)').addEventListener('change', () => { forgetInks(); if (last) draw(); });
  new ResizeObserver(() => { if (last && shown) draw(); }).observe($('console'));
}

/** Whether somebody looks at the console. */
export function watch(looked) {
  shown = looked;
  wake();
}

export function pauseConsole() {
  if (!shown) return;
  paused = !paused;
  $('pause').textContent = paused ? 'Go on' : 'Pause';
  $('pause').setAttribute('aria-pressed', String(paused));
  wake();
}

function wake() {
  clearTimeout(timer);
  timer = null;
  if (shown && !paused && !document.hidden) ask();
}

async function ask() {
  if (asking) return;
  asking = true;
  let wait = IDLE_MS;
  try {
    const moment = await getJson('/console/live');
    failures = 0;
    $('notice').hidden = true;
    take(moment);
    if (moment.counts.requests || seconds.at(-1)?.decode) wait = BUSY_MS;
  } catch (error) {
    failures += 1;
    $('notice').hidden = false;
    $('notice').textContent = `${error.message} What you see is from before.`;
    if (error.status === 401) {
      $('notice').textContent = 'The console needs the server’s API key.';
      askForKey();
      return;
    }
    wait = Math.min(8000, 500 * 2 ** failures);
  } finally {
    asking = false;
  }
  if (shown && !paused && !document.hidden) timer = setTimeout(ask, wait);
}

/* Taking a moment in. */

function take(moment) {
  const restarted = last && moment.at_ms < last.at_ms;
  if (restarted) {
    seconds = [];
    running = null;
    firsts.clear();
  }
  for (const request of [...moment.ended, ...moment.live]) {
    if (request.first_text_ms != null) firsts.set(request.request_id, [(request.received_ms + request.first_text_ms) / 1000, request.first_text_ms]);
  }
  const oldest = moment.at_ms / 1000 - WINDOW_SECONDS;
  for (const [id, [time]] of firsts) if (time < oldest) firsts.delete(id);
  // A second that nobody looked at is no zero: after a gap the counting begins anew.
  if (!running || moment.at_ms - running.last.at_ms > 3500) running = { first: moment, last: moment };
  running.last = moment;
  const span = (moment.at_ms - running.first.at_ms) / 1000;
  if (span >= 1) {
    seconds.push(second(running.first, moment, span));
    running = { first: moment, last: moment };
    while (seconds.length && seconds[0].at < oldest) seconds.shift();
  }
  last = moment;
  draw();
}

function second(first, moment, span) {
  const rate = (name) => (moment.totals[name] - first.totals[name]) / span;
  const ladder = (name) => grown(first.latency[name], moment.latency[name]);
  return {
    at: moment.at_ms / 1000, decode: rate('decode_tokens'), prefill: rate('prefill_tokens'),
    running: moment.counts.prefill + moment.counts.decode, prefilling: moment.counts.prefill, waiting: moment.counts.waiting,
    ttft: ladder('ttft'), itl: ladder('itl'),
  };
}

/** What fell on each rung between two looks. */
function grown(before, after) {
  const known = new Map(before);
  return after.map(([end, count]) => [end, count - (known.get(end) ?? 0)]).filter(([, count]) => count > 0);
}

/** The value that a share of all does not exceed, by the ladder's rungs; null for an empty one. */
function quantile(rungs, share) {
  const total = rungs.reduce((sum, [, count]) => sum + count, 0);
  if (!total) return null;
  let left = share * total;
  for (const [end, count] of rungs) {
    // A rung begins an eighth to a ninth below its end.
    if (left <= count) return end * (1 - 0.115 * (1 - left / count));
    left -= count;
  }
  return rungs.at(-1)[0];
}

function lately(name, span = 60) {
  const sum = new Map();
  const from = last.at_ms / 1000 - span;
  for (const one of seconds) if (one.at > from) for (const [end, count] of one[name]) sum.set(end, (sum.get(end) ?? 0) + count);
  return [...sum].sort(([a], [b]) => a - b);
}

/* Drawing. */

function draw() {
  readings();
  batch();
  queue();
  blocks();
  curves();
  notes();
  requests();
  health();
}

function readings() {
  const { counts, totals, kv } = last;
  const recent = seconds.filter((one) => one.at > last.at_ms / 1000 - 10);
  const prefill = recent.reduce((sum, one) => sum + one.prefill, 0) / Math.max(1, recent.length);
  const latency = (name) => {
    const rungs = lately(name);
    const [p50, p95] = [quantile(rungs, 0.5), quantile(rungs, 0.95)];
    return p50 === null ? ['–', ''] : [duration(p50), `p95 ${duration(p95)}`];
  };
  // The fuller group is the one that makes sequences wait.
  const [share, group] = kv ? fuller(kv) : [0, ''];
  const all = [
    ['Answer tokens/s', short(last.tokens_per_second), ''],
    ['Prompt tokens/s', short(prefill), ''],
    ['Running', counts.prefill + counts.decode, counts.prefill ? `${counts.prefill} in prompt` : ''],
    ['Waiting', counts.waiting, counts.waiting ? `${short(counts.waiting_tokens)} tokens` : ''],
    ['KV in use', kv ? `${trimmed(100 * share)} %` : '–', group],
    ['First text, p50', ...latency('ttft')],
    ['Between tokens, p50', ...latency('itl')],
    ['Requests', short(totals.requests), [totals.failed && `${totals.failed} failed`, totals.cancelled && `${short(totals.cancelled)} cancelled`].filter(Boolean).join(', ')],
  ];
  const make = () => el('div', { class: 'reading' }, el('p'), el('strong', {}, el('span'), el('small')), el('p'));
  rows($('readings'), all, ([name]) => name, make, (node, [name, value, small]) => {
    const [label, strong, below] = node.children;
    write(label, name);
    write(strong.firstChild, String(value));
    write(below, small || '\u00a0');
  });
}

function fuller({ full, sliding }) {
  const share = ({ in_use: inUse, total }) => inUse / Math.max(1, total);
  return share(sliding) > share(full) ? [share(sliding), 'sliding window'] : [share(full), 'full attention'];
}

const trimmed = (value) => (value > 0 && value < 10 ? value.toFixed(1) : Math.round(value));

const columns = (names) => el('div', { class: 'line head', role: 'row' }, ...names.map(([name, kind]) => el('span', { class: kind, role: 'columnheader' }, name)));
const cells = (kinds) => el('div', { class: 'line', role: 'row' }, ...kinds.map((kind) => el('span', { class: kind, role: 'cell' })));

function batch() {
  const all = last.batch ?? [];
  const { counts } = last;
  write($('batch-note'), last.batch ? `${counts.prefill} in prompt, ${counts.decode} answering` : 'the scheduler does not answer');
  if (!$('batch').firstChild) $('batch').append(columns([['request', ''], ['doing', 'w'], ['prompt and answer', ''], ['tokens', 'r'], ['blocks', 'r w'], ['for', 'r w']]), el('div', { role: 'rowgroup' }), el('p', { class: 'none' }, 'No sequence runs.'));
  const [, body, none] = $('batch').children;
  none.hidden = all.length > 0;
  const most = Math.max(64, ...all.map((one) => one.prompt_tokens + one.generated_tokens));
  const make = (one) => {
    const node = cells(['id', 'w', '', 'r', 'r w', 'r w dim']);
    node.children[2].append(bar(4));
    node.addEventListener('pointerenter', () => { marked = keyOf(one); blocks(); });
    node.addEventListener('pointerleave', () => { marked = null; blocks(); });
    return node;
  };
  rows(body, all.slice(0, 20), keyOf, make, (node, one) => {
    const [id, doing, progress, tokens, held, age] = node.children;
    name(id, one.request_id, one.choice ? ` ${one.choice}` : '');
    write(doing, one.phase === 'prefill' ? 'prompt' : 'answer');
    doing.className = `w p-${one.phase}`;
    const computed = Math.min(one.computed_tokens, one.prompt_tokens);
    segments(progress.firstChild, most, [['b-prefill', 0, computed], ['b-rest', computed, one.prompt_tokens], ['b-decode', one.prompt_tokens, one.prompt_tokens + one.generated_tokens]]);
    write(tokens, `${one.prompt_tokens} + ${one.generated_tokens}`);
    write(held, `${one.full_blocks} / ${one.sliding_blocks}`);
    write(age, duration(one.age_ms));
  });
}

const keyOf = (one) => `${one.request_id} ${one.choice}`;

function queue() {
  const { counts } = last;
  const waiting = last.queue ?? [];
  const more = counts.waiting - waiting.length;
  write($('queue-note'), counts.waiting ? `${counts.waiting} wait, ${counts.waiting_tokens} prompt tokens${more > 0 ? `; the first ${waiting.length} are shown` : ''}` : counts.building ? `${counts.building} prompts are built` : 'nobody waits');
  rows($('queue'), waiting, keyOf, () => el('i'), (node, one) => {
    node.style.width = `${Math.max(6, Math.min(120, Math.sqrt(one.prompt_tokens) * 2))}px`;
    node.title = `${one.request_id}: ${one.prompt_tokens} tokens, for ${duration(one.age_ms)}`;
  });
}

function blocks() {
  const { kv } = last;
  if (!kv) return;
  const index = (last.batch ?? []).findIndex((one) => keyOf(one) === marked);
  for (const group of ['full', 'sliding']) {
    const { total, free, cached, in_use: inUse, blocks_per_cell: each } = kv[group];
    drawMap($(group), kv[group], last.batch ?? [], index < 0 ? null : index);
    write($(`${group}-note`), `${inUse} in use${cached ? `, ${cached} cached` : ''}, ${free} free of ${total}${each > 1 ? `; ${each} a cell` : ''}`);
    $(group).setAttribute('aria-label', `${group} blocks: ${inUse} in use, ${cached} cached, ${free} free`);
  }
  write($('kv-note'), `${kv.block_tokens} tokens a block, ${bytes(last.memory.kv_bytes ?? 0)} in all`);
}

function curves() {
  const now = last.at_ms / 1000;
  const of = (read) => seconds.map((one) => [one.at, read(one)]);
  const quantiles = (name, share) => seconds.map((one) => [one.at, quantile(one[name], share)]).filter(([, value]) => value !== null);
  const low = quantiles('itl', 0.5);
  const high = quantiles('itl', 0.99);
  plots.rate.draw({ now, series: [{ kind: 'area', ink: 'reply', points: of((one) => one.decode) }, { kind: 'area', ink: 'call', points: of((one) => one.prefill) }] });
  plots.load.draw({ now, series: [{ kind: 'area', ink: 'reply', points: of((one) => one.running) }, { kind: 'steps', ink: 'call', points: of((one) => one.waiting) }] });
  plots.ttft.draw({ now, series: [{ kind: 'dots', ink: 'call', points: [...firsts.values()] }, { kind: 'line', ink: 'ink', points: quantiles('ttft', 0.95) }] });
  plots.itl.draw({ now, series: [{ kind: 'band', ink: 'reply', points: low.map(([at, value], index) => [at, value, high[index][1]]) }, { kind: 'line', ink: 'reply', points: low }] });
}

/** What the plots say in words: at the pointer, or now. */
function notes() {
  const at = (name) => {
    const pointed = plots[name].pointed;
    if (pointed === null) return [seconds.at(-1), ''];
    const time = last.at_ms / 1000 - pointed;
    const near = seconds.reduce((best, one) => (Math.abs(one.at - time) < Math.abs((best?.at ?? -1e9) - time) ? one : best), null);
    return [near && Math.abs(near.at - time) < 2 ? near : null, `${Math.round(pointed)} s ago: `];
  };
  const say = (id, text) => {
    write($(`${id}-note`), text);
    plots[id].canvas.setAttribute('aria-label', text);
  };
  const [rate, rateAt] = at('rate');
  say('rate', rate ? `${rateAt}${short(rate.decode)} answer, ${short(rate.prefill)} prompt` : '');
  const [load, loadAt] = at('load');
  say('load', load ? `${loadAt}${load.running} running, ${load.waiting} waiting` : '');
  for (const name of ['ttft', 'itl']) {
    const pointed = plots[name].pointed;
    const [one, text] = pointed === null ? [null, ''] : at(name);
    const rungs = pointed === null ? lately(name) : one?.[name] ?? [];
    const top = name === 'ttft' ? 0.95 : 0.99;
    say(name, rungs.length ? `${text}p50 ${duration(quantile(rungs, 0.5))}, p${top * 100} ${duration(quantile(rungs, top))}` : pointed === null ? 'nothing in the last minute' : `${text}nothing`);
  }
}

function requests() {
  const ended = last.ended.slice(0, Math.max(ENDED_ROWS, ROWS_MAX - last.live.length));
  const all = [...last.live.toReversed().slice(0, ROWS_MAX - ended.length), ...ended];
  if (!$('requests').firstChild) $('requests').append(columns([['request', ''], ['end', 'w'], ['', ''], ['queued', 'r w'], ['prompt', 'r w'], ['first text', 'r'], ['tokens', 'r w'], ['total', 'r']]), el('div', { role: 'rowgroup' }), el('p', { class: 'none' }, 'No request yet.'));
  const [, body, none] = $('requests').children;
  none.hidden = all.length > 0;
  const ages = all.map((one) => one.age_ms).sort((a, b) => a - b);
  // A few long ones do not make all others specks: they reach the end of their lane.
  const most = Math.max(1, ages[Math.floor(ages.length * 0.9)] ?? 1);
  const make = () => {
    const node = cells(['id', 'w', '', 'r w dim', 'r w dim', 'r', 'r w', 'r']);
    node.children[2].append(bar(5));
    return node;
  };
  rows(body, all, (one) => one.request_id, make, (node, one) => {
    const [id, end, lane, queued, prompt, first, tokens, total] = node.children;
    name(id, one.request_id);
    write(end, one.outcome === 'active' ? one.phase : one.outcome);
    end.className = `w o-${one.outcome}`;
    const until = one.age_ms;
    const prefill = one.prefill_ms ?? one.first_token_ms ?? until;
    const token = one.first_token_ms ?? (one.prefill_ms == null ? prefill : until);
    const lastToken = Math.max(token, one.last_token_ms ?? until);
    segments(lane.firstChild, most, [['b-wait', 0, prefill], ['b-prefill', prefill, token], ['b-decode', token, lastToken], ['b-send', lastToken, until]], one.first_text_ms);
    write(queued, one.prefill_ms == null ? '' : duration(one.prefill_ms));
    write(prompt, one.first_token_ms == null || one.prefill_ms == null ? '' : duration(one.first_token_ms - one.prefill_ms));
    write(first, one.first_text_ms == null ? '' : duration(one.first_text_ms));
    first.title = reasons(one.ttft);
    write(tokens, String(one.completion_tokens));
    write(total, duration(until));
  });
}

/** Where the time to a request's first text went: what took part of it, most first. */
function reasons(ttft) {
  const parts = [
    ['building the prompt', ttft.building_ms], ['queued', ttft.queued_ms], ['held by the window', ttft.window_ms],
    [`prompt in ${ttft.prefill_slices} slices`, ttft.prefill_ms], ['cache miss', ttft.cache_miss_ms], ['preempted', ttft.preempted_ms],
    ['first tokens', ttft.decode_ms],
  ];
  const said = parts.filter(([, ms]) => ms > 0).sort(([, a], [, b]) => b - a).map(([name, ms]) => `${name} ${duration(ms)}`);
  return said.join(', ');
}

function health() {
  const { health: report, totals, counts, memory } = last;
  const cache = totals.prompt_cache_hits + totals.prompt_cache_misses;
  const all = [
    ['Status', report.status], ['Score', String(report.health_score)], ['Engine', last.draining ? 'draining' : last.engine],
    ['Up for', uptime(last.at_ms / 1000)], ['Heartbeat', `${duration(last.heartbeat_age_ms)} ago`], ['Profile', report.profile.replaceAll('_', ' ')],
    ['Model', report.model_id], ['Context', memory.context_tokens_max ? `${memory.context_tokens_max} tokens` : '–'],
    ['Weights as', `${report.dtype}, ${report.model.gpu_mode === 'none' ? 'CPU' : 'GPU'}`], ['Memory', bytes(memory.rss_bytes)],
    ['Streams, sessions', `${counts.streams}, ${counts.sessions}`], ['Refused', String(totals.rejected)],
    ['Prompt cache', cache ? `${Math.round((100 * totals.prompt_cache_hits) / cache)} % hits` : '–'],
    ['Preemptions', String(totals.preemptions)], ['Engine restarts', String(totals.engine_restarts)], ['Version', settings.version],
  ];
  const lines = [...all.map(([label, value]) => [label, el('dt', {}, label), el('dd', {}, value)]), ...report.problems.map((text) => [text, el('dd', { class: 'wide' }, text)])];
  $('health').replaceChildren(...lines.flatMap(([, ...nodes]) => nodes));
}

/* Small things. */

/** Keeps the children of `place` in step with `items`: made once, updated each time, in the items' order. */
function rows(place, items, keyed, make, update) {
  const known = new Map([...place.children].map((node) => [node.dataset.key, node]));
  items.forEach((item, index) => {
    const itemKey = keyed(item);
    let node = known.get(itemKey);
    known.delete(itemKey);
    if (!node) {
      node = make(item);
      node.dataset.key = itemKey;
    }
    if (place.children[index] !== node) place.insertBefore(node, place.children[index] ?? null);
    update(node, item);
  });
  for (const node of known.values()) node.remove();
}

function write(node, text) {
  if (node.textContent !== text) node.textContent = text;
}

/** The part of an id that tells requests apart. */
function name(node, id, more = '') {
  write(node, id.replace(/^[a-z]+-/, '').slice(0, 8) + more);
  if (node.title !== id) node.title = id;
}

function bar(count) {
  const svg = document.createElementNS(SVG, 'svg');
  svg.setAttribute('aria-hidden', 'true');
  for (let at = 0; at < count; at += 1) svg.append(document.createElementNS(SVG, 'rect'));
  return svg;
}

/** Draws `[class, from, to]` on a bar that is `most` long, and a mark. */
function segments(svg, most, parts, mark = null) {
  const place = (value) => Math.min(100, (100 * value) / most);
  [...svg.children].forEach((rect, index) => {
    const [kind, from, to] = parts[index] ?? [mark === null || mark === undefined ? '' : 'b-first', mark ?? 0, mark ?? 0];
    const isMark = index >= parts.length;
    const wide = place(to) - place(from);
    const attributes = { class: kind, x: `${place(from)}%`, y: isMark ? -1 : 2, height: isMark ? 15 : 9, width: isMark ? (kind ? 2 : 0) : to > from ? `${Math.max(wide, 0.3)}%` : 0 };
    for (const [key, value] of Object.entries(attributes)) if (rect.getAttribute(key) !== String(value)) rect.setAttribute(key, value);
  });
}

function bytes(count) {
  const units = ['B', 'KiB', 'MiB', 'GiB', 'TiB'];
  let [value, at] = [count, 0];
  while (value >= 1000 && at < units.length - 1) [value, at] = [value / 1024, at + 1];
  return `${value < 10 && at ? value.toFixed(1) : Math.round(value)} ${units[at]}`;
}

function uptime(total) {
  const [days, hours, minutes] = [Math.floor(total / 86400), Math.floor(total / 3600) % 24, Math.floor(total / 60) % 60];
  if (days) return `${days} d ${hours} h`;
  return hours ? `${hours} h ${minutes} min` : minutes ? `${minutes} min` : `${Math.floor(total)} s`;
}
