// @ts-check
// A form made from a JSON Schema: a row for each argument. An empty field is the default, so only what differs is sent.
import { html, useState } from './dom.js';

/**
 * @typedef {{kind: 'choice' | 'integer' | 'number' | 'string' | 'json', options: any[], minimum?: number,
 *   maximum?: number, hint: string}} Shape
 */

/** @param {any} schema @param {any} root */
const resolved = (schema, root) => (schema.$ref ? root.$defs[schema.$ref.split('/').pop()] : schema);

/** @param {any} schema */
function rangeText({ minimum, maximum }) {
  if (minimum !== undefined && maximum !== undefined) return `${minimum} to ${maximum}`;
  if (minimum !== undefined) return `at least ${minimum}`;
  return maximum === undefined ? '' : `at most ${maximum}`;
}

/**
 * What a value is typed as, and what may stand in its field.
 *
 * @param {any} schema
 * @param {any} root whose `$defs` it may refer to
 * @returns {Shape}
 */
export function shapeOf(schema, root) {
  const variants = (schema.anyOf ?? [schema]).map((/** @type {any} */ variant) => resolved(variant, root));
  const typed = variants.filter((/** @type {any} */ variant) => variant.type !== 'null');
  const words = typed.flatMap(
    (/** @type {any} */ variant) => variant.enum ?? (variant.const === undefined ? [] : [variant.const]),
  );
  if (
    words.length &&
    typed.every((/** @type {any} */ variant) => variant.enum || variant.const !== undefined)
  ) {
    return { kind: 'choice', options: words, hint: '' };
  }
  if (typed.length === 1) {
    const { type, minimum, maximum } = typed[0];
    if (type === 'boolean') return { kind: 'choice', options: [true, false], hint: '' };
    if (type === 'integer' || type === 'number' || type === 'string') {
      const name = type === 'integer' ? 'whole number' : type === 'number' ? 'number' : 'text';
      return {
        kind: type,
        options: [],
        minimum,
        maximum,
        hint: [name, rangeText(typed[0])].filter(Boolean).join(', '),
      };
    }
    return {
      kind: 'json',
      options: [],
      hint: type === 'array' ? 'list, as JSON' : type === 'object' ? 'object, as JSON' : 'JSON',
    };
  }
  const names = new Set(
    typed.map((/** @type {any} */ variant) =>
      variant.enum
        ? variant.enum.map((/** @type {any} */ word) => JSON.stringify(word)).join(', ')
        : (variant.type ?? 'object'),
    ),
  );
  return { kind: 'json', options: [], hint: names.size && names.size < 5 ? [...names].join(' or ') : 'JSON' };
}

/**
 * The value that is written in a field; `undefined` for an empty one.
 *
 * @param {string} text
 * @param {Shape} shape
 * @throws {Error} that says what is wrong
 */
export function valueOf(text, { kind, minimum, maximum }) {
  if (kind === 'string') return text === '' ? undefined : text;
  if (text.trim() === '') return undefined;
  if (kind === 'json') {
    try {
      return JSON.parse(text);
    } catch {
      // A word without quotation marks is meant as a text; what begins like JSON is a slip.
      if (/^\s*[[{"]/.test(text)) throw new Error('This is not JSON.');
      return text;
    }
  }
  const value = Number(text);
  if (Number.isNaN(value)) throw new Error('This is not a number.');
  if (kind === 'integer' && !Number.isInteger(value)) throw new Error('This is not a whole number.');
  if (value < (minimum ?? -Infinity) || value > (maximum ?? Infinity))
    throw new Error(`It must be ${rangeText({ minimum, maximum })}.`);
  return value;
}

/** @param {any} value */
const written = (value) => (value === undefined ? '' : value === null ? 'none' : JSON.stringify(value));
/** Descriptions are written for documentation; their marks for code are none here. @param {string} text */
const plain = (text) => text.replace(/``/g, '');

/**
 * One argument: its name, a field, and what it means. Enter takes what is written, and sends the form that it is in.
 *
 * @param {{id: string, name: string, schema: any, root: any, value: any, required?: boolean,
 *   onChange: (value: any) => void}} props
 */
export function Field({ id, name, schema, root, value, required, onChange }) {
  const [fault, setFault] = useState('');
  const shape = shapeOf(schema, root);
  const described = { id, required, 'aria-describedby': `${id}-help`, 'aria-invalid': fault ? 'true' : null };
  /** @param {any} event */
  const take = (event) => {
    try {
      onChange(valueOf(event.target.value, shape));
      setFault('');
    } catch (error) {
      setFault(/** @type {Error} */ (error).message);
    }
  };
  /** @param {any} event */
  const enter = (event) => {
    if (event.key !== 'Enter' || event.shiftKey || event.isComposing) return;
    event.preventDefault();
    take(event);
    event.target.form?.requestSubmit();
  };
  /** @param {any} event */
  const choose = (event) => onChange(event.target.value === '' ? undefined : JSON.parse(event.target.value));
  const text = value === undefined ? '' : typeof value === 'string' ? value : JSON.stringify(value);
  const control =
    shape.kind === 'choice' ? html`
      <select ...${described} value=${written(value)} onChange=${choose}>
        <option value="">${written(schema.default) || 'not given'}</option>
        ${shape.options
          .filter((option) => option !== schema.default)
          .map((option) => html`
            <option value=${JSON.stringify(option)}>${written(option)}</option>
          `)}
      </select>
    ` : shape.kind === 'string' || shape.kind === 'json' ? html`
      <textarea
        ...${described}
        rows="1"
        value=${text}
        placeholder=${written(schema.default)}
        spellcheck=${false}
        onChange=${take}
        onKeyDown=${enter}
      ></textarea>
    ` : html`
      <input
        ...${described}
        value=${text}
        placeholder=${written(schema.default)}
        autocomplete="off"
        inputmode="decimal"
        onChange=${take}
      />
    `;
  return html`
    <div class=${value === undefined ? 'field' : 'field changed'}>
      <label for=${id}>${name.split(/(?<=_)/).map((part) => [part, html`<wbr />`])}</label>
      ${control}
      <p id=${`${id}-help`}>
        ${fault && html`
          <span class="bad" role="alert">
            ${fault}
          </span>
        `}
        ${plain(schema.description ?? '')} ${shape.hint && html`<span class="hint">${shape.hint}</span>`}
      </p>
    </div>
  `;
}
