// Small pieces that several views are made of.

import { h } from "./dom.js";

export function section(title, ...content) {
  const id = `part-${title.toLowerCase().replaceAll(/\W+/g, "-")}`;
  return h("section", { "aria-labelledby": id, key: id }, h("h2", { id }, title), content);
}

export const heading = (title, about) => h("hgroup", {},
  h("h1", { id: "title", tabindex: "-1" }, title),
  about && h("p", { class: "about" }, about));

export const badge = (text, tone = "", title = null) =>
  h("span", { class: `badge ${tone}`, title }, text);

const MARKS = { good: "✓", bad: "✕", warn: "!", soft: "·" };

/** A word with a sign before it, so that nothing is said by colour alone. */
export const mark = (text, tone) =>
  h("span", { class: `mark ${tone}` },
    h("span", { "aria-hidden": "true" }, MARKS[tone] ?? "·"), ` ${text}`);

export const none = (text) => h("p", { class: "none" }, text);

export const button = (label, onclick, props = {}) =>
  h("button", { type: "button", onclick, ...props }, label);

/** A table; `rows` are [key, cells]. Columns of which the name begins with # are numbers. */
export function table(caption, columns, rows) {
  const number = columns.map((name) => name.startsWith("#"));
  const head = columns.map((name, at) =>
    h("th", { scope: "col", class: number[at] ? "number" : null },
      name.replace("#", "") || h("span", { class: "unseen" }, "Actions")));
  // What is wider than the window is scrolled by itself, by keyboard too.
  return h("div", { class: "scroll", role: "region", "aria-label": caption, tabindex: "0" },
    h("table", {},
      h("caption", { class: "unseen" }, caption),
      h("thead", {}, h("tr", {}, head)),
      h("tbody", {}, rows.map(([key, cells]) =>
        h("tr", { key }, cells.map((cell, at) =>
          h(at ? "td" : "th", { scope: at ? null : "row", class: number[at] ? "number" : null },
            cell)))))));
}

/** A command line, and a button that copies it. */
export function commandLine(text, label = "The same in a terminal") {
  return h("p", { class: "command" },
    h("span", { class: "unseen" }, `${label}: `),
    h("code", { title: text }, text),
    button("Copy", (event) => copy(event.currentTarget, text),
      { class: "quiet", "aria-label": `Copy: ${text}` }));
}

async function copy(source, text) {
  try {
    await navigator.clipboard.writeText(text);
    source.textContent = "Copied";
  } catch {
    source.textContent = "Select it, please";
  }
}

/** A labelled field of a form. */
export function field(label, name, props = {}, hint = "") {
  const id = `field-${props.form ?? "form"}-${name}`;
  const { form: _, ...rest } = props;
  return h("div", { class: "field" },
    h("label", { for: id }, label),
    h("input", { id, name, autocomplete: "off", spellcheck: "false",
      "aria-describedby": hint ? `${id}-hint` : null, ...rest }),
    hint && h("small", { id: `${id}-hint` }, hint));
}

export const ticked = (label, name, checked = false) =>
  h("label", { class: "tick" }, h("input", { type: "checkbox", name, checked }), ` ${label}`);

/** What stands in a form: texts without the space around them, ticks as booleans. */
export function read(form) {
  const found = {};
  for (const one of form.elements) {
    if (one.name) found[one.name] = one.type === "checkbox" ? one.checked : one.value.trim();
  }
  return found;
}
