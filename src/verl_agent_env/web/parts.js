// @ts-check
// What several pages show: states of loading, texts of a conversation, pictures, and a button that copies.
import { html, useEffect, useRef, useState } from './dom.js';

const THOUGHT = /(<think>[\s\S]*?(?:<\/think>|$))/;
const BOARD_TEXT = /(?:\S+\t)+\S+(?:\n(?:\S+\t)+\S+)*/;
const MAX_CELL_PX = 72;
const ENDINGS = /** @type {Record<string, [string, string]>} */ ({
  success: ['success', 'mark ok'],
  failure: ['failure', 'mark bad'],
  ended: ['ended', 'mark'],
  time_limit: ['time limit', 'mark warn'],
  unfinished: ['unfinished', 'mark run'],
  lost: ['lost', 'mark bad'],
});
const LONG_TEXT = 1200;
const LONG_BESIDE_A_BOARD = 160;

/** @param {{what: string}} props */
export const Loading = ({ what }) => html`
  <div class="state" role="status">
    <span class="spinner" aria-hidden="true"></span>Loading ${what}…
  </div>
`;

/** @param {{title: string, children?: any}} props */
export const Empty = ({ title, children }) => html`
  <div class="state">
    <strong>${title}</strong>
    <span>${children}</span>
  </div>
`;

/** What went wrong, in the server's words. @param {{error: any, again?: () => void, label?: string}} props */
export function Failure({ error, again, label = 'Try again' }) {
  const { problem } = error;
  return html`
    <div class="state" role="alert">
      <strong>${problem?.title ?? 'That did not work'}</strong>
      <span>${error.message}</span>
      ${(problem?.errors ?? []).map((/** @type {any} */ fault) => html`
        <span>
          <code>${(fault.loc ?? []).join('.')}</code> ${fault.msg ?? ''}
        </span>
      `)}
      ${again && html`<button onClick=${again}>${label}</button>`}
    </div>
  `;
}

/**
 * A reward; only what is better than nothing has a colour, so that a step's small cost is no alarm.
 *
 * @param {{value: string, sign: number}} props
 */
export const Reward = ({ value, sign }) => html`<span class=${sign > 0 ? 'num ok' : 'num'}>${value}</span>`;

/** How a kept episode ended. @param {{ending: string}} props */
export function Ending({ ending }) {
  const [text, mark] = ENDINGS[ending] ?? [
    ending.replaceAll('_', ' '),
    ending.startsWith('out') ? 'mark warn' : 'mark',
  ];
  return html`<span class=${mark}>${text}</span>`;
}

/**
 * An environment's own drawing. It may come from anybody: as an image of its own it runs no script and loads nothing.
 *
 * @param {{svg: string, label: string, maxWidth?: number}} props
 */
export function Drawing({ svg, label, maxWidth = 480 }) {
  const [url, setUrl] = useState(/** @type {string | null} */ (null));
  useEffect(() => {
    const made = URL.createObjectURL(new Blob([svg], { type: 'image/svg+xml' }));
    setUrl(made);
    return () => URL.revokeObjectURL(made);
  }, [svg]);
  const box = svg.match(/viewBox="0 0 ([\d.]+) ([\d.]+)"/);
  const [width, height] = box ? [Number(box[1]), Number(box[2])] : [1, 1];
  const room = Math.min(maxWidth, document.documentElement.clientWidth - 32);
  // Whole pixels for each cell, where there are cells: no hairlines between them.
  const fitting = Math.min(room / width, room / height, MAX_CELL_PX);
  const scale = fitting >= 1 ? Math.floor(fitting) : fitting;
  const size = box ? { width: Math.round(width * scale), height: Math.round(height * scale) } : { width: room };
  return url && html`<img class="drawing" src=${url} alt=${label} ...${size} />`;
}

/** @param {{summary: any, note?: string, text: string, open?: boolean}} props */
const Fold = ({ summary, note, text, open = false }) => html`
  <details class="fold" open=${open}>
    <summary>
      ${summary} ${note && html`<span class="dim">${note}</span>`}
    </summary>
    <div class="text">${text}</div>
  </details>
`;

/**
 * A text of a model or an environment: thoughts folded, also a board as text that is drawn elsewhere.
 *
 * @param {{text: string, foldBoards?: boolean}} props
 */
export function Text({ text, foldBoards = false }) {
  return text
    .split(THOUGHT)
    .filter((part) => part.trim())
    .map((part) => {
      if (part.startsWith('<think>')) {
        const thought = part.replace(/^<think>|<\/think>$/g, '').trim();
        return html`<${Fold} summary="Thought" note=${`${thought.split(/\s+/).length} words`} text=${thought} />`;
      }
      const board = foldBoards ? part.match(BOARD_TEXT)?.[0] : undefined;
      const rest = (board ? part.replace(board, '') : part).trim();
      return html`
        ${rest &&
          (rest.length > (foldBoards ? LONG_BESIDE_A_BOARD : LONG_TEXT) ? html`
            <${Fold} summary=${`${rest.slice(0, 72)}…`} note=${`${rest.length} characters`} text=${rest} />
          ` : html`
            <div class="text">${rest}</div>
          `)}
        ${board && html`<${Fold} summary="Board as text" text=${board} />`}
      `;
    });
}

/**
 * The content of a message: a text, or parts with pictures.
 *
 * @param {{content: any, foldBoards?: boolean}} props
 */
export function Content({ content, foldBoards = false }) {
  if (!Array.isArray(content)) return html`<${Text} text=${String(content ?? '')} foldBoards=${foldBoards} />`;
  return content.map((part) =>
    part.image_url ? html`
      <img class="drawing" src=${part.image_url.url} alt="Picture of the observation" />
    ` : html`
      <${Text} text=${String(part.text ?? '')} foldBoards=${foldBoards} />
    `,
  );
}

/**
 * A button that copies a text. Browsers let a page copy by itself on loopback and over HTTPS alone; elsewhere the text
 * is shown, all of it selected, for the person to copy.
 *
 * @param {{text: () => string, children: any}} props
 */
export function CopyButton({ text, children }) {
  const [isCopied, setIsCopied] = useState(false);
  const [shown, setShown] = useState(/** @type {{text: string} | null} */ (null));
  const dialog = useRef(/** @type {HTMLDialogElement | null} */ (null));
  const area = useRef(/** @type {HTMLTextAreaElement | null} */ (null));
  const copy = async () => {
    const wanted = text();
    try {
      await navigator.clipboard.writeText(wanted);
      setIsCopied(true);
      setTimeout(() => setIsCopied(false), 2000);
    } catch {
      setShown({ text: wanted });
    }
  };
  useEffect(() => {
    if (!shown) return;
    dialog.current?.showModal();
    area.current?.select();
  }, [shown]);
  return html`
    <button onClick=${copy}>
      <span aria-live="polite">${isCopied ? 'Copied' : children}</span>
    </button>
    <dialog ref=${dialog} aria-label="Copy">
      <label>
        Copy this text with Ctrl + C${' '}
        <textarea ref=${area} rows="4" readonly value=${shown?.text ?? ''}></textarea>
      </label>
      <button onClick=${() => dialog.current?.close()}>Close</button>
    </dialog>
  `;
}
