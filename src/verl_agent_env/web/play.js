// @ts-check
// One episode played by hand: by buttons and forms of its tools, by arrow keys, or with a text as a model writes it.
import { environmentKinds } from './api.js';
import { AutoPlay } from './autoplay.js';
import { html, useEffect, useKeys, useLoaded, useRef, useState } from './dom.js';
import {
  act,
  endingOf,
  episode,
  open,
  progress,
  randomSeed,
  readText,
  restart,
  trouble,
  undo,
} from './episode.js';
import { Field, shapeOf } from './form.js';
import { callText, counted, shortName, signed } from './format.js';
import { addressOf, planIn } from './links.js';
import { Content, CopyButton, Drawing, Empty, Failure, Loading, Reward, Text } from './parts.js';
import { goTo, route } from './route.js';

/**
 * @typedef {import('./api.js').Tool} Tool
 * @typedef {import('./episode.js').Step} Step
 * @typedef {import('./episode.js').Episode} Episode
 */

const ARROWS = { left: '←', up: '↑', down: '↓', right: '→' };
const DIRECTED = /^(.*)_(left|up|down|right)$/;
const READ_AFTER_MS = 150;
/** Characters that are shown on each side of an action in a text. */
const CONTEXT = 60;
/** Lines that a text has at least which is a board. */
const MIN_STATE_LINES = 3;
const ENDING_MARKS = { solved: 'mark ok', ended: 'mark', 'time limit': 'mark warn' };

/** @param {Tool} tool */
const takesArguments = (tool) => Object.keys(tool.function.parameters?.properties ?? {}).length > 0;

/**
 * The verbs of tools that are named after directions, in order: `push_up`, `push_down`, … are one verb.
 *
 * @param {Tool[]} tools
 */
function directedVerbs(tools) {
  const found = tools
    .filter((tool) => !takesArguments(tool))
    .map((tool) => tool.function.name.match(DIRECTED)?.[1]);
  return [...new Set(found)].filter((verb) => verb !== undefined);
}

/** @param {{tools: Tool[], isOver: boolean}} props */
function ToolButtons({ tools, isOver }) {
  const simple = tools.filter((tool) => !takesArguments(tool));
  const verbs = directedVerbs(tools);
  /** @param {Tool} tool @param {any} text @param {string} label */
  const button = ({ function: { name, description } }, text, label) => html`
    <button
      class="tool"
      key=${name}
      disabled=${isOver}
      aria-label=${label}
      title=${description}
      onClick=${() => act({ tool: name, args: {} })}
    >
      ${text}
    </button>
  `;
  return html`
    <div class="pads">
      ${verbs.map((verb, i) => html`
        <div class="pad" role="group" aria-label=${verb} key=${verb}>
          <span class="dim">
            ${verb}
            ${i === 1 ? ' ⇧' : ''}
          </span>
          ${Object.entries(ARROWS).map(([direction, arrow]) => {
            const tool = simple.find((known) => known.function.name === `${verb}_${direction}`);
            return tool && button(tool, arrow, `${verb} ${direction}`);
          })}
        </div>
      `)}
      ${simple
        .filter((tool) => !DIRECTED.test(tool.function.name))
        .map((tool) => button(tool, tool.function.name, tool.function.name))}
    </div>
    ${tools.filter(takesArguments).map((tool) => {
      const part = choiceOf(tool) ? ToolChoice : ToolForm;
      return html`<${part} key=${tool.function.name} tool=${tool} isOver=${isOver} />`;
    })}
  `;
}

/**
 * The only argument of a tool, where it is one of some values, as the legal moves of a game are.
 *
 * @param {Tool} tool
 * @returns {{name: string, options: any[]} | null}
 */
function choiceOf({ function: { parameters } }) {
  const [[name, schema], ...others] = Object.entries(parameters.properties);
  const { kind, options } = shapeOf(schema, parameters);
  return others.length || kind !== 'choice' || !parameters.required?.includes(name) ? null : { name, options };
}

