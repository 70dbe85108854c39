// The page at `/` in a real Chromium, against the binary on the embedded model: node page.js BINARY [FOLDER FOR PICTURES].

import assert from 'node:assert/strict';
import { mkdirSync } from 'node:fs';
import { join } from 'node:path';
import { browse, open, serve } from './browser.js';

const [binary, pictures] = process.argv.slice(2);
if (!binary) throw new Error('usage: node page.js BINARY [FOLDER FOR PICTURES]');
const JAY = 'Write Python code that prints "Jay".';
const cases = [];
const test = (name, run) => cases.push({ name, run });

const stats = async (url) => (await fetch(`${url}/stats`)).json();
const answered = (page) => page.locator('.turn.assistant:not(.live)').last();
const say = async (page, text) => {
  const before = await page.locator('.turn.assistant').count();
  await page.fill('#input', text);
  await page.click('#send');
  await page.locator(`.turn.assistant:not(.live) >> nth=${before}`).waitFor();
};

async function until(what, holds) {
  // Guards against hanging; no measure of speed.
  for (let tries = 0; tries < 600; tries += 1) {
    if (await holds()) return;
    await new Promise((resolve) => setTimeout(resolve, 50));
  }
  throw new Error(`never: ${what}`);
}

/** Makes every answer a long one: the model's own end is ignored. The history is left out: a stopped answer may be so long that with it
 * the next one would not fit the context. */
const endless = (page, tokens) => page.route('**/v1/chat/completions', (route) => {
  const asked = route.request().postDataJSON();
  const body = { ...asked, messages: asked.messages.slice(-1), ignore_eos: true, max_completion_tokens: tokens };
  return route.continue({ postData: JSON.stringify(body) });
});

test('an answer streams in, is shown as code, and outlives a reload', async ({ url, browser }) => {
  const { page, check } = await open(browser, url);
  await page.click('#effort label:has-text("High")');
  await page.selectOption('#profile', 'throughput');
  const asked = page.waitForRequest('**/v1/chat/completions');
  await say(page, JAY);
  const body = (await asked).postDataJSON();
  assert.deepEqual([body.stream, body.reasoning_effort, body.profile], [true, 'high', 'throughput']);
  assert.match(await answered(page).locator('.code pre').textContent(), /^print\("Jay"\)/);
  const thought = answered(page).locator('.think');
  assert.equal(await thought.evaluate((node) => node.open), false, 'reasoning is folded');
  assert.match(await answered(page).locator('.meta').textContent(), /first token .+ tokens/);
  await page.reload();
  await page.locator('.code pre').waitFor();
  assert.equal(await page.locator('.turn').count(), 2, 'the conversation is still there');
  assert.equal(await page.locator('#effort input:checked').inputValue(), 'high');
  const again = page.waitForRequest('**/v1/chat/completions');
  await say(page, 'Thanks.');
  assert.deepEqual((await again).postDataJSON().messages.map((message) => message.role), ['user', 'assistant', 'user']);
  await page.click('#new');
  await page.click('#new-dialog .solid');
  assert.equal(await page.locator('.turn').count(), 0);
  await check();
});

test('stop frees the answer at the server, and so does leaving', async ({ url, browser }) => {
  const before = await stats(url);
  const { page, check, context } = await open(browser, url);
  await endless(page, 7000);
  const begin = async () => {
    await page.fill('#input', JAY);
    await page.press('#input', 'Enter');
    await until('an answer runs', async () => (await stats(url)).scheduler.decode === 1);
  };
  await begin();
  assert.equal(await page.locator('#send').isVisible(), false);
  await page.click('#stop');
  await until('the server cancelled it', async () => {
    const now = await stats(url);
    return now.requests_cancelled === before.requests_cancelled + 1 && now.kv.in_use === 0 && now.stream_active === 0;
  });
  assert.match(await answered(page).locator('.meta').textContent(), /stopped/);
  await begin();
  await page.keyboard.press('Escape');
  await until('the key stops it too', async () => (await stats(url)).requests_cancelled === before.requests_cancelled + 2);
  await begin();
  await check();
  await context.close();
  await until('a closed tab is a cancelled answer', async () => {
    const now = await stats(url);
    return now.requests_cancelled === before.requests_cancelled + 3 && now.kv.in_use === 0;
  });
});

