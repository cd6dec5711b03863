// @ts-check
// All slots as a picture: a cell each, coloured by the worker that owns it.
import { html, useEffect, useRef, useState } from './dom.js';

/**
 * @typedef {{workers: string[], owners: number[]}} Slots names of workers; of each slot the position of its owner,
 *   or −1
 */

// Of as many slots as a cluster has if nothing else is said; the picture of others has the same shape.
const COLUMNS = innerWidth < 760 ? 64 : 128;
const USUAL_SLOTS = 4096;
const FADED = 0.2;
const GAP_FROM_PX = 4;

/**
 * @param {{slots: Slots, colours: Map<string, string>, chosen: string, choose: (name: string) => void}} props
 */
export function SlotPicture({ slots: { workers, owners }, colours, chosen, choose }) {
  const canvas = useRef(/** @type {HTMLCanvasElement | null} */ (null));
  const [slot, setSlot] = useState(-1);
  const columns = Math.max(1, Math.round(COLUMNS * Math.sqrt(owners.length / USUAL_SLOTS)));
  const rows = Math.ceil(owners.length / columns);
  useEffect(() => {
    const box = /** @type {HTMLCanvasElement} */ (canvas.current);
    const pen = /** @type {CanvasRenderingContext2D} */ (box.getContext('2d'));
    const room = /** @type {HTMLElement} */ (box.parentElement).clientWidth;
    // A whole number of pixels for each cell: no hairlines of different width between them.
    const cell = Math.max(2, Math.floor((room * devicePixelRatio) / columns));
    const gap = cell >= GAP_FROM_PX ? 1 : 0;
    box.width = columns * cell;
    box.height = rows * cell;
    box.style.width = `${box.width / devicePixelRatio}px`;
    owners.forEach((owner, i) => {
      const name = workers[owner];
      pen.globalAlpha = !chosen || chosen === name ? 1 : FADED;
      pen.fillStyle = colours.get(name) ?? '#888';
      pen.fillRect((i % columns) * cell, Math.floor(i / columns) * cell, cell - gap, cell - gap);
    });
  }, [owners, colours, chosen]);
  /** @param {MouseEvent} event */
  const point = (event) => {
    const { left, top, width, height } = /** @type {HTMLElement} */ (event.target).getBoundingClientRect();
    const row = Math.floor(((event.clientY - top) / height) * rows);
    const at = row * columns + Math.floor(((event.clientX - left) / width) * columns);
    setSlot(at);
    choose(workers[owners[at]] ?? '');
  };
  const leave = () => {
    setSlot(-1);
    choose('');
  };
  const owned = new Array(workers.length).fill(0);
  for (const owner of owners) if (owner >= 0) owned[owner] += 1;
  const counts = workers.map((name, i) => `${name} ${owned[i]}`);
  const pointed = slot >= 0 && slot < owners.length;
  return html`
    <section class="part">
      <h2>Slots</h2>
      <canvas
        ref=${canvas}
        role="img"
        aria-label=${`Slots by worker: ${counts.join(', ')}`}
        onMouseMove=${point}
        onMouseLeave=${leave}
      ></canvas>
      <p class="dim">
        ${pointed
          ? `Slot ${slot}: ${workers[owners[slot]] ?? 'without an owner'}`
          : 'A cell is a slot; point at it, or at a worker below.'}
      </p>
    </section>
  `;
}
