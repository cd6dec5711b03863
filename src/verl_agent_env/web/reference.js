// @ts-check
// The API's documentation, made from the server's own OpenAPI document, with a form to try each call.
import { callOnce, rawCall } from './api.js';
import { html, useLoaded, useState } from './dom.js';
import { Failure, Loading } from './parts.js';
import { route } from './route.js';

/**
 * @typedef {{id: string, method: string, path: string, summary: string, description: string, tag: string,
 *   parameters: any[], requestBody?: any, responses: Record<string, any>, security?: any}} Operation
 */

/** @param {any} document @returns {Operation[]} */
const operationsOf = (document) =>
  Object.entries(document.paths).flatMap(([path, methods]) =>
    Object.entries(methods).map(([method, operation]) => ({
      ...operation,
      id: operation.operationId,
      method: method.toUpperCase(),
      path,
      tag: operation.tags[0],
    })),
  );

/** @param {any} schema */
const referenceOf = (schema) => schema?.$ref?.split('/').pop() ?? '';

/** A type in few words. @param {any} schema @returns {string} */
function typeText(schema) {
  if (!schema || !Object.keys(schema).length) return 'any';
  if (schema.$ref) return referenceOf(schema);
  const variants = schema.anyOf ?? schema.oneOf;
  if (variants) return [...new Set(variants.map(typeText))].join(' or ');
  if (schema.enum) return schema.enum.map((/** @type {any} */ word) => JSON.stringify(word)).join(' or ');
  if (schema.type === 'array') return `list of ${typeText(schema.items)}`;
  return schema.type ?? 'any';
}

/** @param {{name: string, schemas: Record<string, any>}} props */
function Fields({ name, schemas }) {
  const schema = schemas[name] ?? {};
  const required = new Set(schema.required ?? []);
  return html`
    <table class="fields">
      <thead>
        <tr>
          <th>Field</th>
          <th>Type</th>
          <th>Meaning</th>
        </tr>
      </thead>
      <tbody>
        ${Object.entries(schema.properties ?? {}).map(([field, of]) => html`
          <tr key=${field}>
            <td>
              <code>${field}</code>
              ${required.has(field) ? '' : html`<span class="dim">optional</span>`}
            </td>
            <td>
              <code>${typeText(of)}</code>
            </td>
            <td>${(of.description ?? schemas[referenceOf(of)]?.description ?? '').replace(/``/g, '')}</td>
          </tr>
        `)}
      </tbody>
    </table>
  `;
}

/**
 * Schemas that a schema's fields refer to, and those of these.
 *
 * @param {string} name
 * @param {Record<string, any>} schemas
 * @param {Set<string>} [seen]
 */
