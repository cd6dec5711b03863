// @ts-check
// One kept episode, step by step, or two samples beside each other with their first difference marked.
import { html, signal, useEffect, useKeys, useLoaded, useRef } from './dom.js';
import { addressOf, moveOf } from './links.js';
import { callText, counted, shortName, signed } from './format.js';
import { evaluated, findEpisodes, readEpisode } from './kept.js';
import { Content, Drawing, Ending, Failure, Loading, Reward } from './parts.js';
import { goTo } from './route.js';

/**
 * @typedef {import('./kept.js').Row} Row
 * @typedef {import('./kept.js').Step} Step
 * @typedef {import('./kept.js').Episode} Episode
 */

const THOUGHT = /<think>[\s\S]*?(?:<\/think>|$)/g;
const PHONE_PX = 760;

/** How many steps have been taken in what is shown. */
const shownStep = signal(0);

/**
 * The text of an action, and the calls that it holds.
 *
 * @param {any} action
 * @returns {{text: any, thought: string, calls: {name: string, arguments: any}[]}}
 */
function partsOf(action) {
  if (typeof action === 'string') return { text: action, thought: '', calls: [] };
  if (Array.isArray(action))
    return partsOf(action.filter((message) => message?.role === 'assistant').at(-1) ?? '');
  const calls = (action?.tool_calls ?? []).map((/** @type {any} */ one) => one.function ?? {});
  return {
    text: action?.content ?? '',
    thought: action?.reasoning_content ?? '',
    calls: [...calls, ...(action?.calls ?? [])],
  };
}

/**
 * What two samples are compared by: what was done, without its thoughts, and what came of it.
 *
 * @param {Step | undefined} step
 */
function essence(step) {
  if (!step) return '';
  const { text, calls } = partsOf(step.action);
  const said = typeof text === 'string' ? text.replace(THOUGHT, '').trim() : text;
  const done = step.reading
    ? step.reading.calls.map(({ name, arguments: args, fault }) => [name, args, fault])
    : [said, calls.map((call) => [call.name, call.arguments])];
  return JSON.stringify([done, step.observation.map((message) => message.content)]);
}

/** The first step that differs; -1 if none does. @param {Episode} a @param {Episode} b */
function firstDifference(a, b) {
  const last = Math.max(a.steps.length, b.steps.length);
  for (let i = 0; i < last; i += 1) if (essence(a.steps[i]) !== essence(b.steps[i])) return i;
  return -1;
}

/**
 * The address at which an episode can be played on by hand; empty if some action is no text and no single call.
 *
 * @param {Episode} of
 */
function playAddress(of) {
  if (evaluated || !of.complete) return '';
  const moves = of.steps.map(({ action }) => moveOf(action));
  if (moves.some((move) => move === null)) return '';
  return addressOf({
    name: of.env_name,
    args: of.env_kwargs,
    seed: of.seed,
    moves: /** @type {any[]} */ (moves),
  });
}

/** @param {{step: Step}} props */
function Action({ step }) {
  const { text, thought, calls } = partsOf(step.action);
  const { reading } = step;
  const faults = (reading?.calls ?? []).filter((read) => read.fault);
  // What a text was read as; of a call that came as such there is nothing to add.
  const read = calls.length ? [] : (reading?.calls ?? []).filter((one) => one.name && !one.fault);
  return html`
    ${thought && html`
      <details class="fold">
        <summary>
          Thought <span class="dim">${counted(thought.split(/\s+/).length, 'word')}</span>
        </summary>
        <div class="text">${thought}</div>
      </details>
    `}
    <${Content} content=${text} />
    ${calls.map((one) => html`
      <code class="call">${callText(one.name ?? '', one.arguments)}</code>
    `)}
    ${read.map((one) => html`
      <span class="dim">
        read as <code class="call">${callText(one.name, one.arguments)}</code>
      </span>
    `)}
    ${faults.map((one) => html`
      <span class="flag bad">${one.fault}</span>
    `)}
  `;
}

/** Tokens that the model wrote in a step, and those that it read for it. @param {Step} step */
const tokensText = ({ tokens, prompt_tokens: read }) =>
  `${counted(tokens ?? 0, 'token')}${typeof read === 'number' ? ` after ${read.toLocaleString('en')}` : ''}`;

