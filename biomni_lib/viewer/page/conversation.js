// One conversation, or two on the same question beside each other, turn against turn.

const ENDINGS = {
  solved: "gave an answer",
  gave_up: "stopped without code or answer",
  turn_limit: "reached the limit of turns",
  token_limit: "reached the limit of tokens",
  timeout: "ran out of time",
  "error:malformed_turn": "broke the protocol's tags",
};
const LONG_LINES = 40, FOLDED_LINES = 24;

/** Everything about the shown conversations, as children of `into`. `raw` shows turns as the model wrote them. */
function drawConversation(into, data, shown, raw) {
  const pair = shown.length > 1, question = shown.find((one) => one.record.question)?.record.question ?? null;
  const turns = Math.max(...shown.map((one) => one.record.turns.length)), rows = [];
  const across = (name, make) => rows.push(el("div", { class: `across ${name}` }, ...shown.map(make)));
  across("heads", (one) => drawHead(data, one, pair));
  rows.push(drawQuestion(data, shown[0].i, question));
  for (let number = 0; number < turns; number++) {
    across("turns", (one) => {
      const turn = one.record.turns[number];
      const beside = pair ? ranIn(shown.find((other) => other !== one).record.turns[number]) : null;
      return turn ? drawTurn(turn, number, one.record.turns.length, raw, pair ? data.look(one.i) : null, beside) : el("div", { class: "turn absent" });
    });
  }
  across("results", (one) => drawResult(data, one, question));
  into.classList.toggle("pair", pair);
  into.replaceChildren(...rows);
}

function drawHead(data, { i, record }, pair) {
  const { label, colour } = data.look(i), correctness = data.number("correctness", i), ending = data.of("ending", i);
  const name = el("h2", {}, dot(colour), visible(label));
  const marks = el("p", { class: "marks" }, el("span", { class: `badge ${outcome(correctness)}`, text: `${OUTCOMES[outcome(correctness)].mark} ${OUTCOMES[outcome(correctness)].text}` }),
    el("span", { class: `badge ${ending === "solved" ? "" : "stopped"}`, text: visible(words(ending.replace(/^error:/, ""))) , title: ENDINGS[ending] ?? visible(ending) }));
  const facts = [
    ["score", share(data.number("score", i)), "the benchmark's grade, where the evaluation recorded it"],
    ["correctness", share(correctness), "the reward's grade of the answer"],
    ["format", share(data.number("format", i)), "1 when every turn keeps the protocol"],
    ["reward", share(data.number("reward", i)), "correctness and weighted format together"],
    ["tokens written", whole(data.number("tokens", i)), "by the model, in all turns"],
    ["tokens in all", whole(data.number("context", i)), `of which ${whole(record.prompt)} of the prompt`],
    ["turns", whole(data.number("turns", i)), ""],
    ["tool calls", whole(data.number("calls", i)), "blocks of code that were run"],
    ["policy version", versions(record.turns.map((turn) => turn.versions)) ?? "–", "of the weights that sampled it; – where no engine did"],
  ];
  const step = data.number("step", i), strategy = data.of("strategy", i), accepted = data.accepted[i], change = pair ? null : data.changes?.[i];
  if (step !== null) facts.push(["trained in step", String(step), "of RL"]);
  if (strategy) facts.push(["strategy", words(strategy), "that the scripted teacher followed"]);
  if (accepted !== null && accepted !== undefined) facts.push(["SFT learned it", accepted ? "yes" : "no", "whether rejection sampling kept it"]);
  if (change) facts.push(["RL against SFT", CHANGES[change].toLowerCase(), "on this question and sample"]);
  const list = el("dl", { class: "facts" }, ...facts.map(([term, value, title]) => el("div", { title: title || null }, el("dt", { text: term }), el("dd", { text: visible(value) }))));
  return el("header", { class: "head" }, el("div", { class: "name" }, name, marks), el("p", { class: "where", text: visible(data.id[i]) }), list, drawTimes(record.turns));
}

/** Where the seconds went: one bar over all turns. */
function drawTimes(turns) {
  const kinds = ["generating", "waiting", "tools"], totals = [0, 0, 0], parts = [];
  turns.forEach((turn, number) => turn.seconds.forEach((spent, kind) => {
    totals[kind] += spent ?? 0;
    if (!spent) return;
    const part = el("span", { class: kinds[kind], title: `turn ${number + 1}, ${kinds[kind]}: ${duration(spent)}` });
    part.style.flexGrow = String(spent);
    parts.push(part);
  }));
  if (!parts.length) return null;
  const spent = kinds.filter((_, place) => totals[place] > 0), said = spent.map((kind) => `${kind} ${duration(totals[kinds.indexOf(kind)])}`);
  return el("figure", { class: "times" }, el("div", { class: "strip", role: "img", "aria-label": `Time: ${said.join(", ")}` }, ...parts),
    el("figcaption", {}, ...spent.map((kind, place) => el("span", {}, el("i", { class: kind, "aria-hidden": "true" }), said[place]))));
}

function drawQuestion(data, i, question) {
  const system = data.systems[data.of("task", i)];
  const asked = question ? appendText(el("pre", { class: "prose" }), question.prompt) : el("p", { class: "muted", text: "The question is not among the run's instances; only the answers were recorded." });
  const box = el("section", { class: "question", "aria-label": "Question" }, el("h3", { text: "Question" }), el("div", {}, asked));
  if (system) box.lastChild.append(el("details", {}, el("summary", { text: "System prompt" }), appendText(el("pre", { class: "prose" }), system)));
  return box;
}

