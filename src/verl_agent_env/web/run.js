// @ts-check
// A run: how its success and its reward went over time, and what it spent where.
import { Curve } from './curve.js';
import { html, useLoaded, useRef } from './dom.js';
import { counted, fixed, shortName } from './format.js';
import { findRuns } from './kept.js';
import { Failure } from './parts.js';

/** @typedef {import('./kept.js').Sums & {at: number}} Point */

const MAX_POINTS = 80;
const SUMS = /** @type {const} */ (['episodes', 'judged', 'successes', 'reward', 'num_steps', 'seconds']);

/** Add neighbouring points up until few enough are left to be told apart. @param {Point[]} points @returns {Point[]} */
function thinned(points) {
  const size = Math.ceil(points.length / MAX_POINTS);
  /** @type {Point[]} */
  const fewer = [];
  points.forEach((point, i) => {
    const last = fewer.at(-1);
    if (i % size === 0 || !last) fewer.push({ ...point });
    else {
      SUMS.forEach((name) => {
        last[name] += point[name];
      });
    }
  });
  return fewer;
}

/**
 * @param {{run: string, number?: number,
 *   nothing?: any}} props with another `number` it is read again; `nothing` is shown
 *   where there is no such run
 */
export function RunSummary({ run, number = 0, nothing = null }) {
  const { value: runs, error, again } = useLoaded(() => findRuns(run), `${run} ${number}`);
  const latest = useRef(/** @type {import('./kept.js').Run | undefined} */ (undefined));
  if (error) return html`<${Failure} error=${error} again=${again} />`;
  // What was read before is shown until it is read again.
  if (runs) latest.current = runs.find((one) => one.run_id === run);
  const found = latest.current;
  if (!found) return runs ? nothing : null;
  // A training goes by its steps, where the actions say which wrote them; anything else by time.
  const isByStep = found.training_steps.length > 1;
  const all = isByStep
    ? found.training_steps.map((sums) => ({ ...sums, at: sums.training_step }))
    : found.points;
  const points = thinned(all);
  const size = Math.ceil(all.length / Math.max(points.length, 1));
  const minutes = Math.max(found.ended_at - found.began_at, 1) / 60;
  const rate = (/** @type {number} */ value) => `${(100 * value).toFixed(1)} %`;
  const slowest = [...found.environments].sort((a, b) => b.seconds / b.episodes - a.seconds / a.episodes);
  return html`
    <section class="summary" aria-label=${`Run ${run}`}>
      <dl class="facts">
        <dt>Episodes</dt>
        <dd class="num">${found.episodes.toLocaleString('en')}</dd>
        <dt>Success</dt>
        <dd class="num">${found.judged ? rate(found.successes / found.judged) : '–'}</dd>
        <dt>Mean reward</dt>
        <dd class="num">${fixed(found.mean_reward, 3)}</dd>
        <dt>Steps</dt>
        <dd class="num">${found.num_steps.toLocaleString('en')}</dd>
        <dt>Episodes a minute</dt>
        <dd class="num">${(found.episodes / minutes).toFixed(1)}</dd>
      </dl>
      <div class="curves">
        <${Curve}
          title=${isByStep ? 'Episodes of a training step' : 'Episodes in ten seconds'}
          points=${points}
          over=${isByStep ? 'training steps' : 'time'}
          text=${(/** @type {number} */ value) => value.toLocaleString('en', { maximumFractionDigits: 1 })}
          value=${(/** @type {Point} */ point) => point.episodes / size}
        />
        <${Curve}
          title="Success"
          points=${points}
          over=${isByStep ? 'training steps' : 'time'}
          fixed=${[0, 1]}
          text=${rate}
          value=${(/** @type {Point} */ point) => (point.judged ? point.successes / point.judged : null)}
        />
        <${Curve}
          title="Mean reward"
          points=${points}
          over=${isByStep ? 'training steps' : 'time'}
          text=${(/** @type {number} */ value) => fixed(value, 3)}
          value=${(/** @type {Point} */ point) => point.reward / point.episodes}
        />
      </div>
      ${found.training_steps.length > 0 && html`
        <details class="fold">
          <summary>${counted(found.training_steps.length, 'training step')}</summary>
          <ul class="runs">
            ${found.training_steps.map(({ training_step: step, episodes }) => html`
              <li key=${step}>
                <a class="link" href=${`#/episodes?run=${encodeURIComponent(run)}&training_step=${step}`}>
                  Step ${step}
                </a>${' '}
                <span class="dim">${counted(episodes, 'episode')}</span>
              </li>
            `)}
          </ul>
        </details>
      `}
      ${slowest.length > 1 && html`
        <details class="fold">
          <summary>${counted(slowest.length, 'environment')}, the slowest first</summary>
          <table>
            <thead>
              <tr>
                <th>Environment</th>
                <th class="num">Episodes</th>
                <th class="num">Success</th>
                <th class="num">Mean reward</th>
                <th class="num">Seconds each</th>
              </tr>
            </thead>
            <tbody>
              ${slowest.map((sums) => html`
                <tr key=${sums.env_name}>
                  <td>${shortName(sums.env_name)}</td>
                  <td class="num">${sums.episodes}</td>
                  <td class="num">${sums.judged ? rate(sums.successes / sums.judged) : '–'}</td>
                  <td class="num">${fixed(sums.reward / sums.episodes, 3)}</td>
                  <td class="num">${(sums.seconds / sums.episodes).toFixed(2)}</td>
                </tr>
              `)}
            </tbody>
          </table>
        </details>
      `}
    </section>
  `;
}
