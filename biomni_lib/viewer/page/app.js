// The page: what is open, the link that says so, keys, theme.

const NARROW = matchMedia("(max-width: 900px)");
const THEMES = ["light dark", "light", "dark"], THEME_NAMES = { "light dark": "as the system", light: "light", dark: "dark" }, THEME_MARKS = { "light dark": "◐", light: "☀", dark: "☾" };
const KEYS = [
  ["j, ↓ / k, ↑", "next / previous trajectory; while comparing, question"],
  ["Page Down / Page Up", "a page of the list on / back"],
  ["Home / End", "first / last trajectory"],
  ["Enter", "read the open conversation"],
  ["c", "compare before and after RL, or stop comparing"],
  ["n / p", "next / previous on the same question"],
  ["] / [", "next / previous turn"],
  ["r", "turns as the model wrote them"],
  ["/", "search"],
  ["f", "filters"],
  ["t", "theme"],
  ["Esc", "back: from comparing, from the conversation, from a search"],
  ["?", "these keys"],
];
const byId = (id) => document.getElementById(id);

class App {
  constructor(data) {
    Object.assign(this, { data, open: -1, second: -1, raw: false, drawn: 0, searching: 0 });
    this.filters = new Filters(data);
    data.changes = this.filters.change;
    this.panel = new FilterPanel(byId("filters"), this.filters, () => this.filtersChanged());
    this.list = new List(data, (i, compare) => this.show(i, compare && this.open >= 0 ? this.open : -1, true), () => { this.list.show(this.filters.passing); this.link(); });
    this.detail = byId("detail");
    byId("title").textContent = visible(data.title);
    byId("query").addEventListener("input", (event) => { this.filters.query = event.target.value.trim(); this.filters.hits = null; this.searching++; this.filtersChanged(); });
    byId("query").addEventListener("keydown", (event) => { if (event.key === "Enter") { event.preventDefault(); this.deepSearch(); } });
    byId("deep").addEventListener("click", () => this.deepSearch());
    byId("clear").addEventListener("click", () => { this.filters.clear(); this.filtersChanged(); });
    byId("show-filters").addEventListener("click", () => this.toggleFilters());
    byId("open-about").addEventListener("click", () => this.openAbout());
    byId("open-keys").addEventListener("click", () => this.openKeys());
    byId("theme").addEventListener("click", () => this.turnTheme());
    document.addEventListener("keydown", (event) => this.key(event));
    addEventListener("hashchange", () => this.fromLink());
    this.setTheme(stored("theme") ?? THEMES[0]);
    this.fromLink();
  }

  filtersChanged() {
    this.refilter();
    this.link();
  }

  refilter() {
    const passing = this.filters.apply(), { query, hits } = this.filters;
    this.panel.draw();
    this.list.show(passing);
    if (byId("query").value.trim() !== query) byId("query").value = query;
    byId("count").textContent = passing.length === this.data.length ? `${whole(this.data.length)} trajectories` : `${whole(passing.length)} of ${whole(this.data.length)} trajectories`;
    byId("deep").hidden = !query || Boolean(hits);
    byId("deep").textContent = "Search conversations ↵";
    byId("show-filters").classList.toggle("on", this.filters.active);
  }

  /** Look for the query in what models wrote and saw, chunk by chunk. */
  async deepSearch() {
    const { query } = this.filters, turn = ++this.searching;
    if (!query) return;
    const hits = await this.data.search(query, (done) => { byId("deep").textContent = `Searching… ${Math.round(100 * done)}%`; }, () => turn !== this.searching);
    if (!hits) return;
    this.filters.hits = hits;
    this.refilter();
  }

