// Which trajectories are listed: categories, ranges, a text, and how RL changed the answer to the same question.

const FACETS = { task: "Task", source: "Recorded in", model: "Model", ending: "Ending", strategy: "Strategy" };
const RANGES = {
  value: { title: "Score", measures: { score: "score", correctness: "correctness", format: "format", reward: "reward" } },
  length: { title: "Length", measures: { tokens: "tokens written", context: "tokens in all", turns: "turns", calls: "tool calls", seconds: "seconds" } },
};
const CHANGES = { gained: "Wrong, then right", lost: "Right, then wrong", right: "Right both times", wrong: "Wrong both times" };
const BEFORE = "evaluate/sft", AFTER = "evaluate/rl";
const BINS = 24;

class Filters {
  constructor(data) {
    this.data = data;
    this.change = changesByRL(data);
    this.clear();
  }

  clear() {
    this.chosen = Object.fromEntries([...Object.keys(FACETS), "change"].map((name) => [name, new Set()]));
    this.range = { value: { measure: "correctness", low: null, high: null }, length: { measure: "tokens", low: null, high: null } };
    this.query = "";
    this.hits = null;
  }

  /** Rows that pass, and for each filter the rows that only this one may keep out (for its counts). */
  apply() {
    const { data } = this, tests = this.tests(), names = Object.keys(tests);
    const passing = [], nearly = Object.fromEntries(names.map((name) => [name, []]));
    for (let i = 0; i < data.length; i++) {
      let failed = null, failures = 0;
      for (const name of names) if (!tests[name](i)) { failed = name; if (++failures > 1) break; }
      if (failures === 0) passing.push(i);
      else if (failures === 1) nearly[failed].push(i);
    }
    this.passing = passing;
    this.nearly = nearly;
    return passing;
  }

  tests() {
    const { data } = this, tests = {};
    for (const name of Object.keys(FACETS)) {
      const { values, codes } = data.category[name], chosen = this.chosen[name];
      if (!chosen.size) { tests[name] = () => true; continue; }
      const allowed = values.map((value) => chosen.has(value));
      tests[name] = (i) => allowed[codes[i]];
    }
    const changes = this.chosen.change;
    tests.change = changes.size ? (i) => changes.has(this.change[i]) : () => true;
    for (const [name, { measure, low, high }] of Object.entries(this.range)) {
      const values = data.measure[measure];
      tests[name] = low === null && high === null ? () => true : (i) => values[i] >= (low ?? -Infinity) && values[i] <= (high ?? Infinity);
    }
    const wanted = this.query.toLowerCase();
    tests.query = !wanted ? () => true : (i) => data.id[i].toLowerCase().includes(wanted) || data.text.answer[i].toLowerCase().includes(wanted) || Boolean(this.hits?.[i]);
    return tests;
  }

  /** How many rows each value of a facet would have. */
  counts(name) {
    const counts = new Map(), value = name === "change" ? (i) => this.change[i] : (i) => this.data.of(name, i);
    for (const rows of [this.passing, this.nearly[name]]) for (const i of rows) counts.set(value(i), (counts.get(value(i)) ?? 0) + 1);
    return counts;
  }

  /** Ends and counts of the bins of a range's measure. */
  histogram(name) {
    const values = this.data.measure[this.range[name].measure];
    let low = Infinity, high = -Infinity;
    for (const value of values) if (!Number.isNaN(value)) { low = Math.min(low, value); high = Math.max(high, value); }
    if (low > high) return null;
    const step = (high - low) / BINS || 1, all = new Array(BINS).fill(0), kept = new Array(BINS).fill(0);
    const bin = (value) => Math.min(BINS - 1, Math.floor((value - low) / step));
    for (const i of this.passing) if (!Number.isNaN(values[i])) { all[bin(values[i])]++; kept[bin(values[i])]++; }
    for (const i of this.nearly[name]) if (!Number.isNaN(values[i])) all[bin(values[i])]++;
    return { low, high, step, all, kept };
  }

