// @ts-check
// The list of kept episodes: narrowed by run, environment, ending, reward and text, sorted, two of them marked.
import { html, signal, useEffect, useKeys, useLoaded, useState } from './dom.js';
import { counted, shortName, signed } from './format.js';
import { evaluated, FILTERS, findEpisodes, findRuns, saveExport } from './kept.js';
import { Empty, Ending, Failure, Loading, Reward } from './parts.js';
import { goTo, route } from './route.js';
import { RunSummary } from './run.js';
import { Viewer } from './viewer.js';

/**
 * @typedef {import('./kept.js').Row} Row
 * @typedef {import('./kept.js').Page} Page
 */

const PAGE_SIZE = 100;
/** So many does the API give at once. */
const MAX_ROWS = 1000;
const COLUMNS = /** @type {string[][]} */ ([
  ...(evaluated
    ? [['seed', 'Episode', '']]
    : [
        ['ended_at', 'Ended', 'when'],
        ['env_name', 'Environment', ''],
        ['seed', 'Seed', 'num wide'],
      ]),
  ['num_steps', 'Steps', 'num wide'],
  ['reward', 'Reward', 'num'],
  ['num_invalid', 'Invalid', 'num wide'],
]);

/** Marked for comparison. */
const marked = signal(/** @type {string[]} */ ([]));
const cursor = signal(0);
/** The list that was shown last, through which the viewer steps, and its address. */
const listed = signal({ rows: /** @type {Row[]} */ ([]), address: 'episodes' });

/** A time; of today without the date. @param {number} seconds since the epoch */
function timeText(seconds) {
  const at = new Date(seconds * 1000);
  const isToday = at.toDateString() === new Date().toDateString();
  return isToday ? at.toLocaleTimeString() : at.toLocaleString([], { dateStyle: 'short', timeStyle: 'short' });
}

/**
 * The address of the list with one of its parameters changed.
 *
 * @param {URLSearchParams} query
 * @param {Record<string, string>} changes
 */
function changed(query, changes) {
  const next = new URLSearchParams(query);
  Object.entries(changes).forEach(([name, value]) => {
    if (value) next.set(name, value);
    else next.delete(name);
  });
  return `episodes?${next}`;
}

/** The run, and the training step whose weights played. @param {Row} row */
const placeInTraining = ({ run_id: run, training_step: step }) =>
  `${run ?? '–'}${typeof step === 'number' ? `, step ${step}` : ''}`;

/** @param {{query: URLSearchParams, page: Page | null}} props */
function Filters({ query, page }) {
  const { value: runs } = useLoaded(() => findRuns(), '');
  const set = (/** @type {Record<string, string>} */ changes) => {
    cursor.value = 0;
    goTo(changed(query, changes));
  };
  const on = (/** @type {string} */ name) => (/** @type {any} */ event) =>
    set({ [name]: event.target.value.trim() });
  const names = [
    ...new Set((runs ?? []).flatMap((run) => run.environments.map((sums) => sums.env_name))),
  ].sort();
  const value = (/** @type {string} */ name) => query.get(name) ?? '';
  /** @param {string} name @param {string} label @param {string} all @param {[string, string][]} options */
  const choice = (name, label, all, options) => html`
    <select aria-label=${label} value=${value(name)} onChange=${on(name)}>
      <option value="">${all}</option>
      ${(options.some(([known]) => known === value(name)) || !value(name)
        ? options
        : [...options, [value(name), value(name)]]
      ).map(([known, text]) => html`
        <option key=${known} value=${known} selected=${known === value(name)}>
          ${text}
        </option>
      `)}
    </select>
  `;
  /** @param {string} name @param {string} wanted @param {any} text @param {number} count */
  const chip = (name, wanted, text, count) => html`
    <button
      key=${wanted}
      aria-pressed=${value(name) === wanted}
      onClick=${() => set({ [name]: value(name) === wanted ? '' : wanted })}
    >
      ${text} <span class="num">${count}</span>
    </button>
  `;
  const endings = Object.entries(page?.endings ?? {});
  return html`
    <div class="bar">
      <input
        type="search"
        aria-label="Search in what was observed and done"
        placeholder="Search in the episodes"
        value=${value('text')}
        onChange=${on('text')}
      />
      ${!evaluated &&
        choice(
          'run',
          'Run',
          'All runs',
          (runs ?? []).filter((run) => run.run_id !== null).map(({ run_id: id }) => [String(id), String(id)]),
        )}
      ${!evaluated &&
        choice(
          'env',
          'Environment',
          'All environments',
          names.map((name) => [name, shortName(name)]),
        )}
      <label class="inline">
        Reward from${' '}
        <input class="short" inputmode="decimal" value=${value('min_reward')} onChange=${on('min_reward')} />
      </label>
      ${(value('training_step') || page?.episodes.some((row) => typeof row.training_step === 'number')) &&
        !evaluated && html`
        <label class="inline">
          Training step${' '}
          <input
            class="short"
            inputmode="numeric"
            value=${value('training_step')}
            onChange=${on('training_step')}
          />
        </label>
      `}
      <div class="chips" role="group" aria-label="Endings">
        ${endings.map(([ending, count]) => chip('ending', ending, html`<${Ending} ending=${ending} />`, count))}
        ${page && page.invalid > 0 && chip('invalid', 'true', 'with invalid actions', page.invalid)}
      </div>
    </div>
  `;
}

