// Markdown as DOM nodes. Text becomes text nodes and nothing else: what a model writes can never become markup or code.

/** An element with attributes, listeners (on…) and children. */
export function el(tag, attributes = {}, ...children) {
  const node = document.createElement(tag);
  for (const [name, value] of Object.entries(attributes)) {
    if (name.startsWith('on')) node.addEventListener(name.slice(2), value);
    else if (value === true) node.setAttribute(name, '');
    else if (value !== false && value != null) node.setAttribute(name, value);
  }
  node.append(...children.filter((child) => child != null));
  return node;
}

const FENCE = /^ {0,3}(```+|~~~+)\s*([\w+#.-]*)/;
const HEADING = /^ {0,3}(#{1,6})\s+(.*?)\s*#*$/;
const RULE = /^ {0,3}([-*_])(\s*\1){2,}\s*$/;
const ITEM = /^(\s*)([-*+]|\d{1,9}[.)])\s+(.*)$/;
const QUOTE = /^ {0,3}>\s?/;
const TABLE_RULE = /^\s*\|?\s*:?-+:?\s*(\|\s*:?-+:?\s*)*\|?\s*$/;

/** Splits a text into blocks: `{kind, lines, …}`. */
function blocks(text) {
  const lines = text.split('\n');
  const found = [];
  let at = 0;
  const begins = (line) => FENCE.test(line) || HEADING.test(line) || RULE.test(line) || ITEM.test(line) || QUOTE.test(line);
  const run = (test) => {
    const from = at;
    while (at < lines.length && test(lines[at])) at += 1;
    return lines.slice(from, at);
  };
  while (at < lines.length) {
    const line = lines[at];
    const fence = FENCE.exec(line);
    if (!line.trim()) { at += 1; continue; }
    if (fence) {
      at += 1;
      const body = run((one) => !one.trim().startsWith(fence[1]));
      found.push({ kind: 'code', language: fence[2], lines: body });
      at += 1;
    } else if (RULE.test(line)) {
      found.push({ kind: 'rule', lines: [line] });
      at += 1;
    } else if (HEADING.test(line)) {
      found.push({ kind: 'heading', lines: [line] });
      at += 1;
    } else if (QUOTE.test(line)) {
      found.push({ kind: 'quote', lines: run((one) => QUOTE.test(one)).map((one) => one.replace(QUOTE, '')) });
    } else if (ITEM.test(line)) {
      found.push({ kind: 'list', lines: run((one) => ITEM.test(one) || /^\s{2,}\S/.test(one)) });
    } else if (line.includes('|') && TABLE_RULE.test(lines[at + 1] ?? '') && lines[at + 1].includes('-')) {
      found.push({ kind: 'table', lines: run((one) => one.includes('|')) });
    } else {
      at += 1;
      found.push({ kind: 'paragraph', lines: [line, ...run((one) => one.trim() && !begins(one))] });
    }
  }
  return found;
}

const INLINE = /(`+)(.+?)\1|\*\*(.+?)\*\*|__(?=\S)(.+?)__(?!\w)|\*(?=\S)([^*]+?)\*|(?<!\w)_(?=\S)([^_]+?)_(?!\w)|\[([^\]]+)\]\((https?:[^\s)]+)\)/;

/** A line's text as nodes. */
function inline(text) {
  const nodes = [];
  let rest = text;
  for (let found = INLINE.exec(rest); found; found = INLINE.exec(rest)) {
    if (found.index) nodes.push(rest.slice(0, found.index));
    const [whole, , code, strong, strong2, soft, soft2, label, address] = found;
    if (code !== undefined) nodes.push(el('code', {}, code));
    else if (strong ?? strong2) nodes.push(el('strong', {}, ...inline(strong ?? strong2)));
    else if (soft ?? soft2) nodes.push(el('em', {}, ...inline(soft ?? soft2)));
    else nodes.push(el('a', { href: address, target: '_blank', rel: 'noopener noreferrer' }, label));
    rest = rest.slice(found.index + whole.length);
  }
  if (rest) nodes.push(rest);
  return nodes;
}

const joined = (lines) => lines.flatMap((line, index) => (index ? [line.startsWith('  ') ? el('br') : ' '] : []).concat(inline(line.trim())));