test('what a model writes is text, whatever it looks like', async ({ url, browser }) => {
  const { page, check } = await open(browser, url);
  const evil = '<img src=x onerror="document.title=1"> <script>document.title=1</script>\n\n```html\n<b>bold</b>\n```\n[link](javascript:alert(1)) [good](https://example.org)\n\n| a | b |\n|---|---|\n| <i>1</i> | `2` |';
  const chunk = (delta, more) => `data: ${JSON.stringify({ choices: [{ index: 0, delta, ...more }] })}\n\n`;
  await page.route('**/v1/chat/completions', (route) => route.fulfill({
    contentType: 'text/event-stream', body: `${[...evil].map((letter) => chunk({ content: letter })).join('')}${chunk({}, { finish_reason: 'stop' })}data: [DONE]\n\n`,
  }));
  await say(page, 'x');
  const answer = answered(page).locator('.answer');
  assert.equal(await answer.locator('img, script, b, i').count(), 0);
  assert.match(await answer.textContent(), /<img src=x onerror=/);
  assert.equal(await answer.locator('a').count(), 1);
  assert.deepEqual(await answer.locator('td').allTextContents(), ['<i>1</i>', '2']);
  assert.equal(await page.title(), 'antiphon');
  await check();
});

/** Answers the next chats with `pieces`, an event each. */
const answerWith = (page, pieces) => page.route('**/v1/chat/completions', (route) => {
  const chunk = (delta, more) => `data: ${JSON.stringify({ choices: [{ index: 0, delta, ...more }] })}\n\n`;
  const body = `${pieces.map((content) => chunk({ content })).join('')}${chunk({}, { finish_reason: 'stop' })}data: [DONE]\n\n`;
  return route.fulfill({ contentType: 'text/event-stream', body });
});

test('markdown is read as CommonMark has it, where models write it', async ({ url, browser }) => {
  const { page, check } = await open(browser, url);
  const lines = [
    'Hard  ', 'break\\', 'and \\*no\\* emphasis, ~~gone~~, R&amp;D &#8364;', '',
    '1. First:', '', '   ```python', '   if True:', '       print(1)', '   ```', '2. Second', '   - inner', '     - innermost', '3. Third', '',
    '| left | right | mid |', '|:--|--:|:-:|', '| a | 1 | `x\\|y` |', '', 'See https://example.org/a_b_c and [ref][r].', '', '- [x] done', '- [ ] open', '',
    '[r]: https://example.org/ref',
  ];
  await answerWith(page, [...lines.join('\n')]);
  await say(page, 'x');
  const answer = answered(page).locator('.answer');
  assert.equal(await answer.locator('p').first().locator('br').count(), 2);
  assert.match(await answer.locator('p').first().textContent(), /and \*no\* emphasis, gone, R&D €/);
  assert.equal(await answer.locator('del').textContent(), 'gone');
  assert.equal(await answer.locator('ol > li').count(), 3, 'code inside a list does not end it');
  assert.equal(await answer.locator('ol .code code').textContent(), 'if True:\n    print(1)');
  assert.equal(await answer.locator('ol ul ul li').textContent(), 'innermost');
  assert.deepEqual(await answer.locator('td').allTextContents(), ['a', '1', 'x|y']);
  assert.deepEqual(await answer.locator('td').evaluateAll((cells) => cells.map((cell) => getComputedStyle(cell).textAlign)), ['left', 'right', 'center']);
  assert.deepEqual(await answer.locator('a').evaluateAll((links) => links.map((link) => link.getAttribute('href'))), ['https://example.org/a_b_c', 'https://example.org/ref']);
  assert.deepEqual(await answer.locator('input').evaluateAll((boxes) => boxes.map((box) => [box.checked, box.disabled])), [[true, true], [false, true]]);
  await page.evaluate(() => { navigator.clipboard.writeText = (text) => { globalThis.clip = text; return Promise.resolve(); }; });
  await answer.locator('ol .code button').click();
  assert.equal(await page.evaluate(() => globalThis.clip), 'if True:\n    print(1)');
  await check();
});

