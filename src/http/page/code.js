// A block of code that grows: what is new is appended, what is shown stays.

import { el } from '/page/dom.js';

const WORDS = new Set(('and as async await break case catch class const continue def default do elif else enum except export extends false '
  + 'False finally fn for from func function if impl import in interface is lambda let loop match mod mut new nil None not null or pass '
  + 'pub raise return self static struct super switch this throw trait true True try type use var void while with yield').split(' '));
const TOKEN = /("""[\s\S]*?(?:"""|$)|"(?:\\.|[^"\\\n])*"?|'(?:\\.|[^'\\\n])*'?|`(?:\\.|[^`\\])*`?)|(\/\/.*|#.*|\/\*[\s\S]*?(?:\*\/|$))|(\b\d[\w.]*)|([A-Za-z_]\w*)/g;
/** Code behind so many characters keeps one ink. */
const COLOURED_MAX = 60_000;
/** Characters of a piece. Each piece is laid out by itself, so that a line at the end does not lay out all before it. */
const PIECE = 3_000;
/** A token that ends so close to the end may still become another: `""` becomes `"""`. */
const UNSETTLED = 4;

/** The runs of `text` from `from` on: `[kind, end]`, each beginning where the last one ended. */
function* runs(text, from) {
  let end = from;
  TOKEN.lastIndex = from;
  while (end < COLOURED_MAX) {
    const found = TOKEN.exec(text);
    if (!found) break;
    const [whole, string, comment, number] = found;
    const kind = string ? 's' : comment ? 'c' : number ? 'n' : WORDS.has(whole) ? 'k' : '';
    if (found.index > end && (kind || found.index - end > PIECE / 3)) yield ['', end = found.index];
    if (kind) yield [kind, end = found.index + whole.length];
  }
  while (end < text.length) {
    const line = text.indexOf('\n', Math.min(text.length, end + PIECE));
    yield ['', end = line < 0 ? text.length : line + 1];
  }
}

/** Code with a head that names its language and copies it. */
export class Code {
  constructor(language) {
    this.text = '';
    /** What is shown: `{node, end}`, in order; `end` counts characters of the text. */
    this.parts = [];
    const copy = el('button', { type: 'button', class: 'quiet', onclick: () => copied(copy, this.text) }, 'Copy');
    this.place = el('code');
    this.node = el('div', { class: 'code' }, el('header', {}, el('span', {}, language || 'text'), copy), el('pre', { tabindex: 0 }, this.place));
  }

  show(text) {
    if (text === this.text) return;
    let same = text.startsWith(this.text) ? this.text.length : 0;
    if (!same) while (same < text.length && text[same] === this.text[same]) same += 1;
    while (this.parts.length && this.parts.at(-1).end > same - UNSETTLED) this.drop();
    let from = this.parts.at(-1)?.end ?? 0;
    for (const [kind, end] of runs(text, from)) {
      this.append(kind, text.slice(from, end), end);
      from = end;
    }
    this.text = text;
  }

  append(kind, text, end) {
    const piece = this.place.lastElementChild;
    const begun = end - text.length - Number(piece?.dataset.from ?? 0);
    // A piece ends behind a line, so that the next one begins a line of its own.
    const line = piece && begun + text.length > PIECE && !kind ? text.indexOf('\n') + 1 : 0;
    if (line && line < text.length) {
      this.append('', text.slice(0, line), end - text.length + line);
      this.piece(end - text.length + line);
      return this.append('', text.slice(line), end);
    }
    const node = kind ? el('span', { class: kind }, text) : document.createTextNode(text);
    (piece ?? this.piece(0)).append(node);
    this.parts.push({ node, end });
    if (line) this.piece(end);
  }

  piece(from) {
    return this.place.appendChild(el('span', { class: 'piece', 'data-from': from }));
  }

  drop() {
    const { node } = this.parts.pop();
    const piece = node.parentElement;
    node.remove();
    for (let last = this.place.lastElementChild; last !== piece; last = this.place.lastElementChild) last.remove();
    if (!piece.firstChild) piece.remove();
  }
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
