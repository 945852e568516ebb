// The data in the file: columns of the list, and chunks of conversations that are decompressed when they are needed.

const CHUNKS_KEPT = 32;

async function unpack(name) {
  const bytes = Uint8Array.from(atob(document.getElementById(name).textContent), (character) => character.charCodeAt(0));
  return new Response(new Blob([bytes]).stream().pipeThrough(new DecompressionStream("gzip"))).json();
}

class Data {
  static async open() {
    return new Data(await unpack("index"));
  }

  constructor(index) {
    Object.assign(this, { title: index.title, about: index.about, models: index.models, systems: index.systems, chunkSize: index.chunk });
    const rows = index.rows;
    this.length = rows.id.length;
    this.id = rows.id;
    this.text = { id: rows.id, answer: rows.answer };
    this.category = {};
    for (const name of ["source", "task", "instance", "model", "strategy", "ending"]) {
      this.category[name] = { values: rows[name].values, codes: Uint32Array.from(rows[name].codes) };
    }
    this.measure = {};
    for (const name of ["score", "correctness", "format", "reward", "tokens", "context", "turns", "calls", "seconds", "step", "sample"]) {
      this.measure[name] = Float64Array.from(rows[name], (value) => value ?? NaN);
    }
    this.accepted = rows.accepted;
    this.question = Uint32Array.from(rows.question);
    this.place = new Map(this.id.map((id, i) => [id, i]));
    this.sameQuestion = Map.groupBy ? Map.groupBy(this.id.keys(), (i) => this.question[i]) : grouped(this.id.keys(), (i) => this.question[i]);
    this.chunks = new Map();
  }

  /** A category of a row, such as its model. */
  of(name, i) {
    const { values, codes } = this.category[name];
    return values[codes[i]];
  }

  /** A number of a row; null when it is not known. */
  number(name, i) {
    const value = this.measure[name][i];
    return Number.isNaN(value) ? null : value;
  }

  /** What a reader calls a row's model, and its colour. */
  look(i) {
    return this.models[this.of("model", i)];
  }

  /** The instance without its task's name, which stands beside it. */
  shortInstance(i) {
    const task = this.of("task", i), instance = this.of("instance", i);
    return instance.startsWith(task) && instance.length > task.length ? instance.slice(task.length).replace(/^[-/_]/, "") : instance;
  }

  /** A conversation: its turns, its answer, and its question. */
  async record(i) {
    const chunk = await this.chunk(Math.floor(i / this.chunkSize));
    return { ...chunk.records[i % this.chunkSize], question: chunk.questions[this.question[i]] ?? null };
  }

  chunk(number) {
    let promise = this.chunks.get(number);
    this.chunks.delete(number);
    promise ??= unpack(`chunk-${number}`);
    this.chunks.set(number, promise);
    if (this.chunks.size > CHUNKS_KEPT) this.chunks.delete(this.chunks.keys().next().value);
    return promise;
  }

  /** Which conversations hold a text; reads every chunk, lets the page breathe, and stops when told. */
  async search(text, progress, stopped) {
    const wanted = text.toLowerCase(), hits = new Uint8Array(this.length), chunks = Math.ceil(this.length / this.chunkSize);
    for (let number = 0; number < chunks; number++) {
      const { records, questions } = await unpack(`chunk-${number}`);
      records.forEach((record, k) => {
        const i = number * this.chunkSize + k, asked = questions[this.question[i]];
        const told = [asked?.prompt ?? "", record.answer ?? "", ...record.turns.flatMap((turn) => [...turn.pieces.map((piece) => piece[1]), turn.observation ?? ""])];
        hits[i] = told.some((part) => part.toLowerCase().includes(wanted)) ? 1 : 0;
      });
      if (number % 4 === 3) await new Promise((resume) => setTimeout(resume));
      if (stopped()) return null;
      progress((number + 1) / chunks);
    }
    return hits;
  }
}

function grouped(items, key) {
  const groups = new Map();
  for (const item of items) groups.set(key(item), [...(groups.get(key(item)) ?? []), item]);
  return groups;
}
