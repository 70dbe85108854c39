// The server: requests with the key, errors as sentences, streams as events.

const KEY = 'antiphon-key'; // In sessionStorage: gone with the tab.

export const key = {
  get: () => sessionStorage.getItem(KEY) ?? '',
  set: (text) => (text ? sessionStorage.setItem(KEY, text) : sessionStorage.removeItem(KEY)),
};

/** Why a text cannot be a key, or nothing: a header carries printable ASCII, and a key has no spaces. */
export function unfitKey(text) {
  const at = [...text].findIndex((letter) => !/^[!-~]$/.test(letter));
  return at < 0 ? '' : `A key has letters, digits and signs of ASCII alone; character ${at + 1} is “${[...text][at]}”.`;
}

/** What the server said no with, as a sentence and what a person may want to report. */
export class Trouble extends Error {
  constructor(message, { status = 0, code = '', id = '', retrySeconds = 0 } = {}) {
    super(message);
    Object.assign(this, { status, code, id, retrySeconds });
  }

  /** The small print: status, code, id. */
  get detail() {
    const parts = [this.status && `HTTP ${this.status}`, this.code, this.id && `request ${this.id}`];
    return parts.filter(Boolean).join(' · ');
  }
}

function headers(more) {
  const all = { ...more };
  if (key.get()) all.Authorization = `Bearer ${key.get()}`;
  return all;
}

async function ask(path, options = {}) {
  let response;
  try {
    response = await fetch(path, { cache: 'no-store', ...options, headers: headers(options.headers) });
  } catch (error) {
    if (error.name === 'AbortError') throw error;
    throw new Trouble('The server cannot be reached.', { code: 'unreachable' });
  }
  if (!response.ok) throw await refusal(response);
  return response;
}

async function refusal(response) {
  const id = response.headers.get('x-request-id') ?? '';
  const retrySeconds = Number(response.headers.get('retry-after')) || 0;
  try {
    const { error } = await response.json();
    return new Trouble(sentence(error.message), { status: response.status, code: error.code ?? error.type, id, retrySeconds });
  } catch {
    return new Trouble(`The server answered with status ${response.status}.`, { status: response.status, id, retrySeconds });
  }
}

/** A message as a sentence. */
function sentence(text) {
  const begun = text.charAt(0).toUpperCase() + text.slice(1);
  return /[.!?]$/.test(begun) ? begun : `${begun}.`;
}

export const getJson = async (path, options) => (await ask(path, options)).json();

/** The answer to a health probe: "not ready" is an answer too. */
export async function health() {
  const response = await fetch('/health/live', { cache: 'no-store' });
  return { alive: response.ok, ...(await response.json()) };
}

/** Posts `body`; calls `begin` with the answer's id once the server took the request, and `take` with each event of the stream. */
export async function stream(path, body, signal, take, begin) {
  const response = await ask(path, {
    method: 'POST', signal, body: JSON.stringify(body), headers: { 'Content-Type': 'application/json' },
  });
  const id = response.headers.get('x-request-id') ?? '';
  begin(id);
  const reader = response.body.pipeThrough(new TextDecoderStream()).getReader();
  let rest = '';
  let done = false;
  for (;;) {
    const piece = await broken(reader.read());
    if (piece.done) break;
    const lines = (rest + piece.value).split('\n');
    rest = lines.pop();
    for (const line of lines) {
      if (!line.startsWith('data:')) continue;
      const data = line.slice(5).trim();
      if (data === '[DONE]') { done = true; continue; }
      const event = JSON.parse(data);
      if (event.error) throw new Trouble(sentence(event.error.message ?? String(event.error)), { code: event.error.code, id });
      take(event, id);
    }
  }
  if (!done) throw new Trouble('The answer broke off before its end.', { code: 'stream_lost', id });
}

async function broken(read) {
  try {
    return await read;
  } catch (error) {
    if (error.name === 'AbortError') throw error;
    throw new Trouble('The connection broke before the answer was finished.', { code: 'connection_lost' });
  }
}
