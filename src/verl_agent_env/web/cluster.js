// @ts-check
// What the cluster is doing, as it happens: how fast it is, who owns which slots, what changes, what fails.
import { Curve } from './curve.js';
import { html, useMemo, useState } from './dom.js';
import { shortName } from './format.js';
import { coloursOf, NodeTable } from './nodes.js';
import { Failure, Loading } from './parts.js';
import { route } from './route.js';
import { RunPage, Runs } from './runs.js';
import { SlotPicture } from './slots.js';
import { figure, sum, useCluster, workersOf } from './watch.js';

/**
 * @typedef {import('./watch.js').Cluster} Cluster
 * @typedef {import('./watch.js').Change} Change
 */

const SHARES = /** @type {const} */ (['p50', 'p99']);

/** @param {number} value */
const milliseconds = (value) => `${figure(value)} ms`;

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
