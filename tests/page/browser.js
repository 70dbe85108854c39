// A real Chromium before a real server, and everything that must not happen written down.

import { spawn } from 'node:child_process';
import { once } from 'node:events';
import { createInterface } from 'node:readline';
import { chromium } from 'playwright-core';

const FLAGS = ['--no-sandbox', '--disable-gpu', '--disable-quic', '--no-first-run', '--disable-background-networking', '--disable-component-update', '--disable-sync'];

/** Starts `antiphon serve` on a free port; answers its address and how to end it. */
export async function serve(binary, options = [], environment = {}) {
  const child = spawn(binary, ['serve', '--port', '0', '--log-format', 'json', '--kv-bytes', '64MiB', ...options], {
    stdio: ['ignore', 'inherit', 'pipe'], env: { ...process.env, ...environment },
  });
  const lines = [];
  const address = await new Promise((resolve, reject) => {
    child.once('exit', () => reject(new Error(`the server ended:\n${lines.join('\n')}`)));
    createInterface({ input: child.stderr }).on('line', (line) => {
      lines.push(line);
      const event = line.startsWith('{') ? JSON.parse(line) : {};
      if (event.message === 'ready') resolve(event.address);
    });
  });
  child.removeAllListeners('exit');
  const stop = async (signal = 'SIGTERM') => {
    child.kill(signal);
    await once(child, 'exit');
  };
  return { url: `http://${address}`, stop };
}

/** A browser of its own, without a profile of anybody's. */
export async function browse() {
  const browser = await chromium.launch({ executablePath: process.env.CHROMIUM ?? '/usr/bin/chromium', headless: true, args: FLAGS });
  return { browser, close: () => browser.close() };
}

/** A page that notes errors, broken policies and requests to anybody else in `faults`. */
export async function open(browser, url, options = {}) {
  const context = await browser.newContext({ viewport: { width: 1360, height: 860 }, ...options });
  const faults = [];
  const page = await context.newPage();
  page.on('console', (message) => { if (message.type() === 'error' || message.type() === 'warning') faults.push(`console: ${message.text()} ${message.location().url}`); });
  page.on('pageerror', (error) => faults.push(`error: ${error.stack ?? error}`));
  page.on('request', (request) => { if (!request.url().startsWith(new URL(url).origin) && !request.url().startsWith('data:')) faults.push(`outside: ${request.url()}`); });
  await page.addInitScript(() => {
    globalThis.policyFaults = [];
    addEventListener('securitypolicyviolation', (event) => globalThis.policyFaults.push(`${event.violatedDirective} ${event.blockedURI}`));
  });
  await page.goto(url);
  const check = async () => {
    faults.push(...(await page.evaluate(() => globalThis.policyFaults)).map((fault) => `policy: ${fault}`));
    if (faults.length) throw new Error(`the page at ${page.url()} is not clean:\n${faults.join('\n')}`);
  };
  return { page, context, faults, check };
}