test('a growing answer is shown as a whole one is', async ({ url, browser }) => {
  const { page, check } = await open(browser, url);
  const text = 'Intro *soft* text\n\n1. one\n   ```js\n   const a = """b"""; // c\n   ```\n2. two\n\n> quoted\n> ```\n> x "y\n> ```\n\nTitle\n=====\n\n```py\n'
    + 'def f(x):\n    """doc\n    more"""\n    return `x` + 1 # end\n'.repeat(120) + '```\n\n| a | b |\n|--|--|\n| 1 | 2 |\n\nend';
  const html = await page.evaluate(async (whole) => {
    const { Markdown } = await import('/page/markdown.js');
    const [grown, once] = [document.createElement('div'), document.createElement('div')];
    const growing = new Markdown(grown);
    // Sevens cut every construct somewhere else.
    for (let end = 0; end < whole.length; end += 7) growing.show(whole.slice(0, end), false);
    growing.show(whole, true);
    new Markdown(once).show(whole, true);
    const flat = (node) => { node.querySelectorAll('.piece').forEach((piece) => piece.replaceWith(...piece.childNodes)); node.normalize(); return node.outerHTML; };
    return [flat(grown), flat(once)];
  }, text);
  assert.equal(html[0], html[1]);
  assert.match(html[1], /<span class="s">"""doc\n {4}more"""<\/span>/);
  await check();
});

test('a hundred kilobytes of code are shown, and cost no more at their end', async ({ url, browser }) => {
  const { page, check } = await open(browser, url);
  const line = 'value = compute("a", 1) # why\n';
  const code = line.repeat(Math.ceil(102_400 / line.length)).trimEnd();
  await answerWith(page, ['```python\n', ...code.match(/[^]{1,500}/g), '\n```\n\nDone.']);
  await say(page, 'x');
  assert.equal(await answered(page).locator('.code code').textContent(), code);
  assert.equal(await answered(page).locator('.answer > p').textContent(), 'Done.');
  await page.reload();
  await page.locator('.code pre').waitFor();
  assert.equal(await answered(page).locator('.code code').textContent(), code);
  const frames = await page.evaluate(async (whole) => {
    const { Markdown } = await import('/page/markdown.js');
    const place = document.querySelector('.turn.assistant .answer').cloneNode();
    document.querySelector('#turns').append(place);
    const shown = new Markdown(place);
    const times = [];
    for (let end = 50_000; end < whole.length; end += 40) {
      const from = performance.now();
      shown.show(`\`\`\`python\n${whole.slice(0, end)}`, false);
      void place.offsetHeight; // Layout is a part of what a frame costs.
      times.push(performance.now() - from);
    }
    const nodes = place.querySelectorAll('*').length;
    place.remove();
    times.sort((a, b) => a - b);
    return { nodes, median: times[times.length >> 1], p99: times[Math.floor(times.length * 0.99)] };
  }, code);
  console.log(`        a frame of code that grows from 50 to 100 KB: median ${frames.median.toFixed(1)} ms, p99 ${frames.p99.toFixed(1)} ms`);
  await check();
});

