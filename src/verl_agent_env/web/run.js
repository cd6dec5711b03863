// @ts-check
// A run: how its success and its reward went over time, and what it spent where.
import { html, useLoaded } from './dom.js';
import { counted, shortName } from './format.js';
import { findRuns } from './kept.js';
import { Failure } from './parts.js';

/** @typedef {import('./kept.js').Sums & {at: number}} Point */

const WIDTH = 640;
const HEIGHT = 96;
const MAX_POINTS = 80;

/** Add neighbouring points up until few enough are left to be told apart. @param {Point[]} points @returns {Point[]} */
function thinned(points) {
  const size = Math.ceil(points.length / MAX_POINTS);
  /** @type {Point[]} */
  const fewer = [];
  points.forEach((point, i) => {
    const last = fewer.at(-1);
    if (i % size === 0 || !last) fewer.push({ ...point });
    else {
      for (const name of /** @type {const} */ ([
        'episodes',
        'judged',
        'successes',
        'reward',
        'num_steps',
        'seconds',
      ]))
        last[name] += point[name];
    }
  });
  return fewer;
}

/**
 * A line over the points where it has a value.
 *
 * @param {{title: string, points: Point[], value: (point: Point) => number | null, text: (value: number) => string,
 *   fixed?: [number, number]}} props
 */
function Curve({ title, points, value, text, fixed }) {
  const known = points.flatMap((point) => {
    const at = value(point);
    return at === null ? [] : [{ at: point.at, value: at }];
  });
  if (!known.length) return null;
  const values = known.map((point) => point.value);
  const [low, high] = fixed ?? [Math.min(0, ...values), Math.max(...values, 0)];
  const [from, to] = [known[0].at, known[known.length - 1].at];
  const x = (/** @type {number} */ at) => (to > from ? (WIDTH * (at - from)) / (to - from) : WIDTH / 2);
  const y = (/** @type {number} */ of) => HEIGHT - (HEIGHT * (of - low)) / (high - low || 1);
  const path = known
    .map((point, i) => `${i ? 'L' : 'M'}${x(point.at).toFixed(1)} ${y(point.value).toFixed(1)}`)
    .join('');
  const last = values[values.length - 1];
  return html`
    <figure class="curve">
      <figcaption>
        ${title} <span class="num">${text(last)}</span>${' '}
        <span class="dim">at the end, from ${text(values[0])}</span>
      </figcaption>
      <svg
        role="img"
        aria-label=${`${title} over time, from ${text(values[0])} to ${text(last)}`}
        viewBox=${`-2 -4 ${WIDTH + 4} ${HEIGHT + 8}`}
        preserveAspectRatio="none"
      >
        <line x1="0" x2=${WIDTH} y1=${y(Math.max(low, 0))} y2=${y(Math.max(low, 0))} class="axis" />
        <path d=${path} class="line" />
        ${known.length === 1 && html`<circle cx=${x(known[0].at)} cy=${y(known[0].value)} r="3" />`}
      </svg>
    </figure>
  `;
}

/** @param {{run: string}} props */
export function RunSummary({ run }) {
  const { value: runs, error, again } = useLoaded(() => findRuns(run), run);
  if (error) return html`<${Failure} error=${error} again=${again} />`;
  const found = runs?.find((one) => one.run_id === run);
  if (!found) return null;
  const points = thinned(found.points);
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
        <dd class="num">${found.mean_reward.toFixed(3)}</dd>
        <dt>Steps</dt>
        <dd class="num">${found.num_steps.toLocaleString('en')}</dd>
        <dt>Episodes a minute</dt>
        <dd class="num">${(found.episodes / minutes).toFixed(1)}</dd>
      </dl>
      <div class="curves">
        <${Curve}
          title="Success"
          points=${points}
          fixed=${[0, 1]}
          text=${rate}
          value=${(/** @type {Point} */ point) => (point.judged ? point.successes / point.judged : null)}
        />
        <${Curve}
          title="Mean reward"
          points=${points}
          text=${(/** @type {number} */ value) => value.toFixed(3)}
          value=${(/** @type {Point} */ point) => point.reward / point.episodes}
        />
      </div>
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
                  <td class="num">${(sums.reward / sums.episodes).toFixed(3)}</td>
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