function list(lines) {
  const first = ITEM.exec(lines[0]);
  const depth = first[1].length;
  const ordered = /\d/.test(first[2]);
  const node = el(ordered ? 'ol' : 'ul', ordered && parseInt(first[2], 10) !== 1 ? { start: parseInt(first[2], 10) } : {});
  let at = 0;
  while (at < lines.length) {
    const item = ITEM.exec(lines[at]);
    const own = [item ? item[3] : lines[at].trim()];
    at += 1;
    const below = [];
    while (at < lines.length) {
      const next = ITEM.exec(lines[at]);
      if (next && next[1].length <= depth) break;
      if (next || below.length) below.push(lines[at]);
      else own.push(lines[at].trim());
      at += 1;
    }
    node.append(el('li', {}, ...joined(own), below.length ? list(below) : null));
  }
  return node;
}

function table(lines) {
  const cells = (line) => line.trim().replace(/^\||\|$/g, '').split('|').map((cell) => inline(cell.trim()));
  const row = (tag, line) => el('tr', {}, ...cells(line).map((cell) => el(tag, {}, ...cell)));
  const body = lines.slice(2).map((line) => row('td', line));
  return el('div', { class: 'grid', tabindex: 0 }, el('table', {}, el('thead', {}, row('th', lines[0])), el('tbody', {}, ...body)));
}

const WORDS = new Set(('and as async await break case catch class const continue def default do elif else enum except export extends false '
  + 'False finally fn for from func function if impl import in interface is lambda let loop match mod mut new nil None not null or pass '
  + 'pub raise return self static struct super switch this throw trait true True try type use var void while with yield').split(' '));
const TOKEN = /("""[\s\S]*?(?:"""|$)|"(?:\\.|[^"\\\n])*"?|'(?:\\.|[^'\\\n])*'?|`(?:\\.|[^`\\])*`?)|(\/\/.*|#.*|\/\*[\s\S]*?(?:\*\/|$))|(\b\d[\w.]*)|([A-Za-z_]\w*)/g;

/** Code as nodes: strings, comments, numbers and common keywords have their ink. */
function coloured(text) {
  const nodes = [];
  let end = 0;
  for (const found of text.matchAll(TOKEN)) {
    const [whole, string, comment, number] = found;
    const kind = string ? 's' : comment ? 'c' : number ? 'n' : WORDS.has(whole) ? 'k' : '';
    if (!kind) continue;
    nodes.push(text.slice(end, found.index), el('span', { class: kind }, whole));
    end = found.index + whole.length;
  }
  nodes.push(text.slice(end));
  return nodes;
}

function code({ language, lines }) {
  const text = lines.join('\n');
  const copy = el('button', { type: 'button', class: 'quiet', onclick: () => copied(copy, text) }, 'Copy');
  const body = el('pre', { tabindex: 0 }, el('code', {}, ...coloured(text)));
  return el('div', { class: 'code' }, el('header', {}, el('span', {}, language || 'text'), copy), body);
}

/** Puts a text on the clipboard and says so on the button. */
export async function copied(button, text) {
  const label = button.textContent;
  try {
    await navigator.clipboard.writeText(text);
    button.textContent = 'Copied';
  } catch {
    button.textContent = 'Not allowed';
  }
  setTimeout(() => { button.textContent = label; }, 1400);
}

function node(block) {
  switch (block.kind) {
    case 'code': return code(block);
    case 'rule': return el('hr');
    case 'heading': {
      const [, marks, text] = HEADING.exec(block.lines[0]);
      return el(`h${Math.min(marks.length + 2, 5)}`, {}, ...inline(text));
    }
    case 'quote': return el('blockquote', {}, ...blocks(block.lines.join('\n')).map(node));
    case 'list': return list(block.lines);
    case 'table': return table(block.lines);
    default: return el('p', {}, ...joined(block.lines));
  }
}

/** Shows a growing text in `place`: only blocks that changed are made anew. */
export class Markdown {
  constructor(place) {
    this.place = place;
    this.shown = [];
  }

  show(text) {
    const next = blocks(text).map((block) => ({ block, source: JSON.stringify(block) }));
    let same = 0;
    while (same < next.length && same < this.shown.length && next[same].source === this.shown[same].source) same += 1;
    this.shown.slice(same).forEach(({ made }) => made.remove());
    for (const one of next.slice(same)) one.made = node(one.block);
    this.place.append(...next.slice(same).map(({ made }) => made));
    this.shown = this.shown.slice(0, same).concat(next.slice(same));
  }
}