test('a turn that cannot be shown hides no other', async ({ url, browser }) => {
  const { page } = await open(browser, url);
  await page.evaluate(() => sessionStorage.setItem('antiphon-chat', JSON.stringify({
    turns: [{ role: 'user', content: 'first' }, { role: 'assistant', content: 7, reasoning: 'why', times: {} }, { role: 'user', content: 'second' }, { role: 'assistant', content: 'fine', times: {} }],
  })));
  await page.reload();
  assert.deepEqual(await page.locator('.turn.user .text').allTextContents(), ['first', 'second']);
  assert.equal(await page.locator('.turn.assistant .answer').last().textContent(), 'fine');
  assert.match(await page.locator('.turn .plain').textContent(), /why/);
});

test('a chat is deleted on purpose only', async ({ url, browser }) => {
  const { page, check } = await open(browser, url);
  await answerWith(page, ['Fine.']);
  await say(page, 'x');
  const blur = () => page.evaluate(() => document.activeElement.blur());
  await blur();
  await page.keyboard.press('n');
  await page.locator('#new-dialog[open]').waitFor();
  await page.keyboard.press('Escape');
  await page.locator('#new-dialog').waitFor({ state: 'hidden' });
  assert.equal(await page.locator('.turn').count(), 2);
  await blur();
  await page.keyboard.press('n');
  await page.keyboard.press('Enter');
  await page.locator('#new-dialog').waitFor({ state: 'hidden' });
  assert.equal(await page.locator('.turn').count(), 0);
  await check();
});

test('the end of an error can be seen', async ({ url, browser }) => {
  const { page } = await open(browser, url, { viewport: { width: 900, height: 420 } });
  await answerWith(page, ['One.\n\n', 'Two.\n\n'.repeat(30)]);
  await say(page, 'x');
  await page.unroute('**/v1/chat/completions');
  await page.route('**/v1/chat/completions', (route) => route.fulfill({ status: 503, headers: { 'retry-after': '9' }, contentType: 'application/json', body: JSON.stringify({ error: { message: 'The queue is full. '.repeat(30), code: 'queue_full' } }) }));
  await say(page, 'y');
  const seen = (selector) => answered(page).locator(selector).evaluate((node) => {
    const [own, composer] = [node.getBoundingClientRect(), document.querySelector('.composer').getBoundingClientRect()];
    return own.bottom <= composer.top && own.top < own.bottom;
  });
  assert.ok(await seen('.broken'), 'the error ends above the composer');
  assert.ok(await seen('.meta'), 'so does the button under it');
});

test('a request that waits says how many wait before it', async ({ browser }) => {
  const server = await serve(binary, ['--running-max-count', '1']);
  const leave = new AbortController();
  try {
    const body = JSON.stringify({ messages: [{ role: 'user', content: JAY }], ignore_eos: true, max_tokens: 6000, stream: true });
    const ask = () => fetch(`${server.url}/v1/chat/completions`, { method: 'POST', signal: leave.signal, body, headers: { 'Content-Type': 'application/json' } }).then((response) => response.text()).catch(() => {});
    const asked = [ask(), ask(), ask(), ask(), ask(), ask(), ask(), ask(), ask(), ask(), ask(), ask()];
    await until('the others wait', async () => (await stats(server.url)).scheduler.waiting === 11);
    const { page, check } = await open(browser, server.url);
    await page.fill('#input', JAY);
    await page.press('#input', 'Enter');
    await page.locator('.turn.live .meta:has-text("before this one")').waitFor();
    leave.abort();
    await Promise.all(asked);
    await page.locator('.turn.assistant:not(.live) .code').waitFor();
    await check();
  } finally {
    leave.abort();
    await server.stop();
  }
});

test('a phone has a second line', async ({ url, browser }) => {
  const { page, check } = await open(browser, url, { viewport: { width: 390, height: 844 }, isMobile: true, hasTouch: true });
  await page.fill('#input', 'one');
  await page.press('#input', 'Enter');
  await page.keyboard.type('two');
  assert.equal(await page.inputValue('#input'), 'one\ntwo');
  assert.equal(await page.locator('.turn').count(), 0);
  await answerWith(page, ['Fine.']);
  await page.tap('#send');
  await answered(page).waitFor();
  assert.equal(await page.locator('.turn.user .text').textContent(), 'one\ntwo');
  await check();
});

