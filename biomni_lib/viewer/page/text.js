"use strict";
// Text and elements. Everything from outside becomes a text node; nothing is ever parsed as HTML.

// Control characters, those without width, and those that turn the reading direction.
const HIDDEN = /[\u0000-\u0008\u000b-\u001f\u007f-\u009f\u00ad\u061c\u180e\u200b-\u200f\u2028-\u202e\u2060-\u206f\ufeff\ufff9-\ufffb]|[\u{e0000}-\u{e007f}]/gu;

const codepoint = (character) => "U+" + character.codePointAt(0).toString(16).toUpperCase().padStart(4, "0");

/** Text on one line, hidden characters by their number. */
const visible = (text) => text.replace(/\s+/g, " ").replace(HIDDEN, codepoint);

/** An element. Properties: class, text, dataset, on (listeners), anything else is an attribute. */
function el(name, properties = {}, ...children) {
  const made = document.createElement(name);
  for (const [key, value] of Object.entries(properties)) {
    if (value === null || value === undefined || value === false) continue;
    if (key === "class") made.className = value;
    else if (key === "text") made.textContent = value;
    else if (key === "dataset") Object.assign(made.dataset, value);
    else if (key === "on") for (const [event, listener] of Object.entries(value)) made.addEventListener(event, listener);
    else made.setAttribute(key, value === true ? "" : value);
  }
  made.append(...children.filter((child) => child !== null && child !== undefined));
  return made;
}

/** Append text to an element, hidden characters as marked numbers. */
function appendText(element, text, className = "") {
  let end = 0;
  const put = (part) => {
    if (part) element.append(className ? el("span", { class: className, text: part }) : part);
  };
  for (const found of text.matchAll(HIDDEN)) {
    put(text.slice(end, found.index));
    element.append(el("span", { class: "hidden-character", text: codepoint(found[0]), title: "a character that is not shown as itself" }));
    end = found.index + found[0].length;
  }
  put(text.slice(end));
  return element;
}

const words = (name) => { const text = name.replaceAll("_", " ").trim(); return text.charAt(0).toUpperCase() + text.slice(1); };
const whole = (value) => value === null ? "–" : value.toLocaleString("en-US");
const share = (value) => value === null ? "–" : String(Math.round(value * 1000) / 1000);
function duration(seconds) {
  if (seconds === null) return "–";
  if (seconds >= 120) return `${Math.floor(seconds / 60)} min ${Math.round(seconds % 60)} s`;
  if (seconds >= 10) return `${seconds.toFixed(0)} s`;
  if (seconds >= 0.1) return `${seconds.toFixed(1)} s`;
  return `${(seconds * 1000).toFixed(seconds >= 0.001 ? 0 : 1)} ms`;
}
