// The chat: what was said, what is being said, and what it takes to ask.

import { copied } from '/page/code.js';
import { el } from '/page/dom.js';
import { Markdown } from '/page/markdown.js';
import { getJson, stream, Trouble } from '/page/server.js';

const $ = (id) => document.getElementById(id);
const KEPT = 'antiphon-chat'; // In sessionStorage: a reload keeps the conversation, closing the tab forgets it.
const STARTS = ['Write Python code that prints "Jay".', 'Count from 1 to 20', 'Write a Python function that adds two numbers.', 'What is the capital of France?'];
/** How long an answer may take to begin before its place in the queue is asked for, and then again. */
const QUEUE_MS = 700;
const EXAMPLE = {
  name: 'get_weather',
  description: 'Get the current weather',
  parameters: { type: 'object', properties: { city: { type: 'string', description: 'The city' } }, required: ['city'] },
};

let settings;
let askForKey;
/** What was said, as the server takes it, each with what is shown of it. */
let turns = [];
let tools = [];
let running = null;
/** A finger has no Shift: there Enter is a new line, and the button sends. */
const byTouch = () => matchMedia('(hover: none) and (pointer: coarse)').matches;

export function openChat(given, needKey) {
  settings = given;
  askForKey = needKey;
  $('empty-model').textContent = settings.model;
  $('starts').replaceChildren(...STARTS.map((text) => el('li', {}, el('button', { type: 'button', onclick: () => say(text) }, text))));
  const profiles = [el('option', { value: '' }, 'server’s own'), ...settings.profiles.map((name) => el('option', { value: name }, name.replaceAll('_', ' ')))];
  $('profile').replaceChildren(...profiles);
  restore();
  const input = $('input');
  input.addEventListener('input', fit);
  addEventListener('resize', fit);
  input.addEventListener('keydown', (event) => {
    if (event.key === 'Enter' && !event.shiftKey && !event.isComposing && !byTouch()) {
      event.preventDefault();
      say(input.value);
    }
  });
  $('send').addEventListener('click', () => say(input.value));
  $('stop').addEventListener('click', stop);
  $('new').addEventListener('click', askToRenew);
  $('new-dialog').querySelector('form').addEventListener('submit', (event) => {
    event.preventDefault();
    $('new-dialog').close();
    renew();
  });
  $('jump').addEventListener('click', follow);
  $('scroll').addEventListener('scroll', () => { $('jump').hidden = atEnd(); });
  for (const id of ['profile', 'system', 'temperature', 'max-tokens', 'seed', 'effort']) $(id).addEventListener('change', keep);
  openTools();
  fit();
}

/* What is kept over a reload. */

function keep() {
  const kept = turns.map(({ view, before, ...turn }) => turn);
  const options = Object.fromEntries(['profile', 'system', 'temperature', 'max-tokens', 'seed'].map((id) => [id, $(id).value]));
  try {
    sessionStorage.setItem(KEPT, JSON.stringify({ turns: kept, tools, options, effort: effort() }));
  } catch { /* The tab's storage is full: the chat goes on without. */ }
}

function restore() {
  let kept;
  try {
    kept = JSON.parse(sessionStorage.getItem(KEPT)) ?? {};
  } catch {
    kept = {};
  }
  tools = kept.tools ?? [];
  for (const [id, value] of Object.entries(kept.options ?? {})) $(id).value = value;
  if ($('profile').selectedIndex < 0) $('profile').value = '';
  const chosen = document.querySelector(`#effort input[value="${kept.effort ?? 'medium'}"]`);
  if (chosen) chosen.checked = true;
  for (const turn of Array.isArray(kept.turns) ? kept.turns : []) add(turn);
  refresh();
  follow();
}

const effort = () => document.querySelector('#effort input:checked').value;

/* Asking. */

function say(text) {
  if (running || !text.trim()) return;
  $('input').value = '';
  fit();
  add({ role: 'user', content: text.trim() });
  answer();
}

/** The body of a request; throws what is wrong with the settings. */
function body() {
  const number = (id, name, test) => {
    const text = $(id).value.trim();
    if (!text) return undefined;
    const value = Number(text.replace(',', '.'));
    if (!test(value)) throw new Trouble(`${name} in the settings is “${text}”, which cannot be used.`);
    return value;
  };
  const said = turns.filter((turn) => turn.role !== 'assistant' || turn.content || turn.calls?.length);
  const messages = said.map(({ role, content, calls, reasoning, id }) => {
    if (role === 'tool') return { role, tool_call_id: id, content };
    if (role === 'user') return { role, content };
    const tool_calls = calls?.map((call) => ({ id: call.id, type: 'function', function: { name: call.name, arguments: call.arguments } }));
    return { role, content: content || (tool_calls ? null : ''), ...(tool_calls && { tool_calls, reasoning }) };
  });
  const system = $('system').value.trim();
  if (system) messages.unshift({ role: 'system', content: system });
  return {
    model: settings.model, messages, stream: true, stream_options: { include_usage: true }, reasoning_effort: effort(),
    profile: $('profile').value || undefined,
    temperature: number('temperature', 'The temperature', (value) => value >= 0 && value <= 2),
    max_completion_tokens: number('max-tokens', 'The most tokens', (value) => Number.isInteger(value) && value > 0),
    seed: number('seed', 'The seed', Number.isSafeInteger),
    tools: tools.length ? tools.map((tool) => ({ type: 'function', function: tool })) : undefined,
  };
}