test('a tool is defined, called, answered, and told', async ({ url, browser }) => {
  const { page, check } = await open(browser, url);
  await page.click('#tools-button');
  await page.click('#tool-add');
  const definition = await page.inputValue('#tool-text');
  await page.fill('#tool-text', '{"name": ');
  assert.match(await page.textContent('#tool-problem'), /not JSON/);
  await page.fill('#tool-text', definition);
  assert.equal(await page.textContent('#tool-problem'), '');
  await page.click('#tools-dialog .solid');
  await page.locator('#tools-button:has-text("Tools (1)")').waitFor();
  await page.click('#more-button');
  await page.fill('#temperature', '0');
  await page.press('#temperature', 'Enter');
  await say(page, 'What is the weather in Paris?');
  const call = answered(page).locator('.toolcall');
  assert.match(await call.textContent(), /get_weather.*"Paris"/s);
  const asked = page.waitForRequest('**/v1/chat/completions');
  await call.locator('textarea').fill('{"temperature": 21}');
  await call.locator('textarea').press('Enter');
  const { messages } = (await asked).postDataJSON();
  assert.deepEqual(messages.map((message) => message.role), ['user', 'assistant', 'tool']);
  assert.equal(messages[2].tool_call_id, messages[1].tool_calls[0].id);
  await page.locator('.turn.assistant:not(.live) >> nth=1').waitFor();
  assert.notEqual(await answered(page).locator('.answer').textContent(), '');
  await check();
});

test('errors are sentences', async ({ url, browser }) => {
  const { page, faults } = await open(browser, url);
  await page.route('**/v1/chat/completions', (route) => route.continue({ postData: JSON.stringify({ ...route.request().postDataJSON(), model: 'nobody' }) }));
  await say(page, 'x');
  assert.match(await page.textContent('.broken'), /nobody.*HTTP 404 · model_not_found/s);
  await page.unroute('**/v1/chat/completions');
  await page.route('**/v1/chat/completions', (route) => route.abort());
  await page.click('.meta >> text=Again');
  await page.locator('.broken:has-text("cannot be reached")').waitFor();
  // Chromium notes each failed request in its console; nothing else may be there.
  assert.deepEqual(faults.filter((fault) => !fault.includes('Failed to load resource')), []);
});

test('the console shows what runs, and asks nothing while nobody looks', async ({ url, browser }) => {
  const { page, check } = await open(browser, `${url}/#console`);
  const asked = [];
  page.on('request', (request) => { if (request.url().endsWith('/console/live')) asked.push(request); });
  await page.locator('#readings .reading >> nth=7').waitFor();
  assert.match(await page.textContent('#health'), /Engine.?ready/);
  const body = JSON.stringify({ messages: [{ role: 'user', content: JAY }], ignore_eos: true, max_tokens: 5000, stream: true });
  const leave = new AbortController();
  // One long answer after another, so that something runs however slow the machine is.
  const reading = (async () => {
    while (!leave.signal.aborted) {
      const asking = fetch(`${url}/v1/chat/completions`, { method: 'POST', signal: leave.signal, body, headers: { 'Content-Type': 'application/json' } });
      await asking.then((response) => response.text()).catch(() => {});
    }
  })();
  await page.locator('#batch .line:not(.head) .p-decode').waitFor();
  await until('tokens are counted', async () => Number((await page.locator('.reading strong span').first().textContent()).replace('k', '00')) > 0);
  assert.match(await page.textContent('#full-note'), /^[1-9]\d* in use/);
  await until('the plots have a second', async () => /answer/.test(await page.textContent('#rate-note')));
  const drawn = await page.$eval('#plot-rate', (canvas) => canvas.getContext('2d').getImageData(0, 0, canvas.width, canvas.height).data.some((value) => value > 0));
  assert.ok(drawn, 'a plot is drawn');
  leave.abort();
  await reading;
  await page.locator('#requests .o-cancelled').first().waitFor();
  await page.locator('#batch .none').waitFor();
  await page.click('#pause');
  await page.waitForTimeout(400);
  const paused = asked.length;
  await page.waitForTimeout(1600);
  assert.equal(asked.length, paused, 'nothing is asked while it is paused');
  await page.click('#pause');
  await until('it goes on', () => asked.length > paused);
  await page.click('nav >> text=Chat');
  await page.waitForTimeout(400);
  const away = asked.length;
  await page.waitForTimeout(1600);
  assert.equal(asked.length, away, 'nothing is asked while the chat is shown');
  await check();
});

