// @ts-check
// What the cluster is doing, as it happens: who is there, who owns which slots, how fast it is, what fails.
import { call, follow } from './api.js';
import { Curve } from './curve.js';
import { html, useEffect, useLoaded, useMemo, useState } from './dom.js';
import { counted, shortName } from './format.js';
import { findRuns } from './kept.js';
import { Empty, Failure, Loading } from './parts.js';
import { route } from './route.js';
import { RunSummary } from './run.js';
import { SlotPicture } from './slots.js';

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
const RUNS_SHOWN = 20;
const SHARES = /** @type {const} */ (['p50', 'p99']);
const RUN_EVERY_MS = 5000;
const STATE_MARKS = /** @type {Record<string, string>} */ ({
  ready: 'mark ok',
  draining: 'mark warn',
  silent: 'mark bad',
});
/** @type {Seen} */
const NOTHING = { cluster: null, slots: null, isAdmin: false, live: null, past: [], changes: [] };

/** @param {Cluster} cluster */
const workersOf = (cluster) => cluster.nodes.flatMap((node) => node.workers);

/** @param {number[]} numbers */
const sum = (numbers) => numbers.reduce((total, number) => total + number, 0);

/** @param {number | null | undefined} value */
const figure = (value) => {
  if (value === null || value === undefined) return '–';
  return value.toLocaleString('en', { maximumFractionDigits: value < 10 ? 2 : value < 100 ? 1 : 0 });
};