  /** The filters as they stand in a link. */
  toParams(params) {
    for (const [name, chosen] of Object.entries(this.chosen)) for (const value of [...chosen].sort()) params.append(name, value);
    for (const { measure, low, high } of Object.values(this.range)) if (low !== null || high !== null) params.set(measure, `${low ?? ""}..${high ?? ""}`);
    if (this.query) params.set("q", this.query);
  }

  fromParams(params) {
    this.clear();
    for (const [name, chosen] of Object.entries(this.chosen)) for (const value of params.getAll(name)) chosen.add(value);
    for (const [name, range] of Object.entries(this.range)) for (const measure of Object.keys(RANGES[name].measures)) {
      const bounds = /^(-?[\d.]*)\.\.(-?[\d.]*)$/.exec(params.get(measure) ?? "");
      if (bounds) Object.assign(range, { measure, low: parsed(bounds[1]), high: parsed(bounds[2]) });
    }
    this.query = params.get("q") ?? "";
  }

  get active() {
    return Object.values(this.chosen).some((chosen) => chosen.size) || Object.values(this.range).some(({ low, high }) => low !== null || high !== null) || this.query !== "";
  }
}

const parsed = (text) => text === "" || Number.isNaN(Number(text)) ? null : Number(text);

/** For each evaluated row of SFT and RL: what RL changed on that question and sample; null for other rows. */
function changesByRL(data) {
  const changes = new Array(data.length).fill(null);
  for (const rows of data.sameQuestion.values()) {
    const before = rows.filter((i) => data.of("source", i) === BEFORE), after = rows.filter((i) => data.of("source", i) === AFTER);
    for (const b of before) for (const a of after) {
      if (data.measure.sample[a] !== data.measure.sample[b]) continue;
      const was = data.measure.correctness[b], is = data.measure.correctness[a];
      if (Number.isNaN(was) || Number.isNaN(is)) continue;
      changes[a] = changes[b] = was >= 1 ? (is >= 1 ? "right" : "lost") : is >= 1 ? "gained" : "wrong";
    }
  }
  return changes;
}

class FilterPanel {
  constructor(form, filters, changed) {
    Object.assign(this, { form, filters, changed, open: new Set() });
    form.addEventListener("submit", (event) => event.preventDefault());
  }

  draw() {
    const focused = document.activeElement?.id, { filters, form } = this, top = form.scrollTop;
    const facets = Object.entries(FACETS).map(([name, title]) => this.facet(name, title, filters.data.category[name].values));
    const changes = filters.change.some(Boolean) ? this.facet("change", "RL against SFT", Object.keys(CHANGES)) : null;
    const clear = el("button", { type: "button", id: "clear-filters", class: "quiet", disabled: !filters.active, text: "Clear all", on: { click: () => { filters.clear(); this.changed(); } } });
    form.replaceChildren(...[el("div", { class: "filters-head" }, el("h2", { text: "Filters" }), clear), changes, this.rangeBox("value"), this.rangeBox("length"), ...facets].filter(Boolean));
    form.scrollTop = top;
    if (focused) document.getElementById(focused)?.focus({ preventScroll: true });
  }

  facet(name, title, values) {
    const named = values.filter((value) => value !== "");
    if (named.length < 2 && name !== "change") return null;
    const { filters } = this, chosen = filters.chosen[name], counts = filters.counts(name), most = Math.max(1, ...counts.values());
    const order = name === "model" ? Object.keys(filters.data.models) : named;
    const lines = order.filter((value) => named.includes(value)).map((value) => {
      const count = counts.get(value) ?? 0, id = `f-${name}-${named.indexOf(value)}`;
      const box = el("input", { type: "checkbox", id, on: { change: (event) => { event.target.checked ? chosen.add(value) : chosen.delete(value); this.changed(); } } });
      box.checked = chosen.has(value);
      const bar = el("span", { class: "bar" });
      bar.style.setProperty("--share", String(count / most));
      const line = el("label", { class: count ? "" : "empty", for: id }, box, facetLabel(filters.data, name, value), el("span", { class: "n", text: whole(count) }), bar);
      return el("li", {}, line);
    });
    const folded = lines.length > 8 && !this.open.has(name);
    const more = lines.length > 8 ? el("button", { type: "button", id: `more-${name}`, class: "quiet", text: folded ? `${lines.length - 8} more` : "fewer", on: { click: () => { folded ? this.open.add(name) : this.open.delete(name); this.draw(); } } }) : null;
    return el("fieldset", {}, el("legend", { text: title }), el("ul", {}, ...(folded ? lines.slice(0, 8) : lines)), more);
  }