test('the console shows ended requests beside many live ones, and the fuller group', async ({ url, browser }) => {
  const { page, check } = await open(browser, url);
  await say(page, JAY);
  await page.route('**/console/live', async (route) => {
    const moment = await (await route.fetch()).json();
    const [one] = moment.ended;
    moment.live = Array.from({ length: 40 }, (_, index) => ({ ...one, request_id: `chatcmpl-live${index}`, outcome: 'active' }));
    const [full, sliding] = [{ ...moment.kv.full, total: 100, in_use: 2 }, { ...moment.kv.sliding, total: 100, in_use: 65 }];
    return route.fulfill({ json: { ...moment, kv: { ...moment.kv, full, sliding } } });
  });
  await page.goto(`${url}/#console`);
  await page.locator('#requests .o-active').first().waitFor();
  assert.ok((await page.locator('#requests .o-stop').count()) > 0, 'an ended request is shown');
  const kv = page.locator('.reading:has-text("KV in use")');
  assert.match(await kv.textContent(), /65 %.*sliding window/);
  await check();
});

test('the keyboard is enough', async ({ url, browser }) => {
  const { page, check } = await open(browser, url);
  await page.locator('#input:focus').waitFor();
  await page.keyboard.type('Hello');
  await page.keyboard.press('Shift+Enter');
  assert.equal(await page.inputValue('#input'), 'Hello\n');
  await page.evaluate(() => document.activeElement.blur());
  await page.keyboard.press('g');
  await page.keyboard.press('c');
  await page.locator('#console').waitFor();
  await page.keyboard.press('?');
  await page.locator('#keys-dialog[open]').waitFor();
  await page.keyboard.press('Escape');
  await page.locator('#keys-dialog').waitFor({ state: 'hidden' });
  await page.keyboard.press('t');
  assert.equal(await page.evaluate(() => document.documentElement.dataset.theme), 'light');
  await page.keyboard.press('/');
  await page.locator('#input:focus').waitFor();
  await check();
});

test('a key is asked for, kept in the tab alone, and used', async ({ browser }) => {
  const server = await serve(binary, [], { ANTIPHON_API_KEY: 'Sesame' });
  try {
    const { page, faults, context } = await open(browser, server.url);
    await page.locator('#key-dialog[open]').waitFor();
    await page.fill('#key-input', 'Schlüssel-ключ');
    await page.press('#key-input', 'Enter');
    await page.locator('#key-problem:has-text("character 5 is “ü”")').waitFor();
    assert.equal(await page.evaluate(() => sessionStorage.getItem('antiphon-key')), null);
    await page.route('**/v1/models', (route) => route.fulfill({ status: 503, contentType: 'application/json', body: '{"error":{"message":"the model is being loaded"}}' }));
    await page.fill('#key-input', 'Sesame');
    await page.press('#key-input', 'Enter');
    await page.locator('#key-dialog[open] #key-problem:has-text("The model is being loaded.")').waitFor();
    await page.unroute('**/v1/models');
    await page.fill('#key-input', 'wrong');
    await page.press('#key-input', 'Enter');
    await page.locator('#key-problem:has-text("does not take this key")').waitFor();
    await page.fill('#key-input', 'Sesame');
    await page.press('#key-input', 'Enter');
    await page.locator('#key-dialog').waitFor({ state: 'hidden' });
    await say(page, JAY);
    assert.match(await answered(page).locator('.code pre').textContent(), /print/);
    await page.click('nav >> text=Console');
    await page.locator('#readings .reading >> nth=7').waitFor();
    const kept = await page.evaluate(() => [JSON.stringify(sessionStorage), JSON.stringify(localStorage), document.cookie]);
    assert.deepEqual(kept.map((text) => text.includes('Sesame')), [true, false, false]);
    const other = await context.newPage();
    await other.goto(server.url);
    await other.locator('#key-dialog[open]').waitFor();
    // The wrong key's 401 is the one thing that Chromium may note.
    assert.deepEqual(faults.filter((fault) => !fault.includes('401') && !fault.includes('503')), []);
    assert.equal(faults.length, 2);
  } finally {
    await server.stop();
  }
});

