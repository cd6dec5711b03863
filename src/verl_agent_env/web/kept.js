// @ts-check
// Kept episodes: from the server, or from the file itself where an evaluation has written them into the page.
import { call, fetchBlob } from './api.js';

/**
 * @typedef {{
 *   id: string, env_name: string, run_id: string | null, group: string, seed: number, began_at: number, ended_at:
 *   number,
 *   num_steps: number, reward: number, success: boolean | null, ending: string, num_invalid: number, complete: boolean,
 *   training_step?: number | null, tokens?: number | null,
 * }} Row
 * @typedef {{form: string, thought: string, calls: {name: string, arguments: any, fault: string | null}[],
 *   valid: boolean}} Reading
 * @typedef {{
 *   seq: number, at: number | null, action: any, observation: any[], reward: number | null, info: any,
 *   reading: Reading | null, prompt_tokens?: number | null, tokens?: number | null, drawing?: string | null,
 * }} Step
 * @typedef {Row & {env_kwargs: any, observation: any[] | null, steps: Step[], drawing?: string | null,
 *   lost: string | null}} Episode
 * @typedef {{
 *   kept: boolean, episodes: Row[], total: number, next_offset: number | null, is_whole: boolean,
 *   endings: Record<string, number>, invalid: number, silent_workers: string[],
 * }} Page
 * @typedef {{episodes: number, judged: number, successes: number, reward: number, num_steps: number,
 *   seconds: number}} Sums
 * @typedef {{
 *   run_id: string | null, episodes: number, judged: number, successes: number, mean_reward: number, num_steps: number,
 *   invalid: number, began_at: number, ended_at: number, endings: Record<string, number>,
 *   environments: (Sums & {env_name: string})[], points: (Sums & {at: number})[],
 *   training_steps: (Sums & {training_step: number})[],
 * }} Run
 */

const written = document.getElementById('kept-episodes')?.textContent;
/**
 * What an evaluation has written into this page; `null` where a server is asked.
 *
 * @type {{title: string, figures: [string, string][], episodes: Episode[]} | null}
 */
export const evaluated = written ? JSON.parse(written) : null;

/** Parameters that say which episodes are listed, as in the address and in the API. */
export const FILTERS = ['run', 'training_step', 'env', 'group', 'ending', 'invalid', 'min_reward', 'text'];

/** @param {URLSearchParams} query @returns {Promise<Page>} */
export function findEpisodes(query) {
  return evaluated ? Promise.resolve(select(evaluated.episodes, query)) : call(`api/episodes?${query}`);
}

/** @param {string} id @returns {Promise<Episode>} */
export async function readEpisode(id) {
  if (!evaluated) return call(`api/episodes/${encodeURIComponent(id)}?render=svg`);
  const found = evaluated.episodes.find((episode) => episode.id === id);
  if (!found) throw new Error('There is no such episode in this file.');
  return found;
}

/** Sums of all runs, or of one with its curve. @param {string} [run] @returns {Promise<Run[]>} */
export async function findRuns(run) {
  if (evaluated) return [];
  const query = run === undefined ? 'limit=1000' : `run=${encodeURIComponent(run)}`;
  return (await call(`api/runs?${query}`)).runs;
}

/**
 * Save an export as a file: a link could send no token.
 *
 * @param {string} ending `jsonl` or `parquet`
 * @param {URLSearchParams} query
 */
export async function saveExport(ending, query) {
  const url = URL.createObjectURL(await fetchBlob(`api/episodes.${ending}?${query}`));
  const link = Object.assign(document.createElement('a'), { href: url, download: `episodes.${ending}` });
  link.click();
  setTimeout(() => URL.revokeObjectURL(url), 60_000);
}

/**
 * As the server selects: those of the page that fit, and how many there are of each ending.
 *
 * @param {Episode[]} all
 * @param {URLSearchParams} query
 * @returns {Page}
 */
function select(all, query) {
  const text = (query.get('text') ?? '').toLowerCase();
  const least = query.get('min_reward');
  const ofAll = all.filter(
    (episode) =>
      (!least || episode.reward >= Number(least)) &&
      (!text || JSON.stringify(episode).toLowerCase().includes(text)),
  );
  /** @type {Record<string, number>} */
  const endings = {};
  ofAll.forEach(({ ending }) => {
    endings[ending] = (endings[ending] ?? 0) + 1;
  });
  const found = ofAll.filter(
    (episode) =>
      (!query.get('ending') || episode.ending === query.get('ending')) &&
      (query.get('invalid') !== 'true' || episode.num_invalid > 0),
  );
  const key = /** @type {keyof Row} */ (query.get('sort') ?? 'seed');
  const way = query.get('order') === 'asc' || !query.get('sort') ? 1 : -1;
  found.sort((a, b) => way * (Number(a[key]) - Number(b[key]) || String(a[key]).localeCompare(String(b[key]))));
  const from = Number(query.get('offset') ?? 0);
  const to = from + Number(query.get('limit') ?? 100);
  return {
    kept: true,
    episodes: found.slice(from, to),
    total: found.length,
    next_offset: to < found.length ? to : null,
    is_whole: true,
    endings,
    invalid: ofAll.filter((episode) => episode.num_invalid > 0).length,
    silent_workers: [],
  };
}
