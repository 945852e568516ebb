// Colours for Python, R, shell and JSON: comments, strings, numbers, keywords, calls. A reading aid, not a parser.

const TOKENS = /(?<comment>#[^\n]*)|(?<string>\b[rbuf]{1,2}(?=["'])(?:"""[^]*?(?:"""|$)|'''[^]*?(?:'''|$)|"(?:\\.|[^"\\\n])*"?|'(?:\\.|[^'\\\n])*'?)|"""[^]*?(?:"""|$)|'''[^]*?(?:'''|$)|"(?:\\.|[^"\\\n])*"?|'(?:\\.|[^'\\\n])*'?)|(?<number>\b(?:0[xob][\da-f_]+|\d[\d_]*(?:\.\d+)?(?:e[+-]?\d+)?)\b)|(?<word>[\p{L}_][\p{L}\p{N}_]*)/giu;

const set = (text) => new Set(text.split(" "));
const LANGUAGES = {
  python: {
    keyword: set("and as assert async await break case class continue def del elif else except finally for from global if import in is lambda match nonlocal not or pass raise return try while with yield"),
    constant: set("True False None self cls"),
  },
  r: { keyword: set("function if else for while repeat break next return library require in"), constant: set("TRUE FALSE NULL NA Inf NaN") },
  shell: { keyword: set("if then else elif fi for do done while case esac function in echo export set cd exit"), constant: set("true false") },
  json: { keyword: new Set(), constant: set("true false null NaN") },
};
const MARKERS = { "#!R": "r", "#!BASH": "shell" };

/** The language of a block by its first line, as the sandbox reads it. */
const languageOf = (code) => MARKERS[code.trimStart().split("\n", 1)[0].trim()] ?? "python";

/** Pieces of code, in order: [class, text], the class empty for what has no colour. */
function* coloured(code, language) {
  const { keyword, constant } = LANGUAGES[language];
  let end = 0;
  for (const found of code.matchAll(TOKENS)) {
    const { comment, string, number, word } = found.groups;
    let kind = "";
    if (comment) kind = language === "json" ? "" : "tok-comment";
    else if (string) kind = language === "json" && /^\s*:/.test(code.slice(found.index + string.length, found.index + string.length + 8)) ? "tok-call" : "tok-string";
    else if (number) kind = "tok-number";
    else if (keyword.has(word)) kind = "tok-keyword";
    else if (constant.has(word)) kind = "tok-number";
    else if (code[found.index + word.length] === "(") kind = "tok-call";
    if (!kind) continue;
    yield ["", code.slice(end, found.index)];
    yield [kind, found[0]];
    end = found.index + found[0].length;
  }
  yield ["", code.slice(end)];
}

/** A pre element with highlighted code; lines that are not in `other`, code to compare with, are marked. */
function highlighted(code, language = languageOf(code), other = null) {
  const known = other === null ? null : new Set(other.split("\n").map((line) => line.trim()));
  const made = code.split("\n").map((line) => el("span", { class: known && line.trim() && !known.has(line.trim()) ? "line differs" : "line" }));
  let number = 0;
  for (const [kind, text] of coloured(code, language)) {
    text.split("\n").forEach((piece, place) => {
      if (place) number++;
      appendText(made[number], piece, kind);
    });
  }
  return el("pre", { class: "code", dir: "ltr" }, el("code", {}, ...made));
}
