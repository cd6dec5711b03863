// @ts-check
// One episode that a person plays: its state, and the calls that change it, one after the other.
//
// Everything goes through one queue, so a fast hand loses no action and none overtakes another. A link, an undo and an
// environment that the server has closed meanwhile are all the same: the moves so far, played again.
import { ApiError, call, closeEnvironment, environmentKind } from './api.js';
import { signal } from './dom.js';
import { addressOf, moveOf } from './links.js';
import { noteAddress } from './route.js';

/**
 * @typedef {import('./api.js').Tool} Tool
 * @typedef {import('./links.js').Move} Move
 * @typedef {import('./links.js').Plan} Plan
 * @typedef {{move: Move, observation: any[], reward: number, terminated: boolean, truncated: boolean,
 *   info: Record<string, any>}} Step
 * @typedef {{id: string, name: string, args: Record<string, any>, seed: number, canRepeat: boolean,
 *   hasDrawing: boolean, tools: Tool[], prompt: string, first: any[], steps: Step[], svg: string,
 *   notPlayed: number}} Episode
 */

const TTL_S = 1800;
const GONE = new Set(['environment_closed', 'environment_not_found', 'environment_lost']);
const MAX_SEED = 2 ** 31;
/** Moves that one call plays. */
const MAX_FIRST = 1000;

export const episode = signal(/** @type {Episode | null} */ (null));
/** What is waited for, if it takes longer than a step. */
export const progress = signal('');
/** What went wrong last, and how it is tried again. */
export const trouble = signal(/** @type {{error: Error, again: () => void} | null} */ (null));

let queue = Promise.resolve();
let generation = 0;

/**
 * Do something after all that came before it, unless a new beginning or a failure comes first.
 *
 * @param {() => Promise<void>} job
 */
function enqueue(job) {
  const mine = generation;
  queue = queue.then(async () => {
    if (mine !== generation) return;
    try {
      await job();
      trouble.value = null;
    } catch (error) {
      generation += 1;
      trouble.value = { error: /** @type {Error} */ (error), again: () => enqueue(job) };
    }
    progress.value = '';
  });
}

/** @param {Episode} of @returns {Plan} */
const planOf = ({ name, args, seed, steps }) => ({ name, args, seed, moves: steps.map((step) => step.move) });

/** @param {Episode} next */
function show(next) {
  episode.value = next;
  noteAddress(addressOf(planOf(next)));
}

/** How the episode ended; empty while it goes on. @param {Step[]} steps */
export function endingOf(steps) {
  const last = steps.at(-1);
  if (last?.terminated) return last.info.success ? 'solved' : 'ended';
  return last?.truncated ? 'time limit' : '';
}

/** @param {Move} move @param {number} number */
const messageOf = (move, number) =>
  'text' in move
    ? move.text
    : {
        role: 'assistant',
        content: '',
        tool_calls: [
          {
            id: `call_${number + 1}`,
            type: 'function',
            function: { name: move.tool, arguments: JSON.stringify(move.args) },
          },
        ],
      };

/**
 * Take one step; sent again with the same number, it is taken once.
 *
 * @param {string} id
 * @param {Move} move
 * @param {number} seq
 * @returns {Promise<Step>}
 */
async function take(id, move, seq) {
  const answer = await call(`api/environment/${id}/step`, { action: messageOf(move, seq), seq });
  return { move, ...answer };
}

/** A part of a request: moves that the server carries out first, all of them or none. @param {Move[]} moves */
const withActions = (moves) => (moves.length ? { actions: moves.map(messageOf) } : {});

/** @param {Move[]} moves @param {any[]} [answers] @returns {Step[]} */
const stepsOf = (moves, answers = []) => answers.map((answer, i) => ({ move: moves[i], ...answer }));

/**
 * Look at where an episode is: its board, and its tools, which may be others after each step.
 *
 * @param {Episode} of
 * @returns {Promise<Episode>}
 */
async function seen(of) {
  const path = `api/environment/${of.id}`;
  const [{ tools_schema: tools }, svg] = await Promise.all([
    call(`${path}/tools-schema-openai`),
    of.hasDrawing ? call(`${path}/render?mode=svg`) : '',
  ]);
  return { ...of, tools, svg };
}

/**
 * Make an environment for a plan, and play its moves. One that does not repeat itself may act on the outside, for
 * whoever wrote the link: its moves are left.
 *
 * @param {Plan} plan
 * @returns {Promise<Episode>}
 */