  /** Open a trajectory, or two. */
  async show(i, second = -1, reading = false) {
    if (i < 0) return this.close();
    if (second === i) second = -1;
    Object.assign(this, { open: i, second });
    document.body.classList.add("open");
    document.body.classList.toggle("comparing", second >= 0);
    this.list.mark(i, second);
    this.link();
    const turn = ++this.drawn, shown = [i, ...(second >= 0 ? [second] : [])];
    const records = await Promise.all(shown.map((one) => this.data.record(one)));
    if (turn !== this.drawn) return;
    const conversation = el("div", { class: "conversation" });
    drawConversation(conversation, this.data, shown.map((one, place) => ({ i: one, record: records[place] })), this.raw);
    this.detail.replaceChildren(this.bar(), this.sameQuestion(), conversation);
    this.detail.scrollTop = 0;
    this.detail.dataset.shown = shown.map((one) => this.data.id[one]).join(" ");
    if (reading && NARROW.matches) this.detail.focus();
  }

  close() {
    Object.assign(this, { open: -1, second: -1 });
    this.drawn++;
    document.body.classList.remove("open", "comparing");
    delete this.detail.dataset.shown;
    this.detail.replaceChildren(el("div", { class: "welcome" }, el("h2", { text: "Choose a trajectory" }), el("p", { text: "Each line of the list is one: what a model was asked, what it thought, ran and saw, and what its answer was worth." }),
      el("p", {}, "Move with ", el("kbd", { text: "j" }), " and ", el("kbd", { text: "k" }), ", compare with ", el("kbd", { text: "c" }), ", all keys: ", el("kbd", { text: "?" })),
      ...(this.data.about.notes ?? []).map((note) => el("p", { class: "note", text: visible(note) }))));
    this.list.mark(this.list.active);
    this.link();
  }

  bar() {
    const button = (id, text, run, properties = {}) => el("button", { type: "button", id, text, on: { click: run }, ...properties });
    const other = this.counterpart(), comparing = this.second >= 0, position = this.list.order.indexOf(this.open);
    const said = position >= 0 ? `${whole(position + 1)} of ${whole(this.list.order.length)}` : "outside the filters";
    const compared = comparing ? "Stop comparing" : other >= 0 ? `Compare with ${this.data.look(other).label}` : "Nothing to compare";
    return el("div", { class: "toolbar" }, button("back", "← List", () => this.close()), el("span", { class: "muted position", text: said }),
      button("compare", visible(compared), () => this.compare(), { disabled: !comparing && other < 0, title: "c" }),
      comparing ? button("swap", "Swap sides", () => this.show(this.second, this.open)) : null,
      button("raw", "As written", () => this.toggleRaw(), { "aria-pressed": String(this.raw), title: "r" }),
      button("copy-link", "Copy link", (event) => copy(location.href, event.target)));
  }

  /** Everyone who answered the same question. */
  sameQuestion() {
    const { data } = this, rows = data.sameQuestion.get(data.question[this.open]);
    const chips = rows.map((i) => {
      const { label, colour } = data.look(i), step = data.number("step", i), source = data.of("source", i);
      const told = [visible(label), step === null ? (source.startsWith("evaluate/") ? null : visible(source.split("/").slice(0, -1).join("/"))) : `step ${step}`, rows.length > 1 && data.number("sample", i) ? `sample ${data.number("sample", i)}` : null].filter(Boolean).join(" · ");
      return el("li", {}, el("button", { type: "button", class: `chip${i === this.open ? " on" : ""}${i === this.second ? " second" : ""}`, "aria-current": i === this.open ? "true" : null, title: `${visible(data.id[i])}\nShift and click: beside the open one`,
        on: { click: (event) => event.shiftKey ? this.show(this.open, i) : this.show(i) } }, outcomeMark(data.number("correctness", i)), dot(colour), told));
    });
    return el("nav", { class: "same", "aria-label": "Same question" }, el("span", { class: "muted", text: "Same question" }), el("ul", {}, ...chips));
  }

  /** What a trajectory is best compared with: SFT and RL with each other, anything else with RL, SFT or what there is. */
  counterpart(open = this.open) {
    if (open < 0) return -1;
    const { data } = this, source = data.of("source", open), sample = data.measure.sample[open];
    const wanted = source === AFTER ? [BEFORE] : [AFTER, BEFORE];
    const others = data.sameQuestion.get(data.question[open]).filter((i) => i !== open);
    const rank = (i) => { const place = wanted.indexOf(data.of("source", i)); return (place < 0 ? wanted.length : place) * 2 + (data.measure.sample[i] !== sample); };
    return others.length ? others.reduce((best, i) => (rank(i) < rank(best) ? i : best)) : -1;
  }

