// The frame: views, theme, key, dialogs, shortcuts.

import { askToRenew, openChat, stopAnswer } from '/page/chat.js';
import { openConsole, pauseConsole, watch } from '/page/console.js';
import { getJson, health, key, unfitKey } from '/page/server.js';

const $ = (id) => document.getElementById(id);
const THEMES = ['auto', 'light', 'dark'];
let afterKey = null;

/* Views. */

function showView() {
  const view = location.hash === '#console' ? 'console' : 'chat';
  for (const name of ['chat', 'console']) $(name).hidden = name !== view;
  for (const link of document.querySelectorAll('[data-view]')) {
    if (link.dataset.view === view) link.setAttribute('aria-current', 'page');
    else link.removeAttribute('aria-current');
  }
  document.title = view === 'console' ? 'Console · antiphon' : 'antiphon';
  watch(view === 'console');
  if (view === 'chat' && matchMedia('(hover: hover)').matches) $('input').focus();
  dispatchEvent(new Event('resize'));
}

/* Theme: the system's, unless somebody chose. */

function setTheme(theme) {
  if (theme === 'auto') delete document.documentElement.dataset.theme;
  else document.documentElement.dataset.theme = theme;
  localStorage.setItem('antiphon-theme', theme);
  $('theme').textContent = theme[0].toUpperCase() + theme.slice(1);
  $('theme').setAttribute('aria-label', `Theme: ${theme}`);
  dispatchEvent(new Event('themechange'));
}

const theme = () => (THEMES.includes(localStorage.getItem('antiphon-theme')) ? localStorage.getItem('antiphon-theme') : 'auto');
const nextTheme = () => setTheme(THEMES[(THEMES.indexOf(theme()) + 1) % THEMES.length]);

/* The key. */

function askForKey(then = null) {
  afterKey = then;
  $('key-problem').textContent = key.get() ? 'The server does not take the key that it was given.' : '';
  $('key-input').value = '';
  if (!$('key-dialog').open) $('key-dialog').showModal();
  $('key-button').hidden = false;
}

async function useKey(event) {
  event.preventDefault();
  const [before, given] = [key.get(), $('key-input').value.trim()];
  const unfit = unfitKey(given);
  $('key-problem').textContent = unfit;
  if (unfit) return $('key-input').select();
  key.set(given);
  try {
    await getJson('/v1/models');
  } catch (error) {
    key.set(before);
    // The dialog stays, so that what is wrong can be read where it was asked.
    $('key-problem').textContent = error.status === 401 ? 'The server does not take this key.' : error.message;
    return $('key-input').select();
  }
  $('key-dialog').close();
  dispatchEvent(new Event('keychange'));
  afterKey?.();
  afterKey = null;
}

/* Whether the server is there; asked seldom, and not while nobody looks. */

async function look(settings) {
  const place = $('state');
  const say = (kind, text) => {
    place.dataset.kind = kind;
    if (place.lastElementChild.textContent !== text) place.lastElementChild.textContent = text;
  };
  try {
    const { alive, status } = await health();
    say(alive ? 'ready' : 'down', alive ? settings.model : status.replaceAll('_', ' '));
  } catch {
    say('down', 'unreachable');
  }
}

/* Shortcuts: single letters, only where nobody writes. */

let wasG = false;
function shortcut(event) {
  const writes = event.target.closest?.('textarea, input, select, [contenteditable]');
  if (event.key === 'Escape' && !document.querySelector('dialog[open]') && stopAnswer()) return;
  if (writes || event.ctrlKey || event.metaKey || event.altKey || document.querySelector('dialog[open]')) return;
  const go = { h: '#chat', c: '#console' }[event.key.toLowerCase()];
  const actions = { '/': () => { location.hash = '#chat'; $('input').focus(); }, '?': () => $('keys-dialog').showModal(), n: askToRenew, p: pauseConsole, t: nextTheme };
  if (wasG && go) location.hash = go;
  else if (actions[event.key]) {
    event.preventDefault();
    actions[event.key]();
  }
  wasG = event.key.toLowerCase() === 'g';
}

async function start() {
  setTheme(theme());
  $('theme').addEventListener('click', nextTheme);
  $('keys-button').addEventListener('click', () => $('keys-dialog').showModal());
  $('more-button').addEventListener('click', () => $('more-dialog').showModal());
  $('key-button').addEventListener('click', () => askForKey());
  $('key-dialog').querySelector('form').addEventListener('submit', useKey);
  for (const id of ['more-dialog', 'keys-dialog']) {
    $(id).querySelector('form').addEventListener('submit', (event) => { event.preventDefault(); $(id).close(); });
  }
  for (const button of document.querySelectorAll('[data-close]')) button.addEventListener('click', () => button.closest('dialog').close());
  // A click beside a dialog closes it.
  for (const dialog of document.querySelectorAll('dialog')) {
    dialog.addEventListener('mousedown', (event) => { if (event.target === dialog && dialog.id !== 'tools-dialog') dialog.close(); });
  }
  document.addEventListener('keydown', shortcut);

  let settings;
  try {
    settings = await getJson('/page/settings.json');
  } catch (error) {
    $('state').dataset.kind = 'down';
    $('state').lastElementChild.textContent = error.message;
    return;
  }
  if (settings.temperature !== undefined) $('temperature').placeholder = String(settings.temperature);
  openChat(settings, askForKey);
  openConsole(settings, askForKey);
  addEventListener('hashchange', showView);
  showView();
  look(settings);
  setInterval(() => { if (!document.hidden) look(settings); }, 10_000);
  document.addEventListener('visibilitychange', () => { if (!document.hidden) look(settings); });
  $('key-button').hidden = !settings.key_needed;
  if (settings.key_needed && !key.get()) askForKey();
}

start();