function reachedFrom(name, schemas, seen = new Set()) {
  const found = JSON.stringify(schemas[name] ?? {}).matchAll(/#\/components\/schemas\/(\w+)/g);
  for (const [, other] of found) {
    if (seen.has(other) || other === name) continue;
    seen.add(other);
    reachedFrom(other, schemas, seen);
  }
  return seen;
}

/** @param {{title: string, name: string, schemas: Record<string, any>}} props */
function Schema({ title, name, schemas }) {
  const inner = [...reachedFrom(name, schemas)].filter((other) => schemas[other]?.properties);
  return html`
    <h2>
      ${title} <code class="dim">${name}</code>
    </h2>
    <div class="scroll" tabindex="0" role="region" aria-label=${`${title}: ${name}`}>
      <${Fields} name=${name} schemas=${schemas} />
    </div>
    ${inner.map((other) => html`
      <details class="group" key=${other}>
        <summary>${other}</summary>
        <div class="scroll" tabindex="0" role="region" aria-label=${other}>
          <${Fields} name=${other} schemas=${schemas} />
        </div>
      </details>
    `)}
  `;
}

/** @param {{operation: Operation}} props */
function Trial({ operation: { method, path, parameters, requestBody } }) {
  const examples = requestBody?.content['application/json'].examples ?? {};
  const example = Object.values(examples)[0]?.value;
  const [values, setValues] = useState(/** @type {Record<string, string>} */ ({}));
  const [body, setBody] = useState(example ? JSON.stringify(example, null, 2) : '');
  const [answer, setAnswer] = useState(/** @type {any} */ (null));
  const [error, setError] = useState(/** @type {any} */ (null));
  const tried = parameters.filter((parameter) => parameter.in !== 'header');
  /** @param {Event} event */
  const send = async (event) => {
    event.preventDefault();
    const filled = path.replace(/\{(\w+)\}/g, (_, name) => encodeURIComponent(values[name] ?? ''));
    const query = new URLSearchParams(
      tried
        .filter((parameter) => parameter.in === 'query' && values[parameter.name])
        .map((parameter) => [parameter.name, values[parameter.name]]),
    );
    try {
      setError(null);
      setAnswer(
        await rawCall(
          method,
          `${filled.slice(1)}${query.size ? `?${query}` : ''}`,
          requestBody ? body : undefined,
        ),
      );
    } catch (raised) {
      setError(raised);
    }
  };
  return html`
    <h2>Try it</h2>
    <form class="trial" onSubmit=${send}>
      ${tried.map(({ name, required, description, schema }) => html`
        <label key=${name}>
          <span>
            <code>${name}</code> <span class="dim">${description}</span>
          </span>
          <input
            required=${required}
            value=${values[name] ?? ''}
            placeholder=${schema?.default ?? ''}
            spellcheck=${false}
            onInput=${(/** @type {any} */ event) =>
              setValues({ ...values, [name]: event.target.value.trim() })
            }
          />
        </label>
      `)}
      ${requestBody && html`
        <label>
          Body${' '}
          <textarea
            rows=${Math.min(12, body.split('\n').length + 1)}
            spellcheck=${false}
            value=${body}
            onInput=${(/** @type {any} */ event) => setBody(event.target.value)}
          ></textarea>
        </label>
      `}
      <button class="primary">Send</button>
    </form>
    <div aria-live="polite">
      ${error && html`<${Failure} error=${error} />`}
      ${answer && html`
          <p>
            <span class=${answer.status < 400 ? 'mark ok' : 'mark bad'}>${answer.status}</span>${' '}
            <span class="dim">${answer.milliseconds.toFixed(0)} ms</span>
          </p>
          <pre class="answer" tabindex="0">
            ${answer.text || '(no content)'}
          </pre>
      `}
    </div>
  `;
}

/** @param {{operation: Operation, schemas: Record<string, any>}} props */
function OperationPage({ operation, schemas }) {
  const requested = referenceOf(operation.requestBody?.content['application/json'].schema);
  const answered = referenceOf(operation.responses['200']?.content['application/json']?.schema);
  const failures = Object.entries(operation.responses).filter(([status]) => status !== '200');
  const headers = operation.parameters.filter((parameter) => parameter.in === 'header');
  return html`
    <article class="detail">
      <header>
        <h1>
          <span class="method">${operation.method}</span> <code class="path">${operation.path}</code>
        </h1>
        <p>${operation.summary}.</p>
        ${operation.security && html`<p class="dim">${operation.description}</p>`}
      </header>
      <${Trial} operation=${operation} />
      ${headers.length ? html`
        <h2>Headers</h2>
        <dl class="tools">
          ${headers.map((header) => html`
              <dt>
                <code>${header.name}</code>
              </dt>
              <dd>${header.description}</dd>
          `)}
        </dl>
      ` : null}
      ${requested && html`<${Schema} title="Request" name=${requested} schemas=${schemas} />`}
      ${answered && html`<${Schema} title="Answer" name=${answered} schemas=${schemas} />`}
      <h2>Errors</h2>
      <dl class="statuses">
        ${failures.map(([status, { description }]) => html`
          <dt class="num">${status}</dt>
          <dd>
            ${description
              .split(/`/)
              .map((/** @type {string} */ part, /** @type {number} */ i) =>
                i % 2 ? html`<code>${part}</code>` : part,
              )}
          </dd>
        `)}
      </dl>
    </article>
  `;
}

export function Reference() {
  const { value: document, error, again } = useLoaded(() => callOnce('openapi.json'), '');
  if (error) return html`<${Failure} error=${error} again=${again} />`;
  if (!document) return html`<${Loading} what="the API's description" />`;
  const operations = operationsOf(document);
  const chosen = operations.find((operation) => operation.id === route.value.rest) ?? operations[0];
  return html`
    <div class="catalogue">
      <section class="list" aria-label="Calls">
        ${[...new Set(operations.map((operation) => operation.tag))].map((tag) => html`
          <h2>${tag}</h2>
          <ul>
            ${operations
              .filter((operation) => operation.tag === tag)
              .map((operation) => html`
                <li key=${operation.id}>
                  <a href=${`#/api/${operation.id}`} aria-current=${operation === chosen ? 'true' : null}>
                    <span class="method">${operation.method}</span>${' '}
                    <span class="path">
                      ${operation.path.replace('/api', '').replace('/environment/{env_id}', '/…')}
                    </span>
                  </a>
                </li>
              `)}
          </ul>
        `)}
        <p class="dim">
          <a href="../openapi.json" class="link">
            OpenAPI document
          </a>
        </p>
      </section>
      <${OperationPage} key=${chosen.id} operation=${chosen} schemas=${document.components.schemas} />
    </div>
  `;
}
