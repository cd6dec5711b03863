// @ts-check
// What the cluster is doing: who is there, who owns how many slots, what has changed since the page was opened.
import { call } from './api.js';
import { html, useEffect, useRef, useState } from './dom.js';
import { counted } from './format.js';
import { Failure, Loading } from './parts.js';

/**
 * @typedef {{name: string, address: string, pid: number, state: string, slots: number, live_envs: number,
 *   incarnation: string, started_at: number}} Worker
 * @typedef {{name: string, workers: Worker[]}} Node
 * @typedef {{map_version: number, num_slots: number, nodes: Node[]}} Cluster
 * @typedef {{at: Date, text: string}} Event
 */

const ASK_EVERY_MS = 2000;
const MAX_EVENTS = 200;
const BAR_HEIGHT = 20;
const STATE_MARKS = /** @type {Record<string, string>} */ ({ ready: 'mark ok', draining: 'mark warn' });

/** @param {Cluster} cluster */
const workersOf = (cluster) => cluster.nodes.flatMap((node) => node.workers);

/** @param {number[]} numbers */
const sum = (numbers) => numbers.reduce((total, number) => total + number, 0);

/**
 * What became of the workers between two looks.
 *
 * @param {Cluster} before
 * @param {Cluster} now
 * @returns {string[]}
 */
