// @ts-check
// What is known of the cluster from its events: the last snapshot, those before it, and what changed between them.
import { follow } from './api.js';
import { useEffect, useState } from './dom.js';
import { counted } from './format.js';

/**
 * @typedef {{p50: number, p99: number} | null} Times
 * @typedef {{steps_per_s: number | null, step_ms: Times, batch_ms: Times, store_ms: Times}} Rates
 * @typedef {{name: string, address: string, pid: number, state: string, slots: number, live_envs: number,
 *   incarnation: string, started_at: number}} WorkerState
 * @typedef {WorkerState & Rates} Worker
 * @typedef {{name: string, workers: Worker[]}} Node
 * @typedef {Rates & {at: number, map_version: number, num_slots: number, nodes: Node[],
 *   errors: Record<string, number>, live: Record<string, number>}} Cluster
 * @typedef {import('./slots.js').Slots} Slots
 * @typedef {{at: Date, text: string}} Change
 * @typedef {{cluster: Cluster | null, slots: Slots | null, isAdmin: boolean, live: number | null, past: Cluster[],
 *   changes: Change[]}} Seen
 */

const MAX_CHANGES = 200;
/** Snapshots that curves go back: five minutes. */
const MAX_PAST = 150;
/** @type {Seen} */
const NOTHING = { cluster: null, slots: null, isAdmin: false, live: null, past: [], changes: [] };

/** @param {Cluster} cluster */
export const workersOf = (cluster) => cluster.nodes.flatMap((node) => node.workers);

/** @param {number[]} numbers */
export const sum = (numbers) => numbers.reduce((total, number) => total + number, 0);

/** @param {number | null | undefined} value */
export const figure = (value) => {
  if (value === null || value === undefined) return '–';
  return value.toLocaleString('en', { maximumFractionDigits: value < 10 ? 2 : value < 100 ? 1 : 0 });
};

/** What became of the workers between two snapshots. @param {Cluster} before @param {Cluster} now */
function changesBetween(before, now) {
  const earlier = new Map(workersOf(before).map((worker) => [worker.name, worker]));
  const changes = workersOf(now).flatMap((worker) => {
    const old = earlier.get(worker.name);
    earlier.delete(worker.name);
    if (!old) return [`${worker.name} joined`];
    return [
      ...(old.incarnation === worker.incarnation ? [] : [`${worker.name} started again`]),
      ...(old.state === worker.state ? [] : [`${worker.name} is ${worker.state}`]),
    ];
  });
  return [...changes, ...[...earlier.keys()].map((name) => `${name} left`)];
}

/** Which slots moved. @param {Slots} before @param {Slots} now */
function movesBetween(before, now) {
  /** @type {Map<string, number>} */
  const moved = new Map();
  now.owners.forEach((owner, slot) => {
    const from = before.workers[before.owners[slot]] ?? 'nobody';
    const to = now.workers[owner] ?? 'nobody';
    if (from !== to) moved.set(`from ${from} to ${to}`, (moved.get(`from ${from} to ${to}`) ?? 0) + 1);
  });
  return [...moved].map(([way, count]) => `${counted(count, 'slot')} moved ${way}`);
}

/**
 * What is known after one more event.
 *
 * @param {Seen} seen
 * @param {string} name
 * @param {any} data
 * @returns {Seen}
 */
function after(seen, name, data) {
  /** @param {string[]} texts */
  const withChanges = (texts) => {
    const news = texts.map((text) => ({ at: new Date(), text }));
    return news.length ? [...news, ...seen.changes].slice(0, MAX_CHANGES) : seen.changes;
  };
  if (name === 'you') return { ...seen, isAdmin: data.admin };
  if (name === 'run') return { ...seen, live: data.live_envs };
  if (name === 'slots') {
    return { ...seen, slots: data, changes: withChanges(seen.slots ? movesBetween(seen.slots, data) : []) };
  }
  if (name !== 'cluster') return seen;
  const changes = withChanges(seen.cluster ? changesBetween(seen.cluster, data) : []);
  return { ...seen, cluster: data, past: [...seen.past, data].slice(-MAX_PAST), changes };
}

/** Follow the cluster while somebody looks. @param {string} query @returns {{seen: Seen, error: Error | null}} */
export function useCluster(query) {
  const [seen, setSeen] = useState(NOTHING);
  const [error, setError] = useState(/** @type {Error | null} */ (null));
  useEffect(() => {
    const ways = { stop: () => {} };
    const look = () => {
      ways.stop();
      if (document.visibilityState === 'hidden') return;
      const take = (/** @type {string} */ name, /** @type {any} */ data) =>
        setSeen((old) => after(old, name, data));
      ways.stop = follow(`api/cluster/events${query}`, take, setError);
    };
    look();
    document.addEventListener('visibilitychange', look);
    return () => {
      document.removeEventListener('visibilitychange', look);
      ways.stop();
    };
  }, [query]);
  return { seen, error };
}