/** @param {{of: Episode, step: Step, total: number, isCurrent: boolean, differs: boolean}} props */
function Turn({ of, step, total, isCurrent, differs }) {
  const item = useRef(/** @type {HTMLElement | null} */ (null));
  useEffect(() => {
    // The thoughts of the step that is read are open.
    if (isCurrent)
      item.current?.querySelectorAll('.said details').forEach((fold) => {
        /** @type {HTMLDetailsElement} */ (fold).open = true;
      });
  }, [isCurrent]);
  const isInvalid = step.reading ? !step.reading.valid : step.info?.action_is_valid === false;
  return html`
    <li
      class=${`turn${differs ? ' differs' : ''}`}
      ref=${item}
      aria-current=${isCurrent ? 'step' : null}
      onClick=${() => {
        shownStep.value = step.seq + 1;
      }}
    >
      <span class="number">${step.seq + 1}</span>
      <div class="said">
        <${Action} step=${step} />
        ${typeof step.tokens === 'number' && html`<span class="dim num">${tokensText(step)}</span>`}
        ${isInvalid && html`<span class="flag bad">invalid</span>`}
        ${differs && html`<span class="flag warn">first difference</span>`}
      </div>
      ${step.reward === null || step.reward === undefined ? html`
        <span></span>
        <span></span>
      ` : html`
        <${Reward} value=${signed(step.reward)} sign=${step.reward} />
        <span class="num dim">${signed(total)}</span>
      `}
      <div class="got">
        ${step.observation.map((message) => html`
          <${Content} content=${message.content} foldBoards=${Boolean(of.drawing)} />
        `)}
      </div>
    </li>
  `;
}

/** @param {{of: Episode, at: number, differs: number, isPair: boolean, label: string}} props */
function Reader({ of, at, differs, isPair, label }) {
  const list = useRef(/** @type {HTMLElement | null} */ (null));
  const shown = Math.min(at, of.steps.length);
  useEffect(() => {
    // Of two, both current steps stand at one height.
    list.current?.querySelector('[aria-current]')?.scrollIntoView({ block: isPair ? 'start' : 'nearest' });
  }, [at]);
  const drawing = shown ? of.steps[shown - 1].drawing : of.drawing;
  const isNarrow = document.documentElement.clientWidth < PHONE_PX;
  let total = 0;
  return html`
    <section class="reader" aria-label=${label}>
      <header class="bar">
        <h2>
          ${shortName(of.env_name)} <span class="dim">seed ${of.seed}</span>
        </h2>
        <${Ending} ending=${of.ending} />
        <span class="num">${signed(of.reward)}</span>
        <span class="dim">
          ${counted(of.num_steps, 'step')}
          ${of.num_invalid ? `, ${of.num_invalid} invalid` : ''}
          ${of.tokens ? `, ${of.tokens.toLocaleString('en')} tokens` : ''}
          ${of.run_id ? ` · ${of.run_id}` : ''}
          ${typeof of.training_step === 'number' ? `, training step ${of.training_step}` : ''}
        </span>
        ${isPair && html`
          <a class="link" href=${`#/episodes/${of.id}`}>
            alone
          </a>
        `}
      </header>
      ${of.lost && html`<p class="bad bar">${of.lost}</p>`}
      ${!of.complete && html`<p class="dim bar">Some steps of this episode were not kept.</p>`}
      <div class=${drawing ? 'split' : 'split textonly'}>
        ${drawing && html`
          <div class="stage">
            <${Drawing}
              svg=${drawing}
              label=${`Board after ${counted(shown, 'step')}`}
              maxWidth=${isPair || isNarrow ? 230 : 440}
            />
          </div>
        `}
        <ol class="turns" ref=${list} tabindex="0" aria-label="Steps">
          <li
            class="turn"
            aria-current=${shown === 0 ? 'step' : null}
            onClick=${() => {
              shownStep.value = 0;
            }}
          >
            <span class="number">0</span>
            <div class="said dim">first observation</div>
            <div class="got">
              ${(of.observation ?? []).map((message) => html`
                <${Content} content=${message.content} foldBoards=${Boolean(drawing)} />
              `)}
            </div>
          </li>
          ${of.steps.map((step, i) => {
            total += step.reward ?? 0;
            return html`
              <${Turn}
                key=${step.seq}
                of=${of}
                step=${step}
                total=${total}
                isCurrent=${shown === i + 1}
                differs=${differs === i}
              />
            `;
          })}
        </ol>
      </div>
    </section>
  `;
}

