// @ts-check
// A value over time, as one line.
import { html } from './dom.js';

const WIDTH = 640;
const HEIGHT = 96;

/**
 * A line over the points where it has a value.
 *
 * @param {{title: string, points: any[], value: (point: any) => number | null, text: (value: number) => string,
 *   fixed?: [number, number], over?: string}} props
 */
export function Curve({ title, points, value, text, fixed, over = 'time' }) {
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
        aria-label=${`${title} over ${over}, from ${text(values[0])} to ${text(last)}`}
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