  compare() {
    if (this.second >= 0) return this.show(this.open);
    const other = this.counterpart();
    if (other < 0) return;
    const first = this.data.of("source", this.open) === AFTER ? other : this.open;
    this.show(first, first === other ? this.open : other);
  }

  toggleRaw() {
    this.raw = !this.raw;
    const top = this.detail.scrollTop;
    this.show(this.open, this.second).then(() => { this.detail.scrollTop = top; byId("raw")?.focus(); });
  }

  toggleFilters(open = !document.body.classList.contains("filtering")) {
    document.body.classList.toggle("filtering", open);
    byId("show-filters").setAttribute("aria-expanded", String(open));
    if (open) byId("filters").focus();
  }

  key(event) {
    const typing = event.target.matches("input:not([type=checkbox]), select, textarea");
    if (event.key === "Escape" && !document.querySelector("dialog[open]")) return this.escape(event, typing);
    if (event.ctrlKey || event.metaKey || event.altKey || typing || document.querySelector("dialog[open]")) return;
    const inList = event.target === byId("scroller") || event.target === document.body;
    const move = (by) => this.second >= 0 ? this.nextPair(by) : this.show(this.list.neighbour(by));
    const keys = {
      j: () => move(1), k: () => move(-1), c: () => this.compare(), r: () => this.open >= 0 && this.toggleRaw(),
      n: () => this.alongQuestion(1), p: () => this.alongQuestion(-1), "]": () => this.toTurn(1), "[": () => this.toTurn(-1),
      "/": () => byId("query").focus(), f: () => this.toFilters(), t: () => this.turnTheme(), "?": () => this.openKeys(),
    };
    const listKeys = { ArrowDown: () => move(1), ArrowUp: () => move(-1), PageDown: () => move(this.list.pageRows), PageUp: () => move(-this.list.pageRows), Home: () => move(-Infinity), End: () => move(Infinity), Enter: () => this.open >= 0 ? this.detail.focus() : this.show(this.list.neighbour(0), -1, true) };
    const run = keys[event.key] ?? (inList ? listKeys[event.key] : undefined);
    if (!run) return;
    event.preventDefault();
    run();
  }

  /** While comparing: the same two models on the next listed question, so many lines on or back. */
  nextPair(by) {
    const { data, list } = this, place = Math.max(0, list.order.indexOf(this.open)), step = Math.sign(by), question = (i) => data.question[i];
    let to = Math.max(0, Math.min(list.order.length - 1, place + by));
    while (list.order[to] !== undefined && question(list.order[to]) === question(this.open)) to += step;
    const found = list.order[to];
    if (found === undefined) return;
    const like = (i) => data.sameQuestion.get(question(found)).find((one) => data.of("source", one) === data.of("source", i) && data.measure.sample[one] === data.measure.sample[i]);
    const first = like(this.open) ?? found;
    this.show(first, like(this.second) ?? this.counterpart(first));
  }

  escape(event, typing) {
    if (typing) {
      if (event.target.id === "query" && this.filters.query) { this.filters.query = ""; event.target.value = ""; this.filters.hits = null; this.searching++; this.filtersChanged(); }
      return byId("scroller").focus();
    }
    if (document.body.classList.contains("filtering") && NARROW.matches) return this.toggleFilters(false);
    if (this.second >= 0) return this.show(this.open);
    if (this.open >= 0) this.close();
    byId("scroller").focus();
  }

  alongQuestion(by) {
    if (this.open < 0) return;
    const rows = this.data.sameQuestion.get(this.data.question[this.open]), place = rows.indexOf(this.open) + by;
    if (place >= 0 && place < rows.length) this.show(rows[place]);
  }

  toTurn(by) {
    const tops = [...this.detail.querySelectorAll(".across.turns, .across.results")].map((row) => row.offsetTop - 56), { scrollTop } = this.detail;
    const next = by > 0 ? tops.find((top) => top > scrollTop + 2) : tops.findLast((top) => top < scrollTop - 2) ?? 0;
    if (next !== undefined) this.detail.scrollTop = next;
  }