/** @param {number} value */
const milliseconds = (value) => `${figure(value)} ms`;

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
function useCluster(query) {
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

/** A colour for each worker: the hue is the node's, the lightness the worker's. @param {Cluster} cluster */
function coloursOf(cluster) {
  return new Map(
    cluster.nodes.flatMap((node, i) => {
      const hue = Math.round(265 + (360 * i) / cluster.nodes.length) % 360;
      const lightness = (/** @type {number} */ j) => 0.5 + (0.25 * (j + 1)) / (node.workers.length + 1);
      return node.workers.map((worker, j) => [worker.name, `oklch(${lightness(j)} 0.12 ${hue})`]);
    }),
  );
}

/** Empties a node after a second click, or has it take environments again. @param {{node: Node}} props */
function Drain({ node }) {
  const [isSure, setIsSure] = useState(false);
  const [error, setError] = useState(/** @type {any} */ (null));
  const isDraining = node.workers.every((worker) => worker.state === 'draining');
  const send = async () => {
    setIsSure(false);
    try {
      await call('api/cluster/drain', { node: node.name, undo: isDraining });
      setError(null);
    } catch (raised) {
      setError(raised);
    }
  };
  const ask = isDraining || isSure ? send : () => setIsSure(true);
  return html`
    <button onClick=${ask} onBlur=${() => setIsSure(false)}>
      ${isDraining ? 'Take environments again' : isSure ? `Really empty ${node.name}?` : 'Drain'}
    </button>
    ${error && html`
      <span class="bad" role="alert">
        ${error.message}
      </span>
    `}
  `;
}

/**
 * @param {{node: Node, numSlots: number, colours: Map<string, string>, canDrain: boolean,
 *   choose: (name: string) => void}} props
 */
function NodeTable({ node, numSlots, colours, canDrain, choose }) {
  const live = sum(node.workers.map((worker) => worker.live_envs));
  return html`
    <section class="node">
      <header class="row">
        <h2>${node.name}</h2>
        <span class="dim">
          ${counted(node.workers.length, 'worker')}, ${counted(live, 'live environment')}
        </span>
        <span class="gap"></span>
        ${canDrain && html`<${Drain} node=${node} />`}
      </header>
      <div class="scroll" tabindex="0" role="region" aria-label=${`Workers of ${node.name}`}>
        <table>
          <thead>
            <tr>
              <th>Worker</th>
              <th>State</th>
              <th class="num">Slots</th>
              <th class="num">Share</th>
              <th class="num">Live</th>
              <th class="num">Steps/s</th>
              <th class="num">p50</th>
              <th class="num">p99</th>
              <th class="num">Store p99</th>
              <th>Address</th>
              <th class="num">Since</th>
            </tr>
          </thead>
          <tbody>
            ${node.workers.map((worker) => html`
              <tr key=${worker.name} onMouseEnter=${() => choose(worker.name)} onMouseLeave=${() => choose('')}>
                <td>
                  <svg class="swatch" viewBox="0 0 1 1" aria-hidden="true">
                    <rect width="1" height="1" fill=${colours.get(worker.name)} />
                  </svg>
                  ${worker.name}
                </td>
                <td>
                  <span class=${STATE_MARKS[worker.state] ?? 'mark'}>${worker.state}</span>
                </td>
                <td class="num">${worker.slots}</td>
                <td class="num">${((100 * worker.slots) / numSlots).toFixed(1)} %</td>
                <td class="num">${worker.live_envs}</td>
                <td class="num">${figure(worker.steps_per_s)}</td>
                <td class="num">${figure(worker.step_ms?.p50)}</td>
                <td class="num">${figure(worker.step_ms?.p99)}</td>
                <td class="num">${figure(worker.store_ms?.p99)}</td>
                <td>
                  <code>${worker.address}</code>
                </td>
                <td class="num">${new Date(worker.started_at * 1000).toLocaleTimeString()}</td>
              </tr>
            `)}
          </tbody>
        </table>
      </div>
    </section>
  `;
}

/** A name and a count in each row, the largest first. @param {{title: string, rows: any[][], empty: string}} props */
const Counts = ({ title, rows, empty }) => html`
  <section class="part">
    <h2>${title}</h2>
    ${rows.length ? html`
      <dl class="counts">
        ${rows.map(([name, count, more]) => html`
          <dt key=${name}>${name}</dt>
          <dd class="num">
            ${count.toLocaleString('en')} ${more > 0 && html`<span class="bad">+${more.toLocaleString('en')}</span>`}
          </dd>
        `)}
      </dl>
    ` : html`
      <p class="dim">${empty}</p>
    `}
  </section>
`;

/** @param {any} error */
const titleOf = (error) => error.problem?.title ?? 'No answer';

/** @param {Record<string, number>} counts @returns {[string, number][]} */
const largestFirst = (counts) => Object.entries(counts).sort(([, one], [, other]) => other - one);

/** Runs whose episodes are kept, the latest first. */
function Runs() {
  const { value: runs } = useLoaded(() => findRuns(), '');
  const named = (runs ?? []).filter((run) => run.run_id !== null).slice(0, RUNS_SHOWN);
  if (!named.length) return null;
  return html`
    <section class="part">
      <h2>Runs</h2>
      <ul class="runs">
        ${named.map((run) => html`
          <li key=${run.run_id}>
            <a class="link" href=${`#/cluster/run/${encodeURIComponent(String(run.run_id))}`}>
              ${run.run_id}
            </a>${' '}
            <span class="dim">${counted(run.episodes, 'episode')}</span>
          </li>
        `)}
      </ul>
    </section>
  `;
}

/** One run as it goes on: `#/cluster/run/ID`. @param {{run: string}} props */
function RunPage({ run }) {
  const { seen } = useCluster(`?run=${encodeURIComponent(run)}`);
  const [number, setNumber] = useState(0);
  useEffect(() => {
    const timer = setInterval(() => {
      if (document.visibilityState === 'visible') setNumber((old) => old + 1);
    }, RUN_EVERY_MS);
    return () => clearInterval(timer);
  }, []);
  const nothing = html`
    <${Empty} title="No episode of this run is kept">
      They are there once they are over, if the server was started with <code>--keep-trajectories</code>.
    </${Empty}>
  `;
  return html`
    <div class="cluster">
      <header class="bar">
        <a class="button" href="#/cluster">
          ← Cluster
        </a>
        <h1>${run}</h1>
        <dl class="facts">
          <dt>Live environments</dt>
          <dd class="num">${figure(seen.live)}</dd>
        </dl>
        <span class="gap"></span>
        <a class="button" href=${`#/episodes?run=${encodeURIComponent(run)}`}>
          Its episodes
        </a>
      </header>
      <${RunSummary} run=${run} number=${number} nothing=${nothing} />
    </div>
  `;
}

/** @param {{cluster: Cluster}} props */
function Facts({ cluster }) {
  const workers = workersOf(cluster);
  const ready = workers.filter((worker) => worker.state === 'ready').length;
  const owned = sum(workers.map((worker) => worker.slots));
  return html`
    <dl class="facts">
      <dt>Nodes</dt>
      <dd class="num">${cluster.nodes.length}</dd>
      <dt>Workers ready</dt>
      <dd class="num">
        ${ready} of ${workers.length}
      </dd>
      <dt>Live environments</dt>
      <dd class="num">${sum(workers.map((worker) => worker.live_envs)).toLocaleString('en')}</dd>
      <dt>Slots owned</dt>
      <dd class="num">
        ${owned} of ${cluster.num_slots}
      </dd>
      <dt>Steps a second</dt>
      <dd class="num">${figure(cluster.steps_per_s)}</dd>
    </dl>
  `;
}

/** @param {{past: Cluster[]}} props */
const Curves = ({ past }) => html`
  <div class="curves">
    <${Curve}
      title="Steps a second"
      points=${past}
      text=${figure}
      value=${(/** @type {Cluster} */ c) => c.steps_per_s}
    />
    ${SHARES.map((share) => html`
      <${Curve}
        key=${share}
        title=${`Step, ${share}`}
        points=${past}
        text=${milliseconds}
        value=${(/** @type {Cluster} */ c) => (c.step_ms ?? c.batch_ms)?.[share] ?? null}
      />
    `)}
    <${Curve}
      title="Write to the store, p99"
      points=${past}
      text=${milliseconds}
      value=${(/** @type {Cluster} */ c) => c.store_ms?.p99 ?? null}
    />
  </div>
`;

/** @param {{changes: Change[]}} props */
const Changes = ({ changes }) => html`
  <section class="part">
    <h2>Changes since the page was opened</h2>
    ${changes.length ? html`
      <ol aria-live="polite">
        ${changes.map(({ at, text }) => html`
          <li>
            <time class="dim num">${at.toLocaleTimeString()}</time> ${text}
          </li>
        `)}
      </ol>
    ` : html`
      <p class="dim">None yet.</p>
    `}
  </section>
`;

function Overview() {
  const { seen, error } = useCluster('');
  const [chosen, choose] = useState('');
  const { cluster, slots, past } = seen;
  const names = cluster
    ? workersOf(cluster)
        .map((worker) => worker.name)
        .join(' ')
    : '';
  const colours = useMemo(() => (cluster ? coloursOf(cluster) : new Map()), [names]);
  if (!cluster && error) return html`<${Failure} error=${error} again=${() => location.reload()} />`;
  if (!cluster || !slots) return html`<${Loading} what="the cluster" />`;
  const before = past[0].errors;
  const errors = largestFirst(cluster.errors).map(([code, count]) => [
    code,
    count,
    count - (before[code] ?? 0),
  ]);
  return html`
    <div class="cluster">
      <header class="bar">
        <h1>Cluster</h1>
        <${Facts} cluster=${cluster} />
      </header>
      ${error && html`
        <div class="notice" role="alert">
          <strong>${titleOf(error)}</strong> What is shown is older.
        </div>
      `}
      <${Curves} past=${past} />
      <${SlotPicture} slots=${slots} colours=${colours} chosen=${chosen} choose=${choose} />
      ${cluster.nodes.map((node) => html`
        <${NodeTable}
          key=${node.name}
          node=${node}
          numSlots=${cluster.num_slots}
          colours=${colours}
          canDrain=${seen.isAdmin && cluster.nodes.length > 1}
          choose=${choose}
        />
      `)}
      <div class="side">
        <${Changes} changes=${seen.changes} />
        <${Counts}
          title="Live environments"
          empty="None."
          rows=${largestFirst(cluster.live).map(([name, count]) => [shortName(name), count, 0])}
        />
        <${Counts} title="Errors by code, and new ones" empty="None." rows=${errors} />
        <${Runs} />
      </div>
    </div>
  `;
}

/** The cluster, or one of its runs. */
export function ClusterPage() {
  const [kind, ...rest] = route.value.rest.split('/');
  const run = rest.join('/');
  if (kind === 'run' && run) return html`<${RunPage} key=${run} run=${run} />`;
  return html`<${Overview} />`;
}
