// @ts-check
// Calls of the server's API. Paths are relative to the page, so that they hold below any path of a proxy.
import { signal } from './dom.js';

/** @typedef {{title: string, detail: string, status: number, code: string}} Problem */

const API_ROOT = new URL('../', document.baseURI);
const TOKEN_KEY = 'verl-agent-env token';
const UNREACHABLE = {
  title: 'The server does not answer',
  detail: 'Is it still running, and is the network there?',
  status: 0,
  code: 'unreachable',
};

/** A call that failed, with the server's problem document. */
export class ApiError extends Error {
  /** @param {Problem} problem */
  constructor(problem) {
    super(problem.detail || problem.title);
    this.problem = problem;
  }
}

/** Whether the last call was answered; `null` before the first one. */
export const isAnswering = signal(/** @type {boolean | null} */ (null));
/** The bearer token, kept for this tab alone. */
export const token = signal(sessionStorage.getItem(TOKEN_KEY) ?? '');
/** What the person is asked a token for; `null` while none is missing. */
export const tokenRequest = signal(
  /** @type {{reason: string, answer: (token: string) => void} | null} */ (null),
);

/** @type {Promise<void> | null} */
let asking = null;

/** @param {string} value empty to forget it */
export function setToken(value) {
  token.value = value;
  if (value) sessionStorage.setItem(TOKEN_KEY, value);
  else sessionStorage.removeItem(TOKEN_KEY);
}

/**
 * Wait until the person has given a token; all calls that miss one wait for the same answer.
 *
 * @param {string} reason
 */
function askForToken(reason) {
  asking ??= new Promise((resolve) => {
    tokenRequest.value = {
      reason,
      answer: (given) => {
        setToken(given.trim());
        tokenRequest.value = null;
        asking = null;
        resolve();
      },
    };
  });
  return asking;
}

/**
 * @param {string} path
 * @param {RequestInit} options
 */
async function send(path, options) {
  const headers = { ...options.headers, ...(token.value ? { authorization: `Bearer ${token.value}` } : {}) };
  try {
    const response = await fetch(new URL(path, API_ROOT), { ...options, headers });
    isAnswering.value = true;
    return response;
  } catch (raised) {
    if (options.signal?.aborted) throw raised;
    isAnswering.value = false;
    throw new ApiError(UNREACHABLE);
  }
}

/** @param {Response} response */
async function readBody(response) {
  const isJson = (response.headers.get('content-type') ?? '').includes('json');
  return isJson ? response.json() : response.text();
}

/**
 * Send a request until it succeeds or fails for another reason than its token.
 *
 * @param {string} path
 * @param {RequestInit} options
 * @returns {Promise<Response>}
 */
async function succeed(path, options) {
  for (;;) {
    const used = token.value;
    const response = await send(path, options);
    if (response.ok) return response;
    const content = await readBody(response);
    const plain = { title: response.statusText, detail: String(content), status: response.status, code: '' };
    if (response.status !== 401) throw new ApiError(content?.code ? content : plain);
    // Another call may have been given a token meanwhile: then it is tried before the person is asked again.
    if (token.value === used) {
      await askForToken(used ? 'The server does not know this token.' : 'This server asks for a token.');
    }
  }
}

/**
 * Call the API and read what it answers: JSON, or a text.
 *
 * @param {string} path as in `api/environments`
 * @param {object} [body] of a POST; a GET without one
 * @returns {Promise<any>}
 */
export async function call(path, body) {
  const post = { method: 'POST', headers: { 'content-type': 'application/json' }, body: JSON.stringify(body) };
  return readBody(await succeed(path, body === undefined ? {} : post));
}

/**
 * Call the API as it is, for the page that documents it: whatever comes back is an answer.
 *
 * @param {string} method
 * @param {string} path
 * @param {string} [body]
 */
export async function rawCall(method, path, body) {
  const began = performance.now();
  const response = await send(path, {
    method,
    ...(body ? { body, headers: { 'content-type': 'application/json' } } : {}),
  });
  const content = await readBody(response);
  return {
    status: response.status,
    milliseconds: performance.now() - began,
    text: typeof content === 'string' ? content : JSON.stringify(content, null, 2),
  };
}

