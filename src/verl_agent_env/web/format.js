// @ts-check
// How names, numbers and calls are written.

/**
 * `verl_env/sokoban-v0` is `sokoban`; a version beyond the first stays if others of the name exist.
 *
 * @param {string} name
 */
export const shortName = (name) => name.replace(/^verl_env\//, '').replace(/-v\d+$/, '');

/**
 * With so many digits behind the point; from ten millions on as a power of ten.
 *
 * @param {number} value
 * @param {number} digits
 */
export const fixed = (value, digits) =>
  Math.abs(value) < 1e7 ? value.toFixed(digits) : value.toExponential(digits);

/** @param {number} value */
export function signed(value) {
  const sign = value > 0 ? '+' : value < 0 ? '−' : '';
  return sign + fixed(Math.abs(value), 2);
}

/** @param {number} count @param {string} noun */
export const counted = (count, noun) => `${count.toLocaleString('en')} ${noun}${count === 1 ? '' : 's'}`;

/**
 * A tool call as a person writes it: `push_up`, `test_equation("1 + 2")`; a text of several lines as it is.
 *
 * @param {string} name
 * @param {unknown} args an object, or its JSON
 */
export function callText(name, args) {
  let values;
  try {
    values = Object.values((typeof args === 'string' ? JSON.parse(args || '{}') : args) ?? {});
  } catch {
    return `${name}(${args})`;
  }
  const written = values.map((value) =>
    typeof value === 'string' && value.includes('\n') ? `\n${value}\n` : JSON.stringify(value),
  );
  return values.length ? `${name}(${written.join(', ')})` : name;
}

/** A value as Python writes it. @param {unknown} value @returns {string} */
export function pythonText(value) {
  if (value === null || value === undefined) return 'None';
  if (typeof value === 'boolean') return value ? 'True' : 'False';
  if (Array.isArray(value)) return `[${value.map(pythonText).join(', ')}]`;
  if (typeof value === 'object')
    return `{${Object.entries(value)
      .map(([key, item]) => `${JSON.stringify(key)}: ${pythonText(item)}`)
      .join(', ')}}`;
  return JSON.stringify(value);
}
