// @ts-check
// The page's own address: `#/page/rest?query`. The server never sees it.
import { signal } from './dom.js';

/** @typedef {{page: string, rest: string, query: URLSearchParams}} Route */

/** A part of an address as it is meant, or as it is where nothing can be meant. @param {string} text */
function decoded(text) {
  try {
    return decodeURIComponent(text);
  } catch {
    return text;
  }
}

/** @returns {Route} */
function readRoute() {
  const [path, query] = location.hash.replace(/^#\/?/, '').split(/\?(.*)/s);
  const [page, ...rest] = path.split('/');
  return { page, rest: decoded(rest.join('/')), query: new URLSearchParams(query ?? '') };
}

export const route = signal(readRoute());
addEventListener('hashchange', () => {
  route.value = readRoute();
});

/** @param {string} address without the `#/` */
export function goTo(address) {
  location.hash = `#/${address}`;
}

/**
 * Write what is shown into the address bar, as the same entry of the history.
 *
 * @param {string} address
 */
export function noteAddress(address) {
  history.replaceState(null, '', `#/${address}`);
}