test('the API is shown by its operations, and found by its fields', async ({ url, browser }) => {
  const { page, check } = await open(browser, `${url}/docs`);
  const chat = page.locator('.api-operation:has-text("POST/v1/chat/completionsAnswer")');
  await chat.locator('summary').click();
  assert.match(await chat.textContent(), /stream_options\.include_usage/);
  assert.match(await chat.textContent(), /temperature.*from 0 to 2/);
  const count = await page.locator('.api-operation:visible').count();
  assert.ok(count > 50, `${count} operations`);
  await page.fill('#find', 'input_file_id');
  assert.deepEqual(await page.locator('.api-operation:visible code').first().textContent(), '/v1/batches');
  assert.equal(await page.locator('.api-operation:visible').count(), 1);
  await page.setViewportSize({ width: 390, height: 844 });
  await page.fill('#find', '');
  assert.ok(await page.evaluate(() => document.documentElement.scrollWidth - innerWidth) <= 0, 'it fits a phone');
  if (pictures) await page.screenshot({ path: join(pictures, 'api.png') });
  await check();
});

test('it fits a phone and the dark', async ({ url, browser }) => {
  const phone = { viewport: { width: 390, height: 844 }, deviceScaleFactor: 2, isMobile: true, hasTouch: true };
  for (const [name, options] of [['desktop-light', {}], ['desktop-dark', { colorScheme: 'dark' }], ['phone-dark', { ...phone, colorScheme: 'dark' }], ['phone-light', phone]]) {
    const { page, check, context } = await open(browser, url, options);
    await say(page, JAY);
    for (const view of ['chat', 'console']) {
      await page.goto(`${url}/#${view}`);
      if (view === 'console') await page.locator('#readings .reading >> nth=7').waitFor();
      const wider = await page.evaluate(() => document.documentElement.scrollWidth - innerWidth);
      assert.ok(wider <= 0, `${name} ${view} is ${wider} pixels too wide`);
      const paper = await page.evaluate(() => getComputedStyle(document.body).backgroundColor);
      assert.equal(paper, name.endsWith('dark') ? 'rgb(19, 20, 23)' : 'rgb(250, 250, 248)');
      if (pictures) await page.screenshot({ path: join(pictures, `${name}-${view}.png`) });
    }
    await check();
    await context.close();
  }
});

if (pictures) mkdirSync(pictures, { recursive: true });
const server = await serve(binary);
const { browser, close } = await browse();
let failed = 0;
try {
  for (const { name, run } of cases) {
    try {
      await run({ url: server.url, browser });
      console.log(`ok      ${name}`);
    } catch (error) {
      failed += 1;
      console.log(`FAILED  ${name}\n${error.stack}`);
    }
    for (const context of browser.contexts()) await context.close();
  }
} finally {
  await close();
  await server.stop();
}
console.log(`${cases.length - failed} of ${cases.length} passed`);
process.exitCode = failed ? 1 : 0;