async function answer() {
  let request;
  const turn = { role: 'assistant', content: '', reasoning: '', times: {} };
  running = new AbortController();
  const { signal } = running;
  turn.times.asked = performance.now();
  try {
    request = body();
    add(turn);
    turn.view.node.classList.add('live');
    refresh();
    await stream('/v1/chat/completions', request, signal, (event, id) => take(turn, event, id), (id) => watchQueue(turn, id, signal));
    turn.end ??= 'stop';
  } catch (error) {
    if (!turn.view) add(turn);
    if (error.name === 'AbortError') turn.end = 'stopped';
    else turn.trouble = { message: error.message, detail: error.detail ?? '', code: error.code ?? '', retrySeconds: error.retrySeconds ?? 0 };
    if (error.status === 401) askForKey(retry);
  } finally {
    running = null;
    turn.times.ended = performance.now();
    const follows = atEnd();
    turn.view.node.classList.remove('live');
    show(turn);
    refresh();
    if (follows) follow();
    keep();
    $('said').textContent = turn.trouble?.message ?? turn.content;
  }
}

function take(turn, event, id) {
  turn.request = id;
  if (event.usage) turn.usage = event.usage;
  const choice = event.choices?.[0];
  if (!choice) return;
  const { delta } = choice;
  if (delta.content || delta.reasoning || delta.tool_calls) turn.times.first ??= performance.now();
  if (delta.reasoning) turn.reasoning += delta.reasoning;
  if (delta.content) {
    turn.times.content ??= performance.now();
    turn.content += delta.content;
  }
  for (const call of delta.tool_calls ?? []) {
    turn.calls ??= [];
    const own = (turn.calls[call.index] ??= { id: call.id, name: call.function.name, arguments: '' });
    own.arguments += call.function.arguments ?? '';
  }
  if (choice.finish_reason) turn.end = choice.finish_reason;
  schedule(turn);
}

/** Closing the connection is what tells the server: it frees the answer's blocks before the next step. */
function stop() {
  running?.abort();
}

export function stopAnswer() {
  if (!running) return false;
  stop();
  return true;
}

function retry() {
  while (turns.at(-1)?.role === 'assistant') drop();
  if (turns.length) answer();
}

function drop() {
  turns.pop().view.node.remove();
}

/** A chat that was begun is only deleted on purpose. */
export function askToRenew() {
  if (turns.length) $('new-dialog').showModal();
}

function renew() {
  stop();
  while (turns.length) drop();
  refresh();
  keep();
  $('input').focus();
}

/* Showing. */

function add(turn) {
  turns.push(turn);
  turn.view = makeView(turn);
  $('turns').append(turn.view.node);
  show(turn);
  refresh();
  follow();
}

function makeView(turn) {
  const names = { user: 'You', assistant: 'The model', tool: 'A tool' };
  const node = el('li', { class: `turn ${turn.role}` }, el('h2', { class: 'sr' }, names[turn.role]));
  if (turn.role !== 'assistant') return { node, text: node.appendChild(el('div', { class: 'text' })) };
  const glimpse = el('span', { class: 'glimpse' });
  const label = el('span');
  const thought = el('div', { class: 'thought' });
  const think = el('details', { class: 'think', hidden: true }, el('summary', {}, label, glimpse), thought);
  const place = el('div', { class: 'answer' });
  const [calls, trouble, meta] = [el('div'), el('div'), el('div', { class: 'meta' })];
  node.append(think, place, calls, trouble, meta);
  return { node, think, label, glimpse, thought, answer: place, markdown: new Markdown(place), calls, trouble, meta, cards: [] };
}

let due = null;
function schedule(turn) {
  if (due) return;
  due = requestAnimationFrame(() => {
    due = null;
    const follows = atEnd();
    show(turn);
    if (follows) follow();
  });
}

