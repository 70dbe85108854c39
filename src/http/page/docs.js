// The API as a page, from this server's own /openapi.json.

import { el, fill } from '/page/dom.js';

const byId = id => document.getElementById(id);
let schemas = {};

/** The schema that a reference names. */
function resolved(schema) {
  const name = schema && schema.$ref && schema.$ref.split('/').pop();
  return name ? { title: name, ...schemas[name] } : schema || {};
}

/** A schema's type in a few words. */
function typeOf(schema) {
  const plain = resolved(schema);
  if (plain.anyOf) return plain.anyOf.map(typeOf).join(' or ');
  if (plain.enum) return plain.enum.map(value => JSON.stringify(value)).join(' | ');
  const types = [plain.type || 'any'].flat().filter(type => type !== 'null');
  if (types[0] === 'array' && plain.items) return `array of ${typeOf(plain.items)}`;
  return plain.title || types.join(' or ');
}

/** What bounds a value, in words. */
function boundsOf({ minimum, exclusiveMinimum, maximum, description }) {
  const bounds = [];
  if (minimum !== undefined) bounds.push(`from ${minimum}`);
  if (exclusiveMinimum !== undefined) bounds.push(`above ${exclusiveMinimum}`);
  if (maximum !== undefined) bounds.push(`to ${maximum}`);
  return [description, bounds.join(' ')].filter(Boolean).join('; ');
}

/** A table's row: a name, its type, what is said of it. */
const row = (name, type, words) =>
  el('div', { class: 'api-row' }, el('code', {}, name), el('span', { class: 'api-type' }, type), el('span', {}, words));

/** The fields of an object, those of inner objects behind their own. */
function rowsOf(schema, prefix = '', depth = 0) {
  const plain = resolved(schema);
  const needed = new Set(plain.required);
  return Object.entries(plain.properties || {}).flatMap(([name, field]) => {
    const own = row(prefix + name + (needed.has(name) ? ' *' : ''), typeOf(field), boundsOf(resolved(field)));
    return [own, ...(depth < 2 ? rowsOf(field, `${prefix}${name}.`, depth + 1) : [])];
  });
}

function section(title, rows) {
  return rows.length ? [el('h3', {}, title), ...rows] : [];
}

/** What an operation takes and gives, made when it is opened. */
function detail(operation) {
  const body = operation.requestBody && Object.values(operation.requestBody.content)[0].schema;
  const done = Object.entries(operation.responses['200'].content);
  const refused = body && resolved(body)['x-refused'];
  return [
    ...section('Parameters', operation.parameters.map(one =>
      row(one.name + (one.required ? ' *' : ''), `${one.in}, ${typeOf(one.schema)}`, one.description || ''))),
    ...section('Request', body ? rowsOf(body) : []),
    ...(refused && refused.length ? [el('h3', {}, 'Refused with 400'), el('p', {}, refused.join(', '))] : []),
    ...section(`Answer: ${done.map(([type]) => type).join(' or ')}`, rowsOf(done[0][1].schema)),
    ...section('Statuses', Object.entries(operation.responses).map(([status, one]) => row(status, '', one.description))),
  ];
}

function shown(path, method, operation) {
  const block = el('details', { class: 'api-operation' },
    el('summary', {}, el('b', { class: `api-method ${method}` }, method.toUpperCase()), el('code', {}, path), el('span', {}, operation.summary)));
  block.addEventListener('toggle', () => {
    if (block.open && block.childElementCount === 1) fill(block, detail(operation));
  });
  const body = operation.requestBody && resolved(Object.values(operation.requestBody.content)[0].schema);
  block.dataset.words = [path, operation.summary, ...Object.keys((body && body.properties) || {})].join(' ').toLowerCase();
  return block;
}

async function load() {
  const answer = await fetch('/openapi.json');
  const api = await answer.json();
  if (!answer.ok) throw new Error(api.error.message);
  schemas = api.components.schemas;
  byId('title').textContent = `The API of ${api.info.title} ${api.info.version}`;
  byId('about').textContent = api.info.description;
  const groups = new Map();
  for (const [path, methods] of Object.entries(api.paths)) {
    for (const [method, operation] of Object.entries(methods)) {
      const tag = operation.tags[0];
      if (!groups.has(tag)) groups.set(tag, []);
      groups.get(tag).push(shown(path, method, operation));
    }
  }
  fill(byId('operations'), [...groups].map(([tag, blocks]) => el('section', {}, el('h2', {}, tag), ...blocks)));
}

byId('find').addEventListener('input', event => {
  const wanted = event.target.value.trim().toLowerCase();
  for (const group of byId('operations').children) {
    const blocks = [...group.querySelectorAll('details')];
    for (const block of blocks) block.hidden = !block.dataset.words.includes(wanted);
    group.hidden = blocks.every(block => block.hidden);
  }
});

load().catch(error => { byId('problem').textContent = `The document cannot be read: ${error.message}`; });
