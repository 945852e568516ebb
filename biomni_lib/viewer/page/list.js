// The list: as many rows in the document as fit the window, however many trajectories there are.

const ROW_PX = 30, SPARE_ROWS = 6;
const OUTCOMES = { right: { mark: "✓", text: "right" }, half: { mark: "◐", text: "half right" }, wrong: { mark: "✗", text: "wrong" }, ungraded: { mark: "·", text: "not graded" } };
const COLUMNS = [
  { key: "correctness", label: "✓", title: "Correctness", class: "c-mark" },
  { key: "instance", label: "Question", class: "c-question" },
  { key: "model", label: "Model", class: "c-model" },
  { key: "ending", label: "Ending", class: "c-ending" },
  { key: "reward", label: "Reward", class: "c-number" },
  { key: "tokens", label: "Tokens", class: "c-number" },
  { key: "turns", label: "Turns", class: "c-number c-turns" },
  { key: "seconds", label: "Time", class: "c-number c-time" },
];

const outcome = (correctness) => correctness === null ? "ungraded" : correctness >= 1 ? "right" : correctness > 0 ? "half" : "wrong";

function outcomeMark(correctness) {
  const name = outcome(correctness), { mark, text } = OUTCOMES[name];
  return el("span", { class: `mark ${name}`, role: "img", "aria-label": text, title: text, text: mark });
}

class List {
  constructor(data, open, sorted) {
    Object.assign(this, { data, open, sorted, order: [], sort: { key: "", down: false }, active: -1 });
    this.scroller = document.getElementById("scroller");
    this.rows = document.getElementById("rows");
    this.scroller.addEventListener("scroll", () => this.later(), { passive: true });
    new ResizeObserver(() => this.later()).observe(this.scroller);
    this.rows.addEventListener("click", (event) => {
      const row = event.target.closest("[role=row]");
      if (row) this.open(this.order[Number(row.dataset.position)], event.shiftKey);
    });
    this.drawHead();
  }

  /** List these rows, in the chosen order. */
  show(rows) {
    this.order = this.arranged(rows);
    this.scroller.setAttribute("aria-rowcount", this.order.length);
    document.getElementById("nothing").hidden = this.order.length > 0;
    this.rows.style.height = `${this.order.length * ROW_PX}px`;
    this.draw();
  }

  arranged(rows) {
    const { key, down } = this.sort, { data } = this;
    if (!key) return rows;
    const rank = key in data.measure ? (i) => data.measure[key][i] : rankOf(data.category[key], key === "model" ? Object.keys(data.models) : null);
    const sign = down ? -1 : 1;
    return [...rows].sort((a, b) => {
      const x = rank(a), y = rank(b);
      if (Number.isNaN(x) || Number.isNaN(y)) return Number.isNaN(x) - Number.isNaN(y) || a - b;
      return sign * (x - y) || a - b;
    });
  }

  drawHead() {
    document.getElementById("columns").replaceChildren(...COLUMNS.map(({ key, label, title, class: name }) => {
      const on = this.sort.key === key, arrow = on ? (this.sort.down ? " ↓" : " ↑") : "";
      const said = `Sort by ${(title ?? label).toLowerCase()}${on ? (this.sort.down ? ", now descending" : ", now ascending") : ""}`;
      return el("button", { type: "button", class: name + (on ? " sorted" : ""), title: said, "aria-label": said, text: label + arrow, on: { click: () => this.sortBy(key) } });
    }));
  }

  /** Ascending, then descending, then the order of the file. */
  sortBy(key) {
    const { sort } = this;
    this.sort = sort.key !== key ? { key, down: false } : sort.down ? { key: "", down: false } : { key, down: true };
    this.drawHead();
    this.sorted();
  }

  /** Mark a row as the open one, and bring it into view. */
  mark(i, second = -1) {
    this.active = i;
    this.second = second;
    const position = this.order.indexOf(i);
    if (position >= 0) {
      const top = position * ROW_PX, { scrollTop, clientHeight } = this.scroller;
      if (top < scrollTop) this.scroller.scrollTop = top - ROW_PX;
      else if (top + 2 * ROW_PX > scrollTop + clientHeight) this.scroller.scrollTop = top + 2 * ROW_PX - clientHeight;
    }
    this.draw();
  }

  /** The row so many places from the open one; the first, or by an infinity the last, when none is open. */
  neighbour(by) {
    if (!this.order.length) return -1;
    const position = this.order.indexOf(this.active);
    return this.order[position < 0 ? (by === Infinity ? this.order.length - 1 : 0) : Math.max(0, Math.min(this.order.length - 1, position + by))];
  }

  get pageRows() {
    return Math.max(1, Math.floor(this.scroller.clientHeight / ROW_PX) - 1);
  }

  later() {
    this.frame ??= requestAnimationFrame(() => { this.frame = undefined; this.draw(); });
  }

  draw() {
    const { scrollTop, clientHeight } = this.scroller;
    const first = Math.max(0, Math.floor(scrollTop / ROW_PX) - SPARE_ROWS), last = Math.min(this.order.length, Math.ceil((scrollTop + clientHeight) / ROW_PX) + SPARE_ROWS);
    const made = [];
    for (let position = first; position < last; position++) made.push(this.row(position));
    this.rows.replaceChildren(...made);
    const active = made.find((row) => row.getAttribute("aria-selected") === "true");
    if (active) this.scroller.setAttribute("aria-activedescendant", active.id);
    else this.scroller.removeAttribute("aria-activedescendant");
  }

  row(position) {
    const i = this.order[position], { data } = this, ending = data.of("ending", i), { label, colour } = data.look(i), step = data.number("step", i);
    const cell = (name, ...content) => el("span", { class: name, role: "gridcell" }, ...content);
    const row = el("div", { role: "row", id: `row-${i}`, "aria-rowindex": position + 1, "aria-selected": i === this.active ? "true" : "false", class: i === this.second ? "second" : "", dataset: { position } },
      cell("c-mark", outcomeMark(data.number("correctness", i))),
      cell("c-question", el("span", { class: "instance", text: visible(data.shortInstance(i)) }), data.number("sample", i) ? `/${data.number("sample", i)}` : "", el("span", { class: "task", text: visible(words(data.of("task", i))) })),
      cell("c-model", dot(colour), visible(label) + (step === null ? "" : ` · step ${step}`)),
      cell(`c-ending${ending === "solved" ? " muted" : ""}`, visible(words(ending.replace(/^error:/, "")))),
      cell("c-number", share(data.number("reward", i))),
      cell("c-number", whole(data.number("tokens", i))),
      cell("c-number c-turns", whole(data.number("turns", i))),
      cell("c-number c-time", duration(data.number("seconds", i))));
    row.style.transform = `translateY(${position * ROW_PX}px)`;
    row.title = visible(data.id[i]);
    return row;
  }
}

function rankOf({ values, codes }, order) {
  const sorted = order ?? [...values].sort((a, b) => a.localeCompare(b, "en", { numeric: true }));
  const rank = new Map(sorted.map((value, place) => [value, place]));
  const byCode = values.map((value) => rank.get(value));
  return (i) => byCode[codes[i]];
}
