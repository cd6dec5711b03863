// @ts-check
// The runs of the cluster, and the page of one as it goes on.
import { html, useEffect, useLoaded, useState } from './dom.js';
import { counted } from './format.js';
import { findRuns } from './kept.js';
import { Empty } from './parts.js';
import { RunSummary } from './run.js';
import { figure, useCluster } from './watch.js';

const RUNS_SHOWN = 20;
const RUN_EVERY_MS = 5000;

/** Runs whose episodes are kept, the latest first. */
export function Runs() {
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
export function RunPage({ run }) {
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