/** A button for each value of a tool's only argument. @param {{tool: Tool, isOver: boolean}} props */
function ToolChoice({ tool, isOver }) {
  const { name, description } = tool.function;
  const { name: key, options } = /** @type {{name: string, options: any[]}} */ (choiceOf(tool));
  return html`
    <div class="toolform" role="group" aria-label=${name}>
      <p class="dim">${description}</p>
      <div class="row">
        ${options.map((option) => html`
          <button
            class="tool"
            key=${option}
            disabled=${isOver}
            onClick=${() => act({ tool: name, args: { [key]: option } })}
          >
            ${typeof option === 'string' ? option : JSON.stringify(option)}
          </button>
        `)}
      </div>
    </div>
  `;
}

/** @param {{tool: Tool, isOver: boolean}} props */
function ToolForm({
  tool: {
    function: { name, description, parameters },
  },
  isOver,
}) {
  const [args, setArgs] = useState(/** @type {Record<string, any>} */ ({}));
  const [number, setNumber] = useState(0);
  const form = useRef(/** @type {HTMLFormElement | null} */ (null));
  // A field gives its value when it is left; Enter in it sends what was typed, so the form is read after that.
  const latest = useRef(args);
  latest.current = args;
  /** @param {Event} event */
  const send = (event) => {
    event.preventDefault();
    const focused = /** @type {HTMLElement | null} */ (document.activeElement);
    if (form.current?.contains(focused)) focused?.blur();
    if (form.current?.querySelector('[aria-invalid=true]')) return;
    act({ tool: name, args: latest.current });
    latest.current = {};
    setArgs({});
    setNumber(number + 1);
    requestAnimationFrame(() =>
      /** @type {HTMLElement | null | undefined} */ (
        form.current?.querySelector('input, textarea, select')
      )?.focus(),
    );
  };
  /** @param {string} key */
  const change = (key) => (/** @type {any} */ value) => {
    const { [key]: _, ...others } = latest.current;
    latest.current = value === undefined ? others : { ...others, [key]: value };
    setArgs(latest.current);
  };
  return html`
    <form class="toolform" ref=${form} onSubmit=${send}>
      <p class="dim">${description}</p>
      <div key=${number}>
        ${Object.entries(parameters.properties).map(([key, schema]) => html`
          <${Field}
            key=${key}
            id=${`${name}-${key}`}
            name=${key}
            schema=${schema}
            root=${parameters}
            value=${args[key]}
            required=${parameters.required?.includes(key)}
            onChange=${change(key)}
          />
        `)}
      </div>
      <button class="primary" disabled=${isOver}>
        ${name}
      </button>
    </form>
  `;
}

/**
 * A part of a text by the server's count of characters, which are code points.
 *
 * @param {string} text
 * @param {[number, number]} place
 */
function parts(text, [from, to]) {
  const characters = Array.from(text);
  return [characters.slice(0, from), characters.slice(from, to), characters.slice(to)].map((part) =>
    part.join(''),
  );
}

/**
 * The action in its text, with a little of what stands around it.
 *
 * @param {{text: string, place: [number, number]}} props
 */
function Source({ text, place }) {
  const [before, used, after] = parts(text, place);
  const near = before.length > CONTEXT ? `…${before.slice(-CONTEXT)}` : before;
  return html`
    <span class="source">
      ${near}
      <mark>${used}</mark>
      ${after.length > CONTEXT ? `${after.slice(0, CONTEXT)}…` : after}
    </span>
  `;
}

/** @param {{text: string, reading: any}} props */
function Reading({ text, reading }) {
  if (!reading) return html`<span class="dim">How the server reads the text appears here.</span>`;
  const fault = reading.calls.find((/** @type {any} */ read) => read.fault)?.fault;
  return html`
    ${reading.place && html`<${Source} text=${text} place=${reading.place} />`}
    ${reading.thought && html`
      <span>
        <b>thought</b> <i>${counted(reading.thought.split(/\s+/).length, 'word')}</i>
      </span>
    `}
    <span>
      <b>read as</b> ${reading.form}
    </span>
    ${reading.calls
      .filter((/** @type {any} */ read) => read.name && !read.fault)
      .map((/** @type {any} */ read) => html`
        <code class="call">${callText(read.name, read.arguments)}</code>
      `)}
    ${fault && html`<span class="bad">${fault}</span>`}
  `;
}