/** Shows a turn; one that cannot be shown is shown as the text that it is, and hides nothing else. */
function show(turn) {
  const { view } = turn;
  try {
    if (turn.role === 'user') view.text.textContent = turn.content;
    else if (turn.role === 'tool') view.text.replaceChildren(el('b', {}, turn.name), ' gave ', turn.content);
    else showAnswer(turn, view);
  } catch (error) {
    console.warn('a turn cannot be shown', error);
    const plain = [turn.reasoning, turn.content].filter((text) => typeof text === 'string' && text).join('\n\n');
    view.node.replaceChildren(el('pre', { class: 'plain' }, plain), view.meta ?? '');
  }
}

function showAnswer(turn, view) {
  const live = view.node.classList.contains('live');
  const { reasoning, times } = turn;
  view.think.hidden = !reasoning;
  if (reasoning) {
    const until = times.content ?? times.ended;
    const seconds = until && times.first ? ` for ${duration(until - times.first)}` : '';
    view.label.textContent = live && !turn.content ? 'Thinking' : `Thought${seconds}`;
    view.glimpse.textContent = live && !turn.content ? reasoning.slice(-160).replace(/^\S*\s/, '').replace(/\s+/g, ' ') : '';
    grow(view.thought, reasoning);
  }
  view.markdown.show(turn.content, !live);
  showCalls(turn, view, live);
  view.trouble.replaceChildren(...(turn.trouble ? [broken(turn)] : []));
  view.meta.replaceChildren(...(live ? waits(turn) : facts(turn)));
}

/** Makes a node's text `text`; what is new is appended. */
function grow(node, text) {
  const shown = node.firstChild;
  if (shown && text.startsWith(shown.data)) shown.appendData(text.slice(shown.length));
  else node.textContent = text;
}

function showCalls(turn, view, live) {
  (turn.calls ?? []).forEach((call, index) => {
    const card = (view.cards[index] ??= makeCard(turn, call, view));
    card.text.textContent = pretty(call.arguments);
    card.result.hidden = live || answered(call);
  });
}

const answered = (call) => turns.some((turn) => turn.role === 'tool' && turn.id === call.id);

function makeCard(turn, call, view) {
  const text = el('pre');
  const input = el('textarea', { rows: 1, 'aria-label': `Result of ${call.name}`, placeholder: 'Its result, as JSON or text', spellcheck: 'false' });
  const give = () => {
    if (running || !input.value.trim()) return;
    card.result.hidden = true;
    add({ role: 'tool', id: call.id, name: call.name, content: input.value.trim() });
    if (turn.calls.every(answered)) answer();
  };
  input.addEventListener('keydown', (event) => {
    if (event.key === 'Enter' && !event.shiftKey) {
      event.preventDefault();
      give();
    }
  });
  const result = el('div', { class: 'result' }, input, el('button', { type: 'button', class: 'quiet', onclick: give }, 'Give result'));
  const card = { text, result };
  view.calls.append(el('div', { class: 'toolcall' }, el('header', {}, el('b', {}, call.name), el('span', {}, 'is called with')), text, result));
  return card;
}

function pretty(json) {
  try {
    return JSON.stringify(JSON.parse(json), null, 2);
  } catch {
    return json;
  }
}

function broken({ trouble, content }) {
  const wait = trouble.retrySeconds ? ` It may work again in ${trouble.retrySeconds} s.` : '';
  const kept = content ? ' What arrived is kept above.' : '';
  return el('div', { class: 'broken' }, el('b', {}, trouble.message + wait + kept), trouble.detail ? el('small', {}, trouble.detail) : null);
}

/** Asks how many wait before an answer that has not begun, until it has. */
async function watchQueue(turn, id, signal) {
  const began = () => signal.aborted || running?.signal !== signal || turn.times.first;
  for (;;) {
    await new Promise((resolve) => { setTimeout(resolve, QUEUE_MS); });
    if (began()) return;
    try {
      const { queue } = await getJson('/console/live', { signal });
      if (began()) return;
      const place = queue?.findIndex((one) => one.request_id === id) ?? -1;
      turn.before = place < 0 ? null : place;
      schedule(turn);
    } catch {
      return; // A server that does not show its queue still answers.
    }
  }
}

function waits({ before, times }) {
  if (times.first || before == null) return [];
  const words = before ? `${before} ${before === 1 ? 'request waits' : 'requests wait'} before this one` : 'next in the queue';
  return [el('span', { role: 'status' }, words)];
}

