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
  await page.press('#input', 'Enter');
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
    assert.deepEqual(faults.filter((fault) => !fault.includes('401')), []);
    assert.equal(faults.length, 1);
  } finally {
    await server.stop();
  }
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