async function makeEpisode({ name, args, seed, moves }) {
  progress.value = 'the episode';
  const { deterministic: canRepeat, render_modes: modes } = await environmentKind(name);
  const first = canRepeat ? moves.slice(0, MAX_FIRST) : [];
  const made = await call('api/environment/initialize', {
    env_name: name,
    env_kwargs: args,
    ttl_s: TTL_S,
    ...(seed === null ? {} : { seed }),
    ...withActions(first),
  });
  const { task_prompt: prompt } = await call(`api/environment/${made.env_id}/task-prompt`);
  const begun = {
    id: made.env_id,
    name,
    args,
    tools: [],
    prompt,
    seed: made.info.seed,
    first: made.observation,
    steps: stepsOf(first, made.steps),
    svg: '',
    canRepeat,
    hasDrawing: modes.includes('svg'),
    notPlayed: canRepeat ? 0 : moves.length,
  };
  return playOn(begun, canRepeat ? moves.slice(first.length) : []);
}

/** @param {Episode} begun @param {Move[]} moves @returns {Promise<Episode>} */
async function playOn(begun, moves) {
  const steps = [...begun.steps];
  for (const move of moves) {
    if (moves.length > 20) progress.value = `step ${steps.length + 1} of ${moves.length}`;
    if (endingOf(steps)) break;
    steps.push(await take(begun.id, move, steps.length));
  }
  return seen({ ...begun, steps });
}

/**
 * Begin the episode anew in the same environment, and play so many moves of it.
 *
 * @param {Episode} of
 * @param {Move[]} moves
 * @returns {Promise<Episode>}
 */
async function replay(of, moves) {
  const first = moves.slice(0, MAX_FIRST);
  const begun = await call(`api/environment/${of.id}/reset`, { seed: of.seed, ...withActions(first) });
  const steps = stepsOf(first, begun.steps);
  return playOn({ ...of, first: begun.observation, seed: begun.info.seed, steps }, moves.slice(first.length));
}

/**
 * Do something with the environment; one that the server has closed meanwhile is made again first.
 *
 * @param {Episode} of
 * @param {(live: Episode) => Promise<Episode>} action
 */
async function withLive(of, action) {
  try {
    return await action(of);
  } catch (error) {
    const isGone = error instanceof ApiError && GONE.has(error.problem.code);
    if (!isGone || (of.steps.length && !of.canRepeat)) throw error;
    return action(await makeEpisode(planOf(of)));
  }
}

/** Begin an episode; whatever was played before is closed. @param {Plan} plan */
export function open(plan) {
  generation += 1;
  trouble.value = null;
  enqueue(async () => {
    const before = episode.value;
    if (before && before.name !== plan.name) episode.value = null;
    const next = await makeEpisode(plan);
    if (before) closeEnvironment(before.id);
    show(next);
  });
}

/** Take a step that is known as soon as it is its turn. @param {(live: Episode) => Promise<Move>} choose */
function actBy(choose) {
  enqueue(async () => {
    if (!episode.value || endingOf(episode.value.steps)) return;
    show(
      await withLive(episode.value, async (live) => {
        const move = await choose(live);
        return seen({ ...live, steps: [...live.steps, await take(live.id, move, live.steps.length)] });
      }),
    );
  });
}

/** Take a step. @param {Move} move */
export const act = (move) => actBy(async () => move);

/**
 * Take the step that somebody else proposes.
 *
 * @param {string} policy `random`, `solution` or `model`
 * @param {string} [endpoint] name of the model's
 */
export const actFor = (policy, endpoint) =>
  actBy(async ({ id }) => {
    progress.value = 'a proposal';
    const { action } = await call(`api/environment/${id}/propose-action`, { policy, endpoint });
    const move = moveOf(action);
    if (!move) throw new Error('Nothing is proposed here: the environment knows no such action.');
    return move;
  });

/** Go back to the state before the last steps. @param {number} count */
export function undo(count) {
  enqueue(async () => {
    if (!episode.value?.steps.length) return;
    const moves = episode.value.steps.slice(0, -count).map((step) => step.move);
    show(await withLive(episode.value, (live) => replay(live, moves)));
  });
}

/** Begin the same episode, or the one of another seed. @param {number} [seed] */
export function restart(seed) {
  enqueue(async () => {
    if (!episode.value) return;
    const wanted = { ...episode.value, seed: seed ?? episode.value.seed, steps: [] };
    show(await withLive(wanted, (live) => replay(live, [])));
  });
}

export const randomSeed = () => Math.floor(Math.random() * MAX_SEED);

/** How a text would be read as an action; `null` where nothing is played. @param {string} text */
export async function readText(text) {
  return episode.value && call(`api/environment/${episode.value.id}/read-action`, { action: text });
}

/** Close what is played. */
export function leave() {
  if (episode.value) closeEnvironment(episode.value.id);
}
