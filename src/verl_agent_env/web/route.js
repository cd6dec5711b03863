// @ts-check
// The page's own address: `#/page/rest?query`. The server never sees it.
import { signal } from './dom.js';

/** @typedef {{page: string, rest: string, query: URLSearchParams}} Route */

/** @returns {Route} */
function readRoute() {
  const [path, query] = location.hash.replace(/^#\/?/, '').split(/\?(.*)/s);
  const [page, ...rest] = path.split('/');
  return { page, rest: decodeURIComponent(rest.join('/')), query: new URLSearchParams(query ?? '') };
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
