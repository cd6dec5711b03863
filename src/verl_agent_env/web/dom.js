// @ts-check
// What the page is built with: Preact's elements, written as htm templates, its hooks, and signals.
import { h, render } from './vendor/preact.js';
import * as hooks from './vendor/hooks.js';
import * as signals from './vendor/signals.js';
import htm from './vendor/htm.js';

/** @template T @typedef {{value: T}} Signal */

export { render };
/** @type {(strings: TemplateStringsArray, ...values: any[]) => any} */
export const html = htm.bind(h);
/** @type {<T>(value: T) => Signal<T>} */
export const signal = signals.signal;
/** @type {(effect: () => (() => void) | void, inputs: any[]) => void} */
export const useEffect = hooks.useEffect;
/** @type {<T>(make: () => T, inputs: any[]) => T} */
export const useMemo = hooks.useMemo;
/** @type {<T>(value: T) => {current: T}} */
export const useRef = hooks.useRef;
/** @type {<T>(value: T) => [T, (next: T | ((before: T) => T)) => void]} */
export const useState = hooks.useState;

/**
 * Load something whenever `key` changes.
 *
 * @template T
 * @param {() => Promise<T>} load
 * @param {string} key
 * @returns {{value: T | null, error: Error | null, again: () => void}}
 */
export function useLoaded(load, key) {
  const [state, setState] = useState(
    /** @type {{value: T | null, error: Error | null}} */ ({ value: null, error: null }),
  );
  const [attempt, setAttempt] = useState(0);
  useEffect(() => {
    let isCurrent = true;
    const show = (/** @type {{value: T | null, error: Error | null}} */ next) => isCurrent && setState(next);
    show({ value: null, error: null });
    load().then(
      (value) => show({ value, error: null }),
      (error) => show({ value: null, error }),
    );
    return () => {
      isCurrent = false;
    };
  }, [key, attempt]);
  return { ...state, again: () => setAttempt(attempt + 1) };
}

/**
 * Bind keys while a component is shown. They are silent while a person types, and with Ctrl, Alt or Meta.
 *
 * @param {Record<string, () => void>} bindings by `event.key`, with `Shift+` before a named key
 */
export function useKeys(bindings) {
  const latest = useRef(bindings);
  latest.current = bindings;
  useEffect(() => {
    /** @param {KeyboardEvent} event */
    const onKey = (event) => {
      const target = /** @type {Element} */ (event.target);
      if (event.ctrlKey || event.metaKey || event.altKey || event.defaultPrevented) return;
      if (target.closest('input, textarea, select, dialog')) return;
      // A link, a button and a fold have an Enter of their own.
      if (event.key === 'Enter' && target.closest('a, button, summary')) return;
      const isNamed = event.key.length > 1;
      const binding = latest.current[isNamed && event.shiftKey ? `Shift+${event.key}` : event.key];
      if (!binding) return;
      event.preventDefault();
      binding();
    };
    addEventListener('keydown', onKey);
    return () => removeEventListener('keydown', onKey);
  }, []);
}