function drawTurn(turn, number, count, raw, look, beside) {
  const [generating, waiting, running] = turn.seconds, told = [`${whole(turn.written)} tokens`];
  if (generating) told.push(generating >= 0.05 ? `${duration(generating)}, ${Math.round(turn.written / generating)}/s` : duration(generating));
  const policy = versions([turn.versions]);
  if (policy !== null) told.push(`policy ${policy}`);
  if (turn.logprob !== undefined) told.push(`log-prob ${signed(turn.logprob)}`);
  const head = el("h3", {}, el("span", { text: `Turn ${number + 1}` }), el("span", { class: "of", text: ` of ${count}` }));
  if (look) head.prepend(dot(look.colour), el("span", { class: "whose", text: `${visible(look.label)} ` }));
  const parts = raw ? [part("As written", appendText(el("pre", { class: "raw" }), turn.pieces.map(([kind, text]) => kind === "text" ? text : `<${kind}>${text}</${kind}>`).join("")))] : turn.pieces.map((piece) => drawPiece(piece, beside)).filter(Boolean);
  if (turn.code !== undefined) parts.push(part("Ran", highlighted(turn.code)));
  if (turn.observation !== undefined) parts.push(drawObservation(turn, waiting, running));
  return el("section", { class: "turn", "aria-label": `${look ? `${visible(look.label)}, ` : ""}turn ${number + 1}` }, el("header", {}, head, el("p", { class: "metrics", text: told.join(" · ") })), ...parts);
}

function drawPiece([kind, text], beside) {
  const trimmed = text.replace(/^\s*\n|\s+$/g, "");
  if (kind === "think") return part("Thinks", appendText(el("pre", { class: "prose think" }), trimmed));
  if (kind === "execute") return part("Runs", withCopy(highlighted(trimmed, languageOf(trimmed), beside), trimmed));
  if (kind === "solution") return part("Answers", highlighted(trimmed, "json"), "answer");
  return trimmed ? part("Writes", appendText(el("pre", { class: "raw" }), trimmed)) : null;
}

function drawObservation(turn, waiting, running) {
  const times = [running === null ? null : `ran ${duration(running)}`, waiting ? `waited ${duration(waiting)}` : null].filter(Boolean).join(" · ");
  const text = turn.observation, failed = /^(?:Traceback|\w*(?:Error|Exception)\b)/m.test(text);
  const body = text.trim() ? folding(appendText(el("pre", { class: "observation" }), text), text) : el("p", { class: "muted", text: "Nothing was printed." });
  return part(failed ? "Fails" : "Sees", body, failed ? "failed" : "seen", times);
}

function drawResult(data, { i, record }, question) {
  const ending = data.of("ending", i), correctness = data.number("correctness", i);
  const given = record.answer === null ? el("p", { class: "muted", text: `No answer: it ${ENDINGS[ending] ?? visible(ending)}.` }) : highlighted(record.answer, "json");
  const right = question ? highlighted(question.gold, "json") : el("p", { class: "muted", text: "Unknown: the question is not among the run's instances." });
  return el("section", { class: `result ${outcome(correctness)}`, "aria-label": `${visible(data.look(i).label)}, result` }, el("h3", { text: `${OUTCOMES[outcome(correctness)].mark} ${words(OUTCOMES[outcome(correctness)].text)}` }), part("Given", given), part("Wanted", right));
}

/** The code of a turn, to compare another with; null when it ran none. */
const ranIn = (turn) => turn?.pieces.find(([kind]) => kind === "execute")?.[1] ?? null;
const signed = (value) => String(Number(value.toPrecision(2))).replace("-", "−");

/** A labelled piece of a turn. */
function part(label, body, name = "", note = "") {
  return el("div", { class: `part ${name}` }, el("div", { class: "label" }, el("span", { text: label }), note ? el("small", { text: note }) : null), el("div", { class: "body" }, body));
}

/** A long text shows its first lines until asked for all. */
function folding(pre, text) {
  const lines = text.split("\n").length;
  if (lines <= LONG_LINES) return pre;
  pre.classList.add("folded");
  pre.style.maxHeight = `${FOLDED_LINES * 1.45}em`;
  const more = el("button", { type: "button", class: "quiet", text: `Show all ${lines} lines`, on: { click: () => { pre.style.maxHeight = ""; pre.classList.remove("folded"); more.remove(); } } });
  return el("div", {}, pre, more);
}

function withCopy(pre, text) {
  const button = el("button", { type: "button", class: "copy", text: "Copy", "aria-label": "Copy code", on: { click: () => copy(text, button) } });
  return el("div", { class: "copyable" }, pre, button);
}

async function copy(text, button) {
  const label = button.textContent;
  try {
    await navigator.clipboard.writeText(text);
    button.textContent = "Copied";
  } catch {
    button.textContent = "Not allowed";
  }
  setTimeout(() => { button.textContent = label; }, 1200);
}

function versions(spans) {
  const known = spans.filter(Boolean);
  if (!known.length) return null;
  const low = Math.min(...known.map((span) => span[0])), high = Math.max(...known.map((span) => span[1]));
  return low === high ? String(low) : `${low} to ${high}`;
}
