// @ts-check
// All environments: search and tags at the left; at the right the chosen one, its arguments, and a sample made with
// them.
import { call, closeEnvironment, environmentKind, environmentKinds, packagedEnvironments } from './api.js';
import { COPIES } from './copies.js';
import { html, signal, useKeys, useLoaded, useMemo, useState } from './dom.js';
import { Field } from './form.js';
import { shortName } from './format.js';
import { Content, CopyButton, Drawing, Empty, Failure, Loading } from './parts.js';
import { goTo, route } from './route.js';

/** @typedef {import('./api.js').EnvKind} EnvKind */
/** @typedef {import('./api.js').EnvRow} EnvRow */

const SAMPLE_TTL_S = 60;
const search = signal('');
const chosenTags = signal(/** @type {string[]} */ ([]));

/**
 * Of a package's environment only its row is known, until it is chosen.
 *
 * @param {EnvRow | EnvKind | {name: string}} row
 * @returns {row is EnvKind}
 */
const isKind = (row) => 'tools' in row;

/** @param {EnvKind} kind */
const traitsOf = (kind) => [
  kind.render_modes.includes('svg') ? 'board' : 'text',
  ...(kind.tools.length ? ['tools'] : []),
  ...(kind.deterministic ? ['repeatable'] : []),
  ...(kind.execution === 'inline' ? [] : [`runs ${kind.execution}`]),
];

/** @param {EnvRow | EnvKind} row */
const tagsOf = (row) => (isKind(row) ? traitsOf(row) : [row.extra ?? '']);

/** @param {EnvRow | EnvKind} kind */
function isWanted(kind) {
  const text = [
    kind.name,
    kind.description,
    ...kind.tags,
    ...(isKind(kind) ? kind.tools.map((tool) => tool.function.name) : []),
    ...(isKind(kind) ? Object.keys(kind.kwargs_schema.properties ?? {}) : []),
  ]
    .join(' ')
    .toLowerCase();
  const tags = tagsOf(kind);
  return (
    chosenTags.value.every((tag) => tags.includes(tag)) &&
    search.value
      .toLowerCase()
      .split(/\s+/)
      .every((word) => text.includes(word))
  );
}

/** Environments in order, each followed by its presets; those of packages last. @param {(EnvRow | EnvKind)[]} kinds */
const inFamilies = (kinds) =>
  [...kinds].sort(
    (a, b) =>
      Number(Boolean(a.extra)) - Number(Boolean(b.extra)) ||
      a.family.localeCompare(b.family) ||
      Number(b.name === b.family) - Number(a.name === a.family) ||
      shortName(a.name).localeCompare(shortName(b.name)) ||
      a.name.localeCompare(b.name),
  );

/** @param {EnvKind} kind @param {object} args @param {string} seed */
const initializeRequest = (kind, args, seed) => ({
  env_name: kind.name,
  ...(seed === '' ? {} : { seed: Number(seed) }),
  ...(Object.keys(args).length ? { env_kwargs: args } : {}),
});

const serverAddress = () => new URL('../', document.baseURI).href;

/** @param {EnvKind} kind @param {object} request */
async function makeSample(kind, request) {
  const {
    env_id: id,
    observation,
    info,
  } = await call('api/environment/initialize', { ...request, ttl_s: SAMPLE_TTL_S });
  try {
    const svg = kind.render_modes.includes('svg') ? await call(`api/environment/${id}/render?mode=svg`) : '';
    return { observation, seed: info.seed, svg };
  } finally {
    closeEnvironment(id);
  }
}

/** @param {{kind: EnvKind, request: object}} props */
function Sample({ kind, request }) {
  const { value, error, again } = useLoaded(() => makeSample(kind, request), JSON.stringify(request));
  if (error) return html`<${Failure} error=${error} again=${again} />`;
  if (!value) return html`<${Loading} what="a sample" />`;
  return html`
    ${value.svg && html`
      <${Drawing}
        svg=${value.svg}
        label=${`First board of ${shortName(kind.name)} with seed ${value.seed}`}
        maxWidth=${340}
      />
    `}
    ${value.observation.map((/** @type {any} */ message) => html`
      <div class="quote">
        <${Content} content=${message.content} foldBoards=${Boolean(value.svg)} />
      </div>
    `)}
  `;
}

/** What a preset is one of, and in what it differs. @param {EnvKind} kind */
function presetText({ preset_of: name, presets }) {
  const names = Object.keys(presets).join(', ');
  return html`A preset of <a href=${`#/catalogue/${name}`}>${shortName(name ?? '')}</a>, with its own ${names}.`;
}