/** @param {{isOver: boolean}} props */
function TextBox({ isOver }) {
  const [text, setText] = useState('');
  const [read, setRead] = useState({ text: '', reading: /** @type {any} */ (null) });
  const wanted = useRef('');
  wanted.current = text;
  useEffect(() => {
    if (!text.trim() || isOver) {
      setRead({ text, reading: null });
      return undefined;
    }
    const timer = setTimeout(async () => {
      // A failure is not shown here: sending the text shows it.
      const reading = await readText(text).catch(() => null);
      if (wanted.current === text) setRead({ text, reading });
    }, READ_AFTER_MS);
    return () => clearTimeout(timer);
  }, [text, isOver]);
  const send = () => {
    if (!text.trim() || isOver) return;
    act({ text });
    setText('');
  };
  return html`
    <div class="raw">
      <label for="raw">
        As a model would write it <span class="dim">Ctrl + Enter sends</span>
      </label>
      <textarea
        id="raw"
        rows="2"
        value=${text}
        disabled=${isOver}
        spellcheck=${false}
        placeholder="<think>why</think><answer>what</answer>"
        onInput=${(/** @type {any} */ event) => setText(event.target.value)}
        onKeyDown=${(/** @type {KeyboardEvent} */ event) => {
          if (event.key === 'Enter' && (event.ctrlKey || event.metaKey)) send();
        }}
      ></textarea>
      <div class="reading">
        <div aria-live="polite">
          <${Reading} text=${read.text} reading=${read.reading} />
        </div>
        <button disabled=${isOver || !text.trim()} onClick=${send}>
          Send
        </button>
      </div>
    </div>
  `;
}

/** The first observation without the task prompt that it may begin with. @param {Episode} of */
function withoutPrompt({ first, prompt }) {
  const [message, ...others] = first;
  const hasPrompt = prompt && typeof message?.content === 'string' && message.content.startsWith(prompt);
  return hasPrompt ? [{ ...message, content: message.content.slice(prompt.length).trim() }, ...others] : first;
}

/** @param {any[]} messages */
const linesIn = (messages) =>
  messages
    .map(({ content }) => String(content))
    .join('\n')
    .split('\n').length;

/** @param {any[]} messages */
const havePicture = (messages) =>
  messages.some(({ content }) => Array.isArray(content) && content.some((part) => part.image_url));

/**
 * What stands in place of a board: the task; or what is seen now, if it is a board: a picture, or a text of several
 * lines, as the first one is.
 *
 * @param {{of: Episode}} props
 */
function Seen({ of }) {
  const rest = withoutPrompt(of);
  const first = rest.some(({ content }) => content) ? rest : [{ content: of.prompt }];
  const latest = of.steps.at(-1)?.observation ?? first;
  const isState =
    latest !== first &&
    (havePicture(latest) ||
      (linesIn(first) >= MIN_STATE_LINES && linesIn(latest) >= Math.max(MIN_STATE_LINES, linesIn(first) / 2)));
  return html`
    <div class="quote current">
      <${Messages} messages=${isState ? latest : first} foldBoards=${false} />
    </div>
    ${isState && html`
      <details class="fold beginning">
        <summary>Beginning</summary>
        <${Messages} messages=${first} foldBoards=${false} />
      </details>
    `}
  `;
}

/** @param {{messages: any[], foldBoards: boolean}} props */
const Messages = ({ messages, foldBoards }) =>
  messages.map((message) => html`<${Content} content=${message.content} foldBoards=${foldBoards} />`);