function changesBetween(before, now) {
  const earlier = new Map(workersOf(before).map((worker) => [worker.name, worker]));
  const changes = workersOf(now).flatMap((worker) => {
    const old = earlier.get(worker.name);
    earlier.delete(worker.name);
    if (!old) return [`${worker.name} joined`];
    const moved = worker.slots - old.slots;
    return [
      ...(old.incarnation === worker.incarnation ? [] : [`${worker.name} started again`]),
      ...(old.state === worker.state ? [] : [`${worker.name} is ${worker.state}`]),
      ...(moved
        ? [`${worker.name} ${moved > 0 ? 'took' : 'gave up'} ${counted(Math.abs(moved), 'slot')}`]
        : []),
    ];
  });
  return [...changes, ...[...earlier.keys()].map((name) => `${name} left`)];
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

/** Who owns which share of the slots. @param {{cluster: Cluster, colours: Map<string, string>}} props */
function Shares({ cluster, colours }) {
  const workers = workersOf(cluster);
  let from = 0;
  const parts = workers.map((worker) => {
    const part = html`
      <rect key=${worker.name} x=${from} width=${worker.slots} height=${BAR_HEIGHT} fill=${colours.get(worker.name)}>
        <title>
          ${worker.name}: ${counted(worker.slots, 'slot')}
        </title>
      </rect>
    `;
    from += worker.slots;
    return part;
  });
  const label = `Slots by worker: ${workers.map((worker) => `${worker.name} ${worker.slots}`).join(', ')}`;
  return html`
    <svg
      class="shares"
      role="img"
      aria-label=${label}
      viewBox=${`0 0 ${cluster.num_slots} ${BAR_HEIGHT}`}
      preserveAspectRatio="none"
    >
      ${parts}
    </svg>
  `;
}

/**
 * Empties a node after a second click, or has it take environments again.
 *
 * @param {{node: Node, done: () => void}} props
 */
function Drain({ node, done }) {
  const [isSure, setIsSure] = useState(false);
  const [error, setError] = useState(/** @type {any} */ (null));
  const isDraining = node.workers.every((worker) => worker.state === 'draining');
  const send = async () => {
    setIsSure(false);
    try {
      await call('api/cluster/drain', { node: node.name, undo: isDraining });
      setError(null);
      done();
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

/** @param {{node: Node, numSlots: number, colours: Map<string, string>, canDrain: boolean, done: () => void}} props */
function NodeTable({ node, numSlots, colours, canDrain, done }) {
  return html`
    <section class="node">
      <header class="row">
        <h2>${node.name}</h2>
        <span class="dim">
          ${counted(node.workers.length, 'worker')},${' '}
          ${counted(sum(node.workers.map((worker) => worker.live_envs)), 'live environment')}
        </span>
        <span class="gap"></span>
        ${canDrain && html`<${Drain} node=${node} done=${done} />`}
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
              <th>Address</th>
              <th class="num">Process</th>
              <th class="num">Since</th>
            </tr>
          </thead>
          <tbody>
            ${node.workers.map((worker) => html`
              <tr key=${worker.name}>
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
                <td>
                  <code>${worker.address}</code>
                </td>
                <td class="num">${worker.pid}</td>
                <td class="num">${new Date(worker.started_at * 1000).toLocaleTimeString()}</td>
              </tr>
            `)}
          </tbody>
        </table>
      </div>
    </section>
  `;
}

export function ClusterPage() {
  const [cluster, setCluster] = useState(/** @type {Cluster | null} */ (null));
  const [error, setError] = useState(/** @type {any} */ (null));
  const [events, setEvents] = useState(/** @type {Event[]} */ ([]));
  const last = useRef(/** @type {Cluster | null} */ (null));
  const look = async () => {
    try {
      const now = /** @type {Cluster} */ (await call('api/cluster'));
      const changes = last.current ? changesBetween(last.current, now) : [];
      last.current = now;
      setCluster(now);
      setError(null);
      if (changes.length)
        setEvents((before) =>
          [...changes.map((text) => ({ at: new Date(), text })), ...before].slice(0, MAX_EVENTS),
        );
    } catch (raised) {
      setError(raised);
    }
  };
  useEffect(() => {
    let timer = 0;
    let isShown = true;
    // One call after the other, and none while nobody looks.
    const lookAgain = async () => {
      if (document.visibilityState === 'visible') await look();
      if (isShown) timer = setTimeout(lookAgain, ASK_EVERY_MS);
    };
    lookAgain();
    return () => {
      isShown = false;
      clearTimeout(timer);
    };
  }, []);
  if (!cluster && error) return html`<${Failure} error=${error} again=${look} />`;
  if (!cluster) return html`<${Loading} what="the cluster" />`;
  const workers = workersOf(cluster);
  const colours = coloursOf(cluster);
  return html`
    <div class="cluster">
      <header class="bar">
        <h1>Cluster</h1>
        <dl class="facts">
          <dt>Nodes</dt>
          <dd class="num">${cluster.nodes.length}</dd>
          <dt>Workers ready</dt>
          <dd class="num">
            ${workers.filter((worker) => worker.state === 'ready').length} of ${workers.length}
          </dd>
          <dt>Live environments</dt>
          <dd class="num">${sum(workers.map((worker) => worker.live_envs)).toLocaleString('en')}</dd>
          <dt>Slots owned</dt>
          <dd class="num">
            ${sum(workers.map((worker) => worker.slots))} of ${cluster.num_slots}
          </dd>
        </dl>
      </header>
      ${error && html`
        <div class="notice" role="alert">
          <strong>${error.problem?.title ?? 'No answer'}</strong> What is shown is older.
        </div>
      `}
      <${Shares} cluster=${cluster} colours=${colours} />
      ${cluster.nodes.map((node) => html`
        <${NodeTable}
          key=${node.name}
          node=${node}
          numSlots=${cluster.num_slots}
          colours=${colours}
          canDrain=${cluster.nodes.length > 1}
          done=${look}
        />
      `)}
      <section class="node">
        <h2>Changes since the page was opened</h2>
        ${events.length ? html`
          <ol aria-live="polite">
            ${events.map(({ at, text }) => html`
              <li>
                <time class="dim num">${at.toLocaleTimeString()}</time> ${text}
              </li>
            `)}
          </ol>
        ` : html`
          <p class="dim">None yet.</p>
        `}
      </section>
    </div>
  `;
}