function facts(turn) {
  const { times, usage } = turn;
  const parts = [];
  if (times.first) parts.push(`first token ${duration(times.first - times.asked)}`);
  if (usage) {
    parts.push(`${usage.completion_tokens} tokens`);
    const seconds = (times.ended - times.first) / 1000;
    if (seconds > 0.005 && usage.completion_tokens > 1) parts.push(`${Math.round((usage.completion_tokens - 1) / seconds)} a second`);
  }
  const ends = { length: 'cut at the most tokens', stopped: 'stopped', cancelled: 'cancelled by the server', tool_calls: 'waits for a result' };
  if (ends[turn.end]) parts.push(ends[turn.end]);
  const copy = el('button', { type: 'button', class: 'quiet', onclick: () => copied(copy, turn.content) }, 'Copy');
  const again = el('button', { type: 'button', class: 'quiet', onclick: () => running || turn !== turns.at(-1) || retry() }, 'Again');
  const last = turn === turns.at(-1);
  return [...parts.map((part) => el('span', {}, part)), turn.content ? copy : null, last ? again : null].filter(Boolean);
}

export function duration(ms) {
  if (ms < 10) return `${ms.toFixed(1)} ms`;
  return ms < 1000 ? `${Math.round(ms)} ms` : `${(ms / 1000).toFixed(ms < 10000 ? 1 : 0)} s`;
}

function refresh() {
  $('empty').hidden = turns.length > 0;
  $('new').disabled = turns.length === 0;
  $('send').hidden = !!running;
  $('stop').hidden = !running;
  $('send').disabled = !$('input').value.trim();
  const count = tools.length;
  $('tools-button').textContent = count ? `Tools (${count})` : 'Tools';
  $('tools-button').classList.toggle('on', count > 0);
  // Only the last answer can be asked for again.
  turns.slice(-3).filter((turn) => turn.role === 'assistant' && !turn.view.node.classList.contains('live')).forEach(show);
}

function fit() {
  const input = $('input');
  input.style.height = 'auto';
  input.style.height = `${input.scrollHeight}px`;
  $('send').disabled = !input.value.trim();
}

const atEnd = () => $('scroll').scrollHeight - $('scroll').scrollTop - $('scroll').clientHeight < 60;

function follow() {
  $('scroll').scrollTop = $('scroll').scrollHeight;
}

/* The editor of tools. */

let edited = -1;

function openTools() {
  $('tools-button').addEventListener('click', () => {
    edit(tools.length ? 0 : -1);
    $('tools-dialog').showModal();
  });
  $('tools-dialog').addEventListener('close', () => { refresh(); keep(); });
  $('tool-add').addEventListener('click', () => {
    const names = new Set(tools.map((tool) => tool.name));
    let name = EXAMPLE.name;
    for (let count = 2; names.has(name); count += 1) name = `${EXAMPLE.name}_${count}`;
    tools.push({ ...structuredClone(EXAMPLE), name });
    edit(tools.length - 1);
    $('tool-text').focus();
  });
  $('tool-remove').addEventListener('click', () => {
    tools.splice(edited, 1);
    edit(Math.min(edited, tools.length - 1));
  });
  $('tool-text').addEventListener('input', () => {
    const problem = readTool($('tool-text').value);
    $('tool-problem').textContent = problem;
    if (!problem) listTools();
  });
  // A definition that is wrong is shown, not lost: the dialog stays until it is right.
  $('tools-dialog').addEventListener('cancel', (event) => { if ($('tool-problem').textContent) event.preventDefault(); });
  $('tools-dialog').querySelector('form').addEventListener('submit', (event) => {
    event.preventDefault();
    if (!$('tool-problem').textContent) $('tools-dialog').close();
  });
}

/** Takes the text as the definition of the edited tool, or says what is wrong with it. */
function readTool(text) {
  let tool;
  try {
    tool = JSON.parse(text);
  } catch (error) {
    return `This is not JSON: ${error.message.replace(/ in JSON.*/, '')}.`;
  }
  tool = tool.type === 'function' && tool.function ? tool.function : tool;
  if (typeof tool?.name !== 'string' || !/^[\w.-]{1,64}$/.test(tool.name)) return '"name" must be 1 to 64 letters, digits, dots, dashes and underscores.';
  if (tools.some((other, index) => index !== edited && other.name === tool.name)) return `There is another function named ${tool.name}.`;
  if (tool.parameters !== undefined && tool.parameters?.type !== 'object') return '"parameters" must be a JSON Schema with "type": "object".';
  tools[edited] = tool;
  return '';
}

function edit(index) {
  edited = index;
  $('tool-edit').hidden = index < 0;
  $('tool-problem').textContent = '';
  if (index >= 0) $('tool-text').value = JSON.stringify(tools[index], null, 2);
  listTools();
}

function listTools() {
  const row = (tool, index) => el('li', {}, el('button', {
    type: 'button', 'aria-pressed': String(index === edited), onclick: () => { if (!$('tool-problem').textContent) edit(index); },
  }, tool.name));
  $('tool-list').replaceChildren(...tools.map(row));
}