/** Other samples of an episode's group, to be read beside it. @param {{of: Episode}} props */
function Mates({ of }) {
  const { value: page } = useLoaded(
    () => findEpisodes(new URLSearchParams({ group: of.group, limit: '20' })),
    of.group,
  );
  const mates = (page?.episodes ?? []).filter((row) => row.id !== of.id && row.group === of.group);
  if (evaluated || !mates.length) return null;
  const choose = (/** @type {any} */ event) =>
    event.target.value && goTo(`episodes/${of.id}/${event.target.value}`);
  return html`
    <select aria-label="Another sample of the group" onChange=${choose}>
      <option value="">Beside another of its group…</option>
      ${mates.map((row) => html`
        <option
          key=${row.id}
          value=${row.id}
        >${`${row.ending.replaceAll('_', ' ')}, ${signed(row.reward)}, ${counted(row.num_steps, 'step')}`}</option>
      `)}
    </select>
  `;
}

/** @param {{ids: string[], rows: Row[], back: string}} props rows of the list, and its address */
export function Viewer({ ids, rows, back }) {
  const { value: episodes, error, again } = useLoaded(() => Promise.all(ids.map(readEpisode)), ids.join('/'));
  useEffect(() => {
    shownStep.value = 0;
  }, []);
  const last = Math.max(0, ...(episodes ?? []).map((of) => of.steps.length));
  const at = Math.min(shownStep.value, last);
  const differs = episodes?.length === 2 ? firstDifference(episodes[0], episodes[1]) : -1;
  const go = (/** @type {number} */ to) => {
    shownStep.value = Math.max(0, Math.min(last, to));
  };
  const index = rows.findIndex((row) => row.id === ids[0]);
  const turn = (/** @type {number} */ by) => () => {
    if (ids.length === 1 && index >= 0 && rows[index + by]) goTo(`episodes/${rows[index + by].id}`);
  };
  useKeys({
    j: () => go(at + 1),
    k: () => go(at - 1),
    ArrowRight: () => go(at + 1),
    ArrowLeft: () => go(at - 1),
    d: () => differs >= 0 && go(differs + 1),
    n: turn(1),
    p: turn(-1),
    Escape: () => goTo(back),
  });
  if (error) return html`<${Failure} error=${error} again=${again} />`;
  if (!episodes) return html`<${Loading} what="the episode" />`;
  const play = episodes.length === 1 ? playAddress(episodes[0]) : '';
  return html`
    <div class="viewer">
      <header class="bar">
        <a class="button" href=${`#/${back}`}>
          ← Episodes
        </a>
        <h1 class="hidden">${episodes.length === 2 ? 'Two episodes' : 'An episode'}</h1>
        <label class="inline">
          Step${' '}
          <input
            type="range"
            min="0"
            max=${last}
            value=${at}
            aria-valuetext=${`${at} of ${last}`}
            onInput=${(/** @type {any} */ event) => go(Number(event.target.value))}
          />
          <span class="num">
            ${at} / ${last}
          </span>
        </label>
        <span class="gap"></span>
        ${episodes.length === 2 ? html`
          <button disabled=${differs < 0} onClick=${() => go(differs + 1)}>
            ${differs < 0 ? 'No difference' : `First difference: step ${differs + 1}`}
          </button>
        ` : html`
          <${Mates} of=${episodes[0]} />
        `}
        ${play && html`
          <a class="button" href=${`#/${play}`}>
            Play on
          </a>
        `}
      </header>
      <div class=${`pair of${episodes.length}`}>
        ${episodes.map((of, i) => html`
          <${Reader}
            key=${of.id}
            of=${of}
            at=${at}
            differs=${differs}
            isPair=${episodes.length === 2}
            label=${`Episode ${i + 1} of ${episodes.length}`}
          />
        `)}
      </div>
    </div>
  `;
}