/** @param {{step: Step, number: number, total: number, foldBoards: boolean}} props */
function Turn({ step, number, total, foldBoards }) {
  const { move, info } = step;
  const flag =
    info.action_is_valid === false ? html`
      <span class="flag bad">invalid</span>
    ` : info.action_is_effective === false ? html`
      <span class="flag dim">no effect</span>
    ` : null;
  return html`
    <li class="turn">
      <span class="number">${number}</span>
      <div class="said">
        ${'text' in move ? html`
          <${Text} text=${move.text} />
        ` : html`
          <code class="call">${callText(move.tool, move.args)}</code>
        `}
        ${flag}
      </div>
      <${Reward} value=${signed(step.reward)} sign=${step.reward} />
      <span class="num dim">${signed(total)}</span>
      <div class="got">
        <${Messages} messages=${step.observation} foldBoards=${foldBoards} />
      </div>
    </li>
  `;
}

/** @param {{of: Episode}} props */
function Turns({ of }) {
  const list = useRef(/** @type {HTMLElement | null} */ (null));
  useEffect(() => {
    if (list.current) list.current.scrollTop = list.current.scrollHeight;
  }, [of.steps.length]);
  let total = 0;
  return html`
    <ol class="turns" ref=${list} tabindex="0" aria-label="Steps">
      <li class="turn">
        <span class="number">0</span>
        <div class="said">
          ${of.prompt && html`
            <details class="fold" open=${!of.steps.length && !of.svg}>
              <summary>
                Task prompt <span class="dim">${counted(of.prompt.split(/\s+/).length, 'word')}</span>
              </summary>
              <div class="text">${of.prompt}</div>
            </details>
          `}
        </div>
        <div class="got">
          <${Messages} messages=${withoutPrompt(of)} foldBoards=${Boolean(of.svg)} />
        </div>
      </li>
      ${of.steps.map((step, i) => {
        total += step.reward;
        return html`<${Turn} key=${i} step=${step} number=${i + 1} total=${total} foldBoards=${Boolean(of.svg)} />`;
      })}
      ${!of.steps.length && html`
        <li>
          <${Empty} title="No step yet">
            Use a tool${directedVerbs(of.tools).length ? ', the arrow keys' : ''} or write as a model would.
          </${Empty}>
        </li>
      `}
    </ol>
  `;
}

/** @param {{steps: Step[]}} props */
function Facts({ steps }) {
  const ending = endingOf(steps);
  const invalid = steps.filter((step) => step.info.action_is_valid === false).length;
  return html`
    <dl class="facts" aria-live="polite">
      <dt>Reward</dt>
      <dd class="num">${signed(steps.reduce((sum, step) => sum + step.reward, 0))}</dd>
      <dt>Steps</dt>
      <dd class="num">${steps.length}</dd>
      <dt>Invalid</dt>
      <dd class="num">${invalid}</dd>
      <dt>State</dt>
      <dd>
        <span class=${ending ? ENDING_MARKS[ending] : 'mark run'}>${ending || 'running'}</span>
      </dd>
    </dl>
  `;
}