/** Read an answer as a file. @param {string} path @returns {Promise<Blob>} */
export const fetchBlob = async (path) => (await succeed(path, {})).blob();

const FIRST_PAUSE_MS = 500;
const LONGEST_PAUSE_MS = 10_000;

/**
 * Follow server-sent events, also after the connection has ended; `EventSource` could send no token.
 *
 * @param {string} path
 * @param {(name: string, data: any) => void} onEvent given each event, its data read as JSON
 * @param {(error: Error | null) => void} onState given what went wrong, or nothing as soon as it goes on
 * @returns {() => void} to end it
 */
export function follow(path, onEvent, onState) {
  const ending = new AbortController();
  const run = async () => {
    let pause = FIRST_PAUSE_MS;
    while (!ending.signal.aborted) {
      try {
        const { body } = await succeed(path, { signal: ending.signal });
        for await (const [name, data] of eventsIn(/** @type {ReadableStream<Uint8Array>} */ (body))) {
          onState(null);
          onEvent(name, data);
          pause = FIRST_PAUSE_MS;
        }
      } catch (raised) {
        if (ending.signal.aborted) return;
        onState(/** @type {Error} */ (raised));
      }
      await new Promise((resolve) => setTimeout(resolve, pause));
      pause = Math.min(2 * pause, LONGEST_PAUSE_MS);
    }
  };
  run();
  return () => ending.abort();
}

/**
 * The events of a stream: name and data, which are one line of JSON each.
 *
 * @param {ReadableStream<Uint8Array>} body
 * @returns {AsyncGenerator<[string, any]>}
 */
async function* eventsIn(body) {
  const reader = body.getReader();
  const decoder = new TextDecoder();
  let text = '';
  for (;;) {
    const { done, value } = await reader.read();
    if (done) return;
    const written = (text + decoder.decode(value, { stream: true })).split('\n\n');
    text = written.pop() ?? '';
    for (const event of written) {
      const [, name, data] = event.match(/^event: (.*)\ndata: (.*)$/) ?? [];
      if (name) yield [name, JSON.parse(data)];
    }
  }
}

/** Close an environment without waiting, also while the page is left. @param {string} envId */
export function closeEnvironment(envId) {
  send(`api/environment/${envId}/close`, {
    method: 'POST',
    headers: { 'content-type': 'application/json' },
    body: '{}',
    keepalive: true,
  }).catch(() => {});
}

/** @type {Map<string, Promise<any>>} */
const kept = new Map();

/**
 * As `call`, once for the life of the page.
 *
 * @param {string} path
 */
export function callOnce(path) {
  let answer = kept.get(path);
  if (!answer) {
    answer = call(path);
    kept.set(path, answer);
    answer.catch(() => kept.delete(path));
  }
  return answer;
}

/**
 * @typedef {{type: string, function: {name: string, description: string, parameters: any}}} Tool
 * @typedef {{name: string, description: string, tags: string[], extra: string | null, installed: boolean,
 *   family: string, preset_of: string | null, presets: Record<string, any>}} EnvRow
 * @typedef {EnvRow & {execution: string, deterministic: boolean, kwargs_schema: any, tools: Tool[],
 *   render_modes: string[], argument_groups: {title: string, arguments: string[]}[],
 *   task_prompt: string | null}} EnvKind
 */

/** Environments of the project and of entry points. @returns {Promise<EnvKind[]>} */
export const environmentKinds = () =>
  callOnce('api/environments').then((/** @type {any} */ answer) => answer.environments);

/** One environment, also of a package of the catalogue. @param {string} name @returns {Promise<EnvKind>} */
export const environmentKind = (name) =>
  callOnce(`api/environments/${name.split('/').map(encodeURIComponent).join('/')}`);

/** Rows of the catalogue's packages that are installed. @returns {Promise<EnvRow[]>} */
export const packagedEnvironments = async () => {
  /** @type {EnvRow[]} */
  const rows = [];
  for (let offset = /** @type {number | null} */ (0); offset !== null; ) {
    const page = await callOnce(`api/environments?limit=1000&offset=${offset}`);
    rows.push(...page.environments);
    offset = page.next_offset;
  }
  return rows.filter((row) => row.extra !== null && row.installed);
};
