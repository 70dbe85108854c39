// Markdown as DOM nodes. Text becomes text nodes and nothing else: what a model writes can never become markup or code.

import { Code } from '/page/code.js';
import { el, fill } from '/page/dom.js';
import { lexer } from '/page/marked.js';

/** Blocks at the end that more text may still change; those before them are settled. */
const UNSETTLED = 2;
const NAMED = { amp: '&', lt: '<', gt: '>', quot: '"', apos: '\'', nbsp: '\u00a0' };

/** Character references as their characters. */
function decoded(text) {
  return text.replace(/&(?:#(\d{1,7})|#[xX]([\da-fA-F]{1,6})|(\w+));/g, (whole, decimal, hex, name) => {
    if (name) return NAMED[name] ?? whole;
    const code = decimal ? Number(decimal) : parseInt(hex, 16);
    return code > 0 && code <= 0x10ffff ? String.fromCodePoint(code) : '\ufffd';
  });
}

function inline(tokens) {
  return tokens.flatMap((token) => {
    switch (token.type) {
      case 'strong': case 'em': case 'del': return el(token.type, {}, ...inline(token.tokens));
      case 'codespan': return el('code', {}, token.text);
      case 'br': return el('br');
      case 'link': return link(token, inline(token.tokens));
      case 'image': return link(token, [token.text || token.href]);
      case 'checkbox': return el('input', { type: 'checkbox', disabled: true, checked: token.checked });
      case 'escape': return token.text;
      case 'text': return token.tokens ? inline(token.tokens) : decoded(token.text);
      default: return token.raw;
    }
  });
}

/** A link where it leads to the web or to mail; its own words elsewhere. */
function link(token, words) {
  if (!/^(https?|mailto):/i.test(token.href)) return token.raw;
  return el('a', { href: token.href, title: token.title, target: '_blank', rel: 'noopener noreferrer' }, ...words);
}

function table({ header, rows, align }) {
  const row = (tag, cells) => el('tr', {}, ...cells.map((cell, at) => el(tag, { class: align[at] && `to-${align[at]}` }, ...inline(cell.tokens))));
  const body = el('tbody');
  fill(body, rows.map((cells) => row('td', cells)));
  return el('div', { class: 'grid', tabindex: 0 }, el('table', {}, el('thead', {}, row('th', header)), body));
}

/** What shows a token: its node, and `grow` where a longer token of the same kind can go into it. */
function view(token) {
  switch (token.type) {
    case 'code': return growing(token, new Code((token.lang ?? '').split(/\s/)[0]), (code, { text }) => code.show(text));
    case 'list': {
      const start = token.ordered && token.start !== 1 ? { start: token.start } : {};
      return growing(token, new Blocks(el(token.ordered ? 'ol' : 'ul', start)), (blocks, { items }) => blocks.show(items));
    }
    case 'checkbox': return { node: inline([token])[0] };
    case 'list_item': return growing(token, new Blocks(el('li')), (blocks, { tokens }) => blocks.show(tokens));
    case 'blockquote': return growing(token, new Blocks(el('blockquote')), (blocks, { tokens }) => blocks.show(tokens));
    case 'heading': return { node: el(`h${Math.min(token.depth + 2, 5)}`, {}, ...inline(token.tokens)) };
    case 'hr': return { node: el('hr') };
    case 'table': return { node: table(token) };
    case 'paragraph': return { node: el('p', {}, ...inline(token.tokens)) };
    case 'text': return { node: el('span', {}, ...inline(token.tokens ?? [token])) };
    case 'space': case 'def': return { node: new Comment(token.type) };
    default: return { node: el('p', {}, token.raw.trimEnd()) };
  }
}

/** A view whose token may grow: one of the same form is shown in the same node. */
function growing(token, shown, show) {
  const form = (one) => [one.type, one.lang, one.ordered, one.start, one.loose].join(' ');
  show(shown, token);
  const grow = (next) => {
    if (form(next) !== form(token)) return false;
    show(shown, next);
    return true;
  };
  return { node: shown.node, grow };
}

/** The blocks in a node, kept in step with tokens: what is as before stays, what grew grows, the rest is made anew. */
class Blocks {
  constructor(node) {
    this.node = node;
    this.shown = [];
  }

  show(tokens, from = 0) {
    tokens.forEach((token, index) => {
      const at = from + index;
      const old = this.shown[at];
      if (old?.raw === token.raw && old.type === token.type) return;
      if (old?.grow?.(token)) {
        old.raw = token.raw;
        return;
      }
      const made = { ...view(token), raw: token.raw, type: token.type };
      if (old) old.node.replaceWith(made.node);
      else this.node.append(made.node);
      this.shown[at] = made;
    });
    for (const one of this.shown.splice(from + tokens.length)) one.node.remove();
  }
}

/** Shows a growing text in `place`. */
export class Markdown {
  constructor(place) {
    this.blocks = new Blocks(place);
    this.text = '';
  }

  /** Shows `text`; the last time with `ended`, when links whose address stands at the end find it. */
  show(text, ended) {
    const plain = text.includes('\r') ? text.replace(/\r\n?/g, '\n') : text;
    const { shown } = this.blocks;
    if (ended && /^ {0,3}\[[^\]\n]+\]:/m.test(plain)) this.blocks.show([]);
    let kept = plain.startsWith(this.text) ? shown.length : 0;
    for (let open = UNSETTLED; kept > 0 && open > 0;) {
      kept -= 1;
      if (shown[kept].type !== 'space') open -= 1;
    }
    const settled = shown.slice(0, kept).reduce((sum, { raw }) => sum + raw.length, 0);
    this.blocks.show(lexer(plain.slice(settled)), kept);
    this.text = plain;
  }
}