/** @param {{of: Episode}} props */
function Bar({ of }) {
  const args = Object.entries(of.args)
    .map(([name, value]) => `${name}=${JSON.stringify(value)}`)
    .join(' ');
  const takeSeed = (/** @type {any} */ event) =>
    /^\d+$/.test(event.target.value) ? restart(Number(event.target.value)) : (event.target.value = of.seed);
  return html`
    <header class="bar">
      <h1>${shortName(of.name)}</h1>
      <a class="dim args" href=${`#/catalogue/${of.name}`}>
        ${args || 'default arguments'}
      </a>
      <span class="gap"></span>
      <label class="inline">
        Seed <input class="short" inputmode="numeric" value=${of.seed} onChange=${takeSeed} />
      </label>
      <button onClick=${() => restart(randomSeed())}>Random</button>
      ${of.canRepeat && html`
        <button disabled=${!of.steps.length} onClick=${() => undo(1)}>
          Undo
        </button>
      `}
      <button disabled=${!of.steps.length} onClick=${() => restart()}>
        Restart
      </button>
      <${CopyButton} text=${() => location.href}>Copy link</${CopyButton}>
    </header>
  `;
}

const DAMAGED = {
  title: 'This link is damaged',
  detail: 'A part of it cannot be read. Copy it again, or begin anew from the catalogue.',
};

/** Choose what to play. */
function Choice() {
  const { value: kinds, error, again } = useLoaded(environmentKinds, '');
  if (error) return html`<${Failure} error=${error} again=${again} />`;
  if (!kinds) return html`<${Loading} what="the environments" />`;
  return html`
    <div class="choice">
      <h1>What do you want to play?</h1>
      <ul>
        ${kinds
          .filter((kind) => kind.name === kind.family)
          .map((kind) => html`
            <li key=${kind.name}>
              <a href=${`#/play/${kind.name}`}>
                <strong>${shortName(kind.name)}</strong>
                <span class="dim">${kind.description}</span>
              </a>
            </li>
          `)}
      </ul>
      <p class="dim">
        The <a href="#/catalogue">catalogue</a> has all presets, and takes arguments.
      </p>
    </div>
  `;
}

export function Play() {
  const { value: at } = route;
  const [isDamaged, setIsDamaged] = useState(false);
  useEffect(() => {
    setIsDamaged(false);
    const shown = episode.value;
    if (!at.rest && shown) {
      goTo(addressOf({ ...shown, moves: shown.steps.map((step) => step.move) }));
      return;
    }
    try {
      const plan = planIn(at);
      // Back from another page, the address is that of what is played already.
      if (
        plan &&
        !(shown && addressOf(plan) === addressOf({ ...shown, moves: shown.steps.map((step) => step.move) }))
      )
        open(plan);
    } catch {
      setIsDamaged(true);
    }
  }, [at]);
  const of = episode.value;
  const verbs = directedVerbs(of?.tools ?? []);
  /** @param {string} direction @param {string | undefined} verb */
  const go = (direction, verb) => () => {
    if (verb && of?.tools.some((tool) => tool.function.name === `${verb}_${direction}`))
      act({ tool: `${verb}_${direction}`, args: {} });
  };
  const arrows = Object.keys(ARROWS).flatMap((direction) => {
    const key = `Arrow${direction[0].toUpperCase()}${direction.slice(1)}`;
    return [
      [key, go(direction, verbs[0])],
      [`Shift+${key}`, go(direction, verbs[1])],
    ];
  });
  useKeys({
    u: () => of?.canRepeat && undo(1),
    r: () => restart(),
    ...Object.fromEntries(verbs.length ? arrows : []),
  });
  if (isDamaged)
    return html`
      <${Failure}
        error=${{ problem: DAMAGED, message: DAMAGED.detail }}
        label="To the catalogue"
        again=${() => goTo('catalogue')}
      />
    `;
  if (!at.rest && !of) return html`<${Choice} />`;
  if (!of)
    return trouble.value
      ? html`<${Failure} ...${trouble.value} />`
      : html`<${Loading} what=${progress.value || 'the episode'} />`;
  const isOver = Boolean(endingOf(of.steps));
  return html`
    <div class="play">
      <${Bar} of=${of} />
      <section class="stage" aria-label="State and tools">
        ${of.svg ? html`
          <${Drawing} svg=${of.svg} label=${`Board after ${counted(of.steps.length, 'step')}`} />
        ` : html`
          <${Seen} of=${of} />
        `}
        <${ToolButtons} tools=${of.tools} isOver=${isOver} />
        <${AutoPlay} steps=${of.steps.length} isOver=${isOver} />
      </section>
      <section class="talk" aria-label="Conversation">
        <${Facts} steps=${of.steps} />
        ${trouble.value && html`
          <div class="notice" role="alert">
            <strong>${/** @type {any} */ (trouble.value.error).problem?.title ?? 'That did not work'}</strong>${' '}
            ${trouble.value.error.message} <button onClick=${trouble.value.again}>Try again</button>
          </div>
        `}
        ${of.notPlayed > 0 && !of.steps.length && html`
          <div class="notice" role="status">
            ${counted(of.notPlayed, 'step')} of the link ${of.notPlayed === 1 ? 'was' : 'were'} not taken: this
            environment does not repeat itself, and what it does may reach others.
          </div>
        `}
        <${Turns} of=${of} />
        <${TextBox} key=${of.id} isOver=${isOver} />
      </section>
    </div>
  `;
}