/** @param {{kind: EnvKind}} props */
function Environment({ kind }) {
  const [args, setArgs] = useState(/** @type {Record<string, any>} */ ({}));
  const [seed, setSeed] = useState('1');
  const [formNumber, setFormNumber] = useState(0);
  const request = initializeRequest(kind, args, seed);
  const changed = Object.keys(args).length;
  const properties = kind.kwargs_schema.properties ?? {};
  const query = new URLSearchParams({
    ...(seed === '' ? {} : { seed }),
    ...(changed ? { args: JSON.stringify(args) } : {}),
  });
  /** @param {string} name */
  const change = (name) => (/** @type {any} */ value) =>
    setArgs(({ [name]: _, ...others }) => (value === undefined ? others : { ...others, [name]: value }));
  const clear = () => {
    setArgs({});
    setFormNumber(formNumber + 1);
  };
  return html`
    <article class="detail">
      <header>
        <h1>
          ${shortName(kind.name)} ${shortName(kind.name) !== kind.name && html`<code>${kind.name}</code>`}
        </h1>
        <p>${kind.description}</p>
        <p class="dim">${kind.tags.join(' · ')}</p>
        ${kind.preset_of && html`<p class="dim">${presetText(kind)}</p>`}
        <div class="row">
          <a class="button primary" href=${`#/play/${kind.name}?${query}`}>
            Play
          </a>
          <label class="inline">
            Seed${' '}
            <input
              class="short"
              inputmode="numeric"
              placeholder="random"
              value=${seed}
              onChange=${(/** @type {any} */ event) =>
                setSeed(/^\d*$/.test(event.target.value) ? event.target.value : seed)
              }
            />
          </label>
          ${Object.entries(COPIES).map(([name, write]) => html`
            <${CopyButton} text=${() => write(request, serverAddress())}>Copy ${name}</${CopyButton}>
          `)}
          ${changed ? html`
            <button class="quiet" onClick=${clear}>
              Back to the defaults
            </button>
          ` : null}
        </div>
      </header>
      <div class="columns">
        <section key=${formNumber} aria-label="Arguments">
          ${kind.argument_groups.map(({ title, arguments: names }, i) => html`
            <details class="group" open=${i === 0}>
              <summary>
                ${title} <span class="dim">${names.length}</span>
              </summary>
              ${names.map((name) => html`
                <${Field}
                  key=${name}
                  id=${`arg-${name}`}
                  name=${name}
                  schema=${properties[name]}
                  root=${kind.kwargs_schema}
                  value=${args[name]}
                  onChange=${change(name)}
                />
              `)}
            </details>
          `)}
        </section>
        <aside aria-label="Sample">
          <h2>
            Sample <span class="dim">${seed === '' ? 'random seed' : `seed ${seed}`}</span>
          </h2>
          <${Sample} kind=${kind} request=${request} />
          <h2>
            Tools <span class="dim">${kind.tools.length || 'none that every episode has'}</span>
          </h2>
          <dl class="tools">
            ${kind.tools.map(({ function: tool }) => html`
              <dt>
                <code>${tool.name}</code>
              </dt>
              <dd>${tool.description}</dd>
            `)}
          </dl>
        </aside>
      </div>
    </article>
  `;
}

export function Catalogue() {
  const { value: kinds, error, again } = useLoaded(environmentKinds, '');
  const { value: packaged } = useLoaded(packagedEnvironments, '');
  const all = useMemo(() => inFamilies([...(kinds ?? []), ...(packaged ?? [])]), [kinds, packaged]);
  const shown = all.filter(isWanted);
  const { rest } = route.value;
  // One that is not listed is asked for by its name: the server says why, if it is not there.
  const isListed = !rest || all.some((kind) => kind.name === rest);
  const chosen = isListed ? (shown.find((kind) => kind.name === rest) ?? shown[0]) : { name: rest };
  /** @param {number} by */
  const move = (by) => () => {
    const next = shown[shown.findIndex((kind) => kind === chosen) + by];
    if (next) goTo(`catalogue/${next.name}`);
  };
  useKeys({ j: move(1), k: move(-1) });
  if (error) return html`<${Failure} error=${error} again=${again} />`;
  if (!kinds) return html`<${Loading} what="the environments" />`;
  const flip = (/** @type {string} */ tag) => {
    chosenTags.value = chosenTags.value.includes(tag)
      ? chosenTags.value.filter((other) => other !== tag)
      : [...chosenTags.value, tag];
  };
  const clear = () => {
    search.value = '';
    chosenTags.value = [];
  };
  return html`
    <div class="catalogue">
      <section class="list" aria-label="Environments">
        <div class="filters">
          <input
            type="search"
            aria-label="Search environments"
            placeholder="Search names, tools, arguments"
            value=${search.value}
            onInput=${(/** @type {any} */ event) => {
              search.value = event.target.value;
            }}
          />
          <div class="chips">
            ${[...new Set(all.flatMap(tagsOf))].map((tag) => html`
              <button aria-pressed=${String(chosenTags.value.includes(tag))} onClick=${() => flip(tag)}>
                ${tag}
              </button>
            `)}
          </div>
        </div>
        ${shown.length ? html`
          <ul>
            ${shown.map((kind) => html`
              <li key=${kind.name}>
                <a
                  class=${kind.name === kind.family ? '' : 'preset'}
                  href=${`#/catalogue/${kind.name}`}
                  aria-current=${kind === chosen ? 'true' : null}
                >
                  ${listName(kind)}
                </a>
              </li>
            `)}
          </ul>
        ` : html`
          <${Empty} title="No environment fits">
            <button onClick=${clear}>Clear the search</button>
          </${Empty}>
        `}
      </section>
      ${chosen && html`<${Chosen} key=${chosen.name} row=${chosen} />`}
    </div>
  `;
}

/** Load what is shown of the chosen environment. @param {{row: EnvRow | EnvKind | {name: string}}} props */
function Chosen({ row }) {
  const { value: kind, error, again } = useLoaded(
    () => (isKind(row) ? Promise.resolve(row) : environmentKind(row.name)),
    row.name,
  );
  if (error) return html`<${Failure} error=${error} again=${again} />`;
  if (!kind) return html`<${Loading} what=${shortName(row.name)} />`;
  return html`<${Environment} key=${kind.name} kind=${kind} />`;
}

/** A preset without what its environment's name says already, and with its version. @param {EnvRow} kind */
function listName(kind) {
  if (kind.name === kind.family) return shortName(kind.name);
  const prefix = `${shortName(kind.family)}_`;
  const [, short, version] = kind.name.match(/^(?:verl_env\/)?(.*)-v(\d+)$/) ?? ['', kind.name, ''];
  return html`
    ${short.startsWith(prefix) ? short.slice(prefix.length) : short} <span class="dim">v${version}</span>
  `;
}
