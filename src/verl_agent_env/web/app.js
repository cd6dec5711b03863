// @ts-check
// The frame of all pages: navigation, colours, keys, the question for a token, and which page is shown.
import { call, isAnswering, setToken, token, tokenRequest } from './api.js';
import { Catalogue } from './catalogue.js';
import { ClusterPage } from './cluster.js';
import { html, render, signal, useEffect, useKeys, useRef, useState } from './dom.js';
import { leave } from './episode.js';
import { Episodes } from './episodes.js';
import { evaluated } from './kept.js';
import { Play } from './play.js';
import { Reference } from './reference.js';
import { goTo, route } from './route.js';

const PAGES = /** @type {const} */ ([
  { name: 'catalogue', title: 'Catalogue', Page: Catalogue },
  { name: 'play', title: 'Play', Page: Play },
  { name: 'episodes', title: 'Episodes', Page: Episodes },
  { name: 'cluster', title: 'Cluster', Page: ClusterPage },
  { name: 'api', title: 'API', Page: Reference },
]);
const KEYS = [
  [`1 – ${PAGES.length}`, 'Go to a page'],
  ['/', 'Search'],
  ['j, k', 'Next and previous environment, episode or step'],
  ['← ↑ ↓ →', 'Play: the first tools; with Shift the second'],
  ['u', 'Play: undo a step'],
  ['r', 'Play: restart'],
  ['Ctrl + Enter', 'Play: send the text'],
  ['Shift + Enter', 'A field: begin a new line'],
  ['Enter', 'Episodes: read one'],
  ['x, c', 'Episodes: mark one of two, compare them'],
  ['d', 'Two episodes: the first difference'],
  ['n, p', 'An episode: the next and the previous one'],
  ['?', 'Show these keys'],
];
const SCHEME_KEY = 'verl-agent-env scheme';
const ASK_EVERY_MS = 15_000;
/** A file that an evaluation wrote has its episodes alone. */
const SHOWN = evaluated ? PAGES.filter((page) => page.name === 'episodes') : PAGES;

const scheme = signal(recall(SCHEME_KEY));

/** What this browser remembers; nothing where it does not let a file remember. @param {string} key */
function recall(key) {
  try {
    return localStorage.getItem(key) ?? '';
  } catch {
    return '';
  }
}

/** Go from light to dark or back, whatever the system's choice is. */
function flipScheme() {
  const isDark = scheme.value ? scheme.value === 'dark' : matchMedia('(prefers-color-scheme: dark)').matches;
  scheme.value = isDark ? 'light' : 'dark';
  localStorage.setItem(SCHEME_KEY, scheme.value);
}

/** Asks for the token that a call misses. */
function TokenDialog() {
  const dialog = useRef(/** @type {HTMLDialogElement | null} */ (null));
  const [given, setGiven] = useState('');
  const request = tokenRequest.value;
  useEffect(() => {
    if (request) dialog.current?.showModal();
  }, [request]);
  if (!request) return null;
  /** @param {Event} event */
  const send = (event) => {
    event.preventDefault();
    setGiven('');
    request.answer(given);
  };
  return html`
    <dialog
      ref=${dialog}
      aria-labelledby="token-title"
      onCancel=${(/** @type {Event} */ event) => event.preventDefault()}
    >
      <form onSubmit=${send}>
        <h2 id="token-title">Token</h2>
        <p>${request.reason} It is kept for this tab alone.</p>
        <input
          type="password"
          aria-label="Token"
          required
          autocomplete="off"
          value=${given}
          onInput=${(/** @type {any} */ event) => setGiven(event.target.value)}
        />
        <button class="primary">Continue</button>
      </form>
    </dialog>
  `;
}

/** @param {{dialog: {current: HTMLDialogElement | null}}} props */
const KeysDialog = ({ dialog }) => html`
  <dialog ref=${dialog} aria-labelledby="keys-title">
    <h2 id="keys-title">Keys</h2>
    <dl class="keys">
      ${KEYS.map(([key, meaning]) => html`
        <dt>
          <kbd>${key}</kbd>
        </dt>
        <dd>${meaning}</dd>
      `)}
    </dl>
    <button onClick=${() => dialog.current?.close()}>Close</button>
  </dialog>
`;

function App() {
  const { name, title, Page } = SHOWN.find((page) => page.name === route.value.page) ?? SHOWN[0];
  const keys = useRef(/** @type {HTMLDialogElement | null} */ (null));
  const answering = isAnswering.value;
  const showKeys = () => keys.current?.showModal();
  useKeys({
    ...Object.fromEntries(SHOWN.map((page, i) => [String(i + 1), () => goTo(page.name)])),
    '/': () => /** @type {HTMLElement | null} */ (document.querySelector('[type=search]'))?.focus(),
    '?': showKeys,
  });
  useEffect(() => {
    document.title = `${title} · verl-agent-env`;
  }, [title]);
  useEffect(() => {
    document.documentElement.style.colorScheme = scheme.value || 'light dark';
  }, [scheme.value]);
  useEffect(() => {
    if (evaluated) return undefined;
    const ask = () => call('healthz').catch(() => {});
    ask();
    const timer = setInterval(ask, ASK_EVERY_MS);
    return () => clearInterval(timer);
  }, []);
  const skip = (/** @type {Event} */ event) => {
    event.preventDefault();
    document.getElementById('main')?.focus();
  };
  return html`
    <a class="skip" href="#main" onClick=${skip}>
      Skip to the content
    </a>
    <header class="top">
      ${!evaluated && html`<img src="icon.svg" alt="" width="18" height="18" />`}
      <span class="brand">verl-agent-env</span>
      <nav aria-label="Pages">
        ${SHOWN.map((page) => html`
          <a href=${`#/${page.name}`} aria-current=${page.name === name ? 'page' : null}>
            ${page.title}
          </a>
        `)}
      </nav>
      ${!evaluated && html`
        <span role="status" class=${answering === false ? 'mark bad' : answering ? 'mark ok' : 'mark'}>
          <span class="wide">${answering === false ? 'no answer' : answering ? 'connected' : 'asking'}</span>
        </span>
      `}
      ${token.value && html`
        <button
          class="quiet"
          onClick=${() => {
            setToken('');
            location.reload();
          }}
        >
          Forget token
        </button>
      `}
      <button class="quiet wide" aria-label="Keys" onClick=${showKeys}>
        ?
      </button>
      <button class="quiet" aria-label="Switch between light and dark" onClick=${flipScheme}>
        ◐
      </button>
    </header>
    <main id="main" tabindex="-1">
      <${Page} key=${name} />
    </main>
    <${TokenDialog} />
    <${KeysDialog} dialog=${keys} />
  `;
}

addEventListener('pagehide', leave);
render(html`<${App} />`, document.body);