/** @param {{query: URLSearchParams, page: Page}} props */
function Actions({ query, page }) {
  const [error, setError] = useState('');
  const save = (/** @type {string} */ ending) => () =>
    saveExport(ending, query).then(
      () => setError(''),
      (raised) => setError(raised.message),
    );
  const shown = page.is_whole
    ? counted(page.total, 'episode')
    : `${counted(page.total, 'episode')} among those looked at in time`;
  return html`
    <div class="bar">
      <span role="status">${shown}</span>
      ${page.silent_workers.length > 0 && html`
        <span class="bad">No answer from ${page.silent_workers.join(', ')}.</span>
      `}
      ${query.get('group') && html`
        <a class="link" href=${`#/${changed(query, { group: '' })}`}>
          of one group; show all
        </a>
      `}
      <span class="gap"></span>
      ${error && html`
        <span class="bad" role="alert">
          ${error}
        </span>
      `}
      ${!evaluated && html`
        <button onClick=${save('jsonl')}>Save as JSONL</button>
        <button onClick=${save('parquet')}>Save as parquet</button>
      `}
      <button disabled=${marked.value.length !== 2} onClick=${compare}>
        Compare ${marked.value.length} of 2
      </button>
    </div>
  `;
}

/** @param {string} id */
function mark(id) {
  marked.value = marked.value.includes(id)
    ? marked.value.filter((known) => known !== id)
    : [...marked.value, id].slice(-2);
}

function compare() {
  if (marked.value.length === 2) goTo(`episodes/${marked.value.join('/')}`);
}

