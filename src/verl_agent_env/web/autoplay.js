// @ts-check
// Somebody else plays on: a random policy, the solver, or a model of the operator's, a step or until it is stopped.
import { html, useEffect, useState } from './dom.js';
import { actFor, trouble } from './episode.js';

/** So that a person can follow. */
const PAUSE_MS = 250;
const POLICIES = /** @type {[string, string][]} */ ([
  ['random', 'a random policy'],
  ['solution', 'the solver'],
  ['model', 'a model'],
]);

/** @param {{steps: number, isOver: boolean}} props */
export function AutoPlay({ steps, isOver }) {
  const [policy, setPolicy] = useState('random');
  const [endpoint, setEndpoint] = useState('');
  const [isPlaying, setIsPlaying] = useState(false);
  const canAct = !isOver && (policy !== 'model' || endpoint !== '');
  const go = () => actFor(policy, policy === 'model' ? endpoint : undefined);
  const isStopped = !canAct || trouble.value !== null;
  useEffect(() => {
    if (!isPlaying) return undefined;
    if (isStopped) {
      setIsPlaying(false);
      return undefined;
    }
    // The next step follows when this one is shown.
    const timer = setTimeout(go, PAUSE_MS);
    return () => clearTimeout(timer);
  }, [isPlaying, isStopped, steps]);
  return html`
    <div class="row" role="group" aria-label="Somebody else plays on">
      <label class="inline">
        Let${' '}
        <select
          value=${policy}
          onChange=${(/** @type {any} */ event) => setPolicy(event.target.value)}
        >
          ${POLICIES.map(([name, text]) => html`<option key=${name} value=${name}>${text}</option>`)}
        </select>
      </label>
      ${policy === 'model' && html`
        <input
          aria-label="Model endpoint"
          placeholder="name of its endpoint"
          value=${endpoint}
          onInput=${(/** @type {any} */ event) => setEndpoint(event.target.value.trim())}
        />
      `}
      <button disabled=${!canAct || isPlaying} onClick=${go}>take a step</button>
      <button disabled=${!canAct} onClick=${() => setIsPlaying(!isPlaying)}>
        ${isPlaying ? 'stop' : 'play on'}
      </button>
    </div>
  `;
}