  toFilters() {
    if (getComputedStyle(byId("filters")).display === "none") this.toggleFilters(true);
    byId("filters").querySelector("input, select")?.focus();
  }

  openAbout() {
    const { about, length } = this.data, facts = { trajectories: whole(length), ...about.facts };
    this.dialog("about", "About this page", el("dl", { class: "about" }, ...Object.entries(facts).flatMap(([term, value]) => [el("dt", { text: visible(term) }), el("dd", { text: visible(value) })])),
      ...(about.notes ?? []).map((note) => el("p", { class: "note", text: visible(note) })));
  }

  openKeys() {
    this.dialog("keys", "Keys", el("dl", { class: "about" }, ...KEYS.flatMap(([key, text]) => [el("dt", {}, el("kbd", { text: key })), el("dd", { text })])));
  }

  dialog(id, title, ...content) {
    const box = byId(id);
    box.replaceChildren(el("h2", { id: `${id}-title`, text: title }), ...content, el("form", { method: "dialog" }, el("button", { text: "Close", autofocus: true })));
    box.showModal();
  }

  turnTheme() {
    this.setTheme(THEMES[(THEMES.indexOf(this.theme) + 1) % THEMES.length]);
    store("theme", this.theme);
  }

  setTheme(theme) {
    this.theme = THEMES.includes(theme) ? theme : THEMES[0];
    document.documentElement.style.colorScheme = this.theme;
    byId("theme").textContent = THEME_MARKS[this.theme];
    byId("theme").setAttribute("aria-label", `Theme: ${THEME_NAMES[this.theme]}`);
    byId("theme").title = `Theme: ${THEME_NAMES[this.theme]}`;
  }

  /** The address says what is open and what is filtered. */
  link() {
    const params = new URLSearchParams(), { sort } = this.list;
    if (this.open >= 0) params.set("id", this.data.id[this.open]);
    if (this.second >= 0) params.set("beside", this.data.id[this.second]);
    this.filters.toParams(params);
    if (sort.key) params.set("sort", (sort.down ? "-" : "") + sort.key);
    this.linked = `#${params.toString().replaceAll("%2F", "/").replaceAll("%3A", ":")}`;
    if (location.hash !== this.linked && (location.hash || this.linked !== "#")) history.replaceState(null, "", this.linked);
  }

  fromLink() {
    if (this.linked !== undefined && location.hash === this.linked) return;
    const text = location.hash.slice(1), params = new URLSearchParams(text.includes("=") ? text : { id: decodeURIComponent(text) });
    this.filters.fromParams(params);
    const sort = params.get("sort") ?? "", key = sort.replace(/^-/, "");
    this.list.sort = COLUMNS.some((column) => column.key === key) ? { key, down: sort.startsWith("-") } : { key: "", down: false };
    this.list.drawHead();
    const place = (name) => this.data.place.get(params.get(name)) ?? -1, asked = params.get("id");
    this.refilter();
    this.show(place("id"), place("beside"));
    if (asked && place("id") < 0) this.detail.prepend(el("p", { class: "note", role: "alert", text: `No trajectory here is called ${visible(asked)}; it may be in the page of another run.` }));
    if (this.filters.query) this.deepSearch();
  }
}

// A page that was opened from a file may not be allowed to remember anything.
function stored(name) {
  try { return localStorage.getItem(`viewer-${name}`); } catch { return null; }
}

function store(name, value) {
  try { localStorage.setItem(`viewer-${name}`, value); } catch { /* the choice lasts as long as the page */ }
}

async function start() {
  if (typeof DecompressionStream === "undefined") throw new Error("this browser is too old: it cannot decompress (Chrome 80, Firefox 113 and Safari 16.4 can)");
  const app = new App(await Data.open());
  document.body.classList.add("ready");
  return app;
}

start().catch((error) => document.body.prepend(el("p", { class: "failed", role: "alert", text: `The trajectories cannot be shown: ${error.message}` })));
