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
  } catch {
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
 * Call the API and read what it answers: JSON, or a text.
 *
 * @param {string} path as in `api/environments`
 * @param {object} [body] of a POST; a GET without one
 * @returns {Promise<any>}
 */
export async function call(path, body) {
  const post = { method: 'POST', headers: { 'content-type': 'application/json' }, body: JSON.stringify(body) };
  for (;;) {
    const used = token.value;
    const response = await send(path, body === undefined ? {} : post);
    const content = await readBody(response);
    if (response.ok) return content;
    const problem = content?.code
      ? content
      : { title: response.statusText, detail: String(content), status: response.status, code: '' };
    if (response.status !== 401) throw new ApiError(problem);
    // Another call may have been given a token meanwhile: then it is tried before the person is asked again.
    if (token.value === used)
      await askForToken(used ? 'The server does not know this token.' : 'This server asks for a token.');
  }
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
export async function fetchBlob(path) {
  const response = await send(path, {});
  if (response.ok) return response.blob();
  throw new ApiError(await response.json());
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
 * @typedef {{name: string, description: string, execution: string, deterministic: boolean, kwargs_schema: any,
 *   tools: Tool[], family: string, render_modes: string[]}} EnvKind
 */

/** @returns {Promise<EnvKind[]>} */
export const environmentKinds = () =>
  callOnce('api/environments').then((/** @type {any} */ answer) => answer.environments);
