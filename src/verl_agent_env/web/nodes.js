// @ts-check
// A node and its workers, in a table, with the button that empties it.
import { call } from './api.js';
import { html, useState } from './dom.js';
import { counted } from './format.js';
import { figure, sum } from './watch.js';

/**
 * @typedef {import('./watch.js').Cluster} Cluster
 * @typedef {import('./watch.js').Node} Node
 */

const STATE_MARKS = /** @type {Record<string, string>} */ ({
  ready: 'mark ok',
  draining: 'mark warn',
  silent: 'mark bad',
});

/** A colour for each worker: the hue is the node's, the lightness the worker's. @param {Cluster} cluster */
export function coloursOf(cluster) {
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
export function NodeTable({ node, numSlots, colours, canDrain, choose }) {
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