  rangeBox(name) {
    const { filters } = this, range = filters.range[name], { title, measures } = RANGES[name];
    const select = el("select", { id: `measure-${name}`, "aria-label": `${title}: measure`, on: { change: (event) => { Object.assign(range, { measure: event.target.value, low: null, high: null }); this.changed(); } } },
      ...Object.entries(measures).map(([value, text]) => el("option", { value, text })));
    select.value = range.measure;
    const bound = (end, label) => {
      const input = el("input", { type: "number", step: "any", id: `${end}-${name}`, "aria-label": `${measures[range.measure]}: ${label}`, placeholder: label, on: { change: (event) => { range[end] = parsed(event.target.value); this.changed(); } } });
      input.value = range[end] ?? "";
      return input;
    };
    const histogram = filters.histogram(name);
    return el("fieldset", { class: "range" }, el("legend", { text: title }), select, histogram ? this.bars(name, histogram) : el("p", { class: "muted", text: "Not recorded." }),
      el("div", { class: "bounds" }, bound("low", "from"), el("span", { "aria-hidden": "true", text: "–" }), bound("high", "to")));
  }

  /** A histogram; dragging over it sets the range. */
  bars(name, { low, high, step, all, kept }) {
    const most = Math.max(1, ...all), range = this.filters.range[name];
    const columns = all.map((count, bin) => {
      const height = (n) => `${n ? Math.max(4, 100 * Math.sqrt(n / most)) : 0}%`;
      const shown = el("i", { class: "kept" }), rest = el("i");
      shown.style.height = height(kept[bin]);
      rest.style.height = height(count);
      return el("b", { title: `${share(low + bin * step)} to ${share(low + (bin + 1) * step)}: ${whole(kept[bin])}` }, rest, shown);
    });
    const box = el("div", { class: "histogram", "aria-hidden": "true" }, ...columns);
    let from = null;
    const binAt = (event) => Math.max(0, Math.min(BINS - 1, Math.floor(((event.clientX - box.getBoundingClientRect().left) / box.clientWidth) * BINS)));
    const mark = (to) => columns.forEach((column, bin) => column.classList.toggle("dragged", bin >= Math.min(from, to) && bin <= Math.max(from, to)));
    box.addEventListener("pointerdown", (event) => { from = binAt(event); box.setPointerCapture(event.pointerId); mark(from); });
    box.addEventListener("pointermove", (event) => { if (from !== null) mark(binAt(event)); });
    box.addEventListener("pointerup", (event) => {
      if (from === null) return;
      const [first, last] = [from, binAt(event)].sort((a, b) => a - b);
      from = null;
      const round = (value) => Number(value.toPrecision(4));
      Object.assign(range, { low: round(low + first * step), high: last === BINS - 1 ? Number(high) : round(low + (last + 1) * step) });
      this.changed();
    });
    return el("div", {}, box, el("div", { class: "ends" }, el("span", { text: share(low) }), el("span", { text: share(high) })));
  }
}

function facetLabel(data, name, value) {
  const label = el("span", { class: "name" });
  if (name === "model") label.append(dot(data.models[value].colour));
  appendText(label, name === "change" ? CHANGES[value] : name === "model" ? data.models[value].label : name === "source" ? value : words(value));
  label.title = visible(label.textContent);
  return label;
}

function dot(colour) {
  const made = el("span", { class: "dot", "aria-hidden": "true" });
  made.style.background = colour;
  return made;
}