/** @param {{rows: Row[], query: URLSearchParams}} props */
function Table({ rows, query }) {
  const sort = query.get('sort') ?? COLUMNS[0][0];
  const isUp = query.get('order') === 'asc';
  const heads = COLUMNS.map(([name, title, kind]) => {
    const isSorted = sort === name;
    const next = changed(query, { sort: name, order: isSorted && !isUp ? 'asc' : '' });
    return html`
      <th key=${name} class=${kind} aria-sort=${isSorted ? (isUp ? 'ascending' : 'descending') : null}>
        <a href=${`#/${next}`}>
          ${title}
          ${isSorted ? (isUp ? ' ↑' : ' ↓') : ''}
        </a>
      </th>
    `;
  });
  return html`
    <table class="rows">
      <thead>
        <tr>
          <th>
            <span class="hidden">Mark</span>
          </th>
          ${heads}
          <th>Ending</th>
          ${!evaluated && html`<th class="wide">Run</th>`}
        </tr>
      </thead>
      <tbody>
        ${rows.map((row, i) => html`
          <tr key=${row.id} class=${i === cursor.value ? 'current' : ''}>
            <td>
              <input
                type="checkbox"
                aria-label=${`Mark ${row.id}`}
                checked=${marked.value.includes(row.id)}
                onChange=${() => mark(row.id)}
              />
            </td>
            <td class="when">
              <a
                class="link"
                href=${`#/episodes/${row.id}`}
                onClick=${() => {
                  cursor.value = i;
                }}
              >
                ${evaluated ? `seed ${row.seed}` : timeText(row.ended_at)}
              </a>
            </td>
            ${!evaluated && html`
              <td class="name">${shortName(row.env_name)}</td>
              <td class="num wide">${row.seed}</td>
            `}
            <td class="num wide">${row.num_steps}</td>
            <td class="num">
              <${Reward} value=${signed(row.reward)} sign=${row.reward} />
            </td>
            <td class="num wide">${row.num_invalid || '–'}</td>
            <td>
              <${Ending} ending=${row.ending} />
            </td>
            ${!evaluated && html`<td class="wide dim place">${placeInTraining(row)}</td>`}
          </tr>
        `)}
      </tbody>
    </table>
  `;
}

/** @param {{query: URLSearchParams}} props */
function List({ query }) {
  const [limit, setLimit] = useState(PAGE_SIZE);
  const key = query.toString();
  useEffect(() => setLimit(PAGE_SIZE), [key]);
  const asked = new URLSearchParams(query);
  asked.set('limit', String(limit));
  const { value: latest, error, again } = useLoaded(() => findEpisodes(asked), asked.toString());
  const [page, setPage] = useState(/** @type {Page | null} */ (null));
  // What was shown stays until the next answer is there: filters do not jump under the pointer.
  useEffect(() => {
    if (latest) {
      setPage(latest);
      listed.value = { rows: latest.episodes, address: `episodes?${key}` };
    }
  }, [latest]);
  const rows = page?.episodes ?? [];
  const move = (/** @type {number} */ by) => () => {
    cursor.value = Math.max(0, Math.min(rows.length - 1, cursor.value + by));
    const links = /** @type {NodeListOf<HTMLElement>} */ (document.querySelectorAll('tbody .when a'));
    links[cursor.value]?.focus();
  };
  const current = rows[cursor.value];
  useKeys({
    j: move(1),
    k: move(-1),
    Enter: () => current && goTo(`episodes/${current.id}`),
    x: () => current && mark(current.id),
    c: compare,
  });
  if (!page && !error) return html`<${Loading} what="the episodes" />`;
  if (page && !page.kept) {
    return html`
      <${Empty} title="This server keeps no episodes">
        <code>verl-agent-env serve --keep-trajectories memory</code> keeps those that are over.
      </${Empty}>
    `;
  }
  const isNarrowed = FILTERS.some((name) => query.get(name));
  const run = query.get('run');
  return html`
    <div class="episodes">
      <h1 class="hidden">Episodes</h1>
      ${evaluated && html`<${Evaluation} />`}
      <${Filters} query=${query} page=${page} />
      ${run && html`<${RunSummary} key=${run} run=${run} />`}
      ${page && !error && html`<${Actions} query=${query} page=${page} />`}
      ${error ? html`
        <${Failure} error=${error} again=${again} />
      ` : rows.length ? html`
        <div class="scroll" tabindex="0" role="region" aria-label="Episodes">
          <${Table} rows=${rows} query=${query} />
          ${page?.next_offset && (limit < MAX_ROWS
            ? html`<button onClick=${() => setLimit(limit + PAGE_SIZE)}>Show more</button>`
            : html`<p>These are the first ${limit}. The filters, and the order, lead to the others.</p>`)}
        </div>
      ` : isNarrowed ? html`
        <${Empty} title="No episode fits">
          <a class="button" href="#/episodes">
            Clear the filters
          </a>
        </${Empty}>
      ` : html`
        <${Empty} title="No episode is over yet">
          An episode is kept when its environment is closed or reset.
        </${Empty}>
      `}
    </div>
  `;
}

/** What an evaluation says of all its episodes. */
const Evaluation = () => html`
  <header class="bar">
    <h2>${evaluated?.title}</h2>
    <dl class="facts">
      ${evaluated?.figures.map(([name, text]) => html`
        <dt>${name}</dt>
        <dd>${text}</dd>
      `)}
    </dl>
  </header>
`;

/** The list, or one or two episodes: `#/episodes?run=…`, `#/episodes/ID`, `#/episodes/ID/ID`. */
export function Episodes() {
  const ids = route.value.rest.split('/').filter(Boolean).slice(0, 2);
  const { rows, address } = listed.value;
  if (ids.length) return html`<${Viewer} key=${ids.join('/')} ids=${ids} rows=${rows} back=${address} />`;
  return html`<${List} query=${route.value.query} />`;
}
