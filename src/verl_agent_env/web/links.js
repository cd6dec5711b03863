// @ts-check
// What stands in a link to an episode that is played: name, arguments, seed, moves. Anybody may have written it.

/**
 * @typedef {{tool: string, args: Record<string, any>} | {text: string}} Move
 * @typedef {{name: string, args: Record<string, any>, seed: number | null, moves: Move[]}} Plan
 */

/** A tool's name as a link can hold it. */
const TOOL = /^[^'{][^{]*$/;
/** Segments that a browser would read as a way to another place. */
const NO_NAME = new Set(['', '.', '..']);

/** JSON that has to be an object. @param {string} text @returns {Record<string, any>} */
function readObject(text) {
  const value = JSON.parse(text);
  if (value === null || typeof value !== 'object' || Array.isArray(value)) throw new TypeError('no object');
  return value;
}

/** @param {Move} move */
const writeMove = (move) =>
  'text' in move
    ? `'${move.text}`
    : move.tool + (Object.keys(move.args).length ? JSON.stringify(move.args) : '');

/** @param {string} written @returns {Move} */
function readMove(written) {
  if (written.startsWith("'")) return { text: written.slice(1) };
  const brace = written.indexOf('{');
  return brace < 0
    ? { tool: written, args: {} }
    : { tool: written.slice(0, brace), args: readObject(written.slice(brace)) };
}

/** The address that brings anybody to this state. @param {Plan} plan */
export function addressOf({ name, args, seed, moves }) {
  const query = new URLSearchParams();
  if (seed !== null) query.set('seed', String(seed));
  if (Object.keys(args).length) query.set('args', JSON.stringify(args));
  moves.forEach((move) => query.append('do', writeMove(move)));
  return `play/${name}?${query}`;
}

/**
 * The plan in an address; `null` where it names no environment.
 *
 * @param {{rest: string, query: URLSearchParams}} of
 * @returns {Plan | null}
 * @throws {SyntaxError | TypeError | RangeError} a part of it is damaged
 */
export function planIn({ rest, query }) {
  if (!rest) return null;
  if (rest.split('/').some((part) => NO_NAME.has(part))) throw new RangeError('no name');
  const seed = query.get('seed');
  // A number that JavaScript would round leads to another state.
  if (seed !== null && !(/^\d+$/.test(seed) && Number.isSafeInteger(Number(seed)))) throw new RangeError('no seed');
  return {
    name: rest,
    args: readObject(query.get('args') ?? '{}'),
    seed: seed === null ? null : Number(seed),
    moves: query.getAll('do').map(readMove),
  };
}

/**
 * The move of an action; `null` if it is no text and no single call, or one that a link cannot hold.
 *
 * @param {any} action
 * @returns {Move | null}
 */
export function moveOf(action) {
  if (typeof action === 'string') return { text: action };
  if (action === null || typeof action !== 'object') return null;
  const { content = '', tool_calls: calls = [] } = action;
  if (!calls?.length) return typeof content === 'string' ? { text: content } : null;
  const { name, arguments: args } = calls[0]?.function ?? {};
  if (calls.length > 1 || content || typeof args !== 'string') return null;
  if (typeof name !== 'string' || !TOOL.test(name)) return null;
  try {
    return { tool: name, args: readObject(args || '{}') };
  } catch {
    return null;
  }
}
