// Making elements, and changing those that are there into others.
//
// Everything that strangers chose goes through `plain` and becomes text, never markup: nothing in
// these scripts writes HTML. A view is made anew at every change; `show` then changes only what
// differs, so that focus, selection and half-made clicks stay.

const HANDLERS = ["onclick", "oninput", "onsubmit", "onkeydown", "onchange", "onfocus"];

// What a browser would not show, or would let turn other words round.
const HIDDEN =
  /[\u0000-\u0008\u000b-\u001f\u007f-\u009f\u061c\u200b-\u200f\u2028-\u202e\u2060-\u2069\ufeff]/g;

export function plain(text) {
  return String(text).replace(
    HIDDEN, (one) => "\\u" + one.charCodeAt(0).toString(16).padStart(4, "0"));
}

export function h(tag, props, ...children) {
  return make(document.createElement(tag), props, children);
}

export function svg(tag, props, ...children) {
  return make(document.createElementNS("http://www.w3.org/2000/svg", tag), props, children);
}

function make(element, props, children) {
  for (const [name, value] of Object.entries(props ?? {})) {
    if (name === "key" || HANDLERS.includes(name)) element[name] = value;
    else if (value === true) element.setAttribute(name, "");
    else if (value !== false && value != null) element.setAttribute(name, plain(value));
  }
  for (const child of children.flat(Infinity)) {
    if (child == null || child === false) continue;
    element.append(child instanceof Node ? child : plain(child));
  }
  return element;
}

/** Make the children of `parent` what `fresh` says. */
export function show(parent, ...fresh) {
  const active = document.activeElement;
  const wanted = fresh.flat(Infinity).filter((one) => one != null && one !== false);
  children(parent, wanted.map((one) => (one instanceof Node ? one : new Text(plain(one)))));
  if (active !== document.activeElement) {
    const again = active?.isConnected ? active : active?.id && document.getElementById(active.id);
    if (again) again.focus({ preventScroll: true });
  }
}

function children(parent, fresh) {
  const keyed = new Map();
  for (const child of parent.childNodes) {
    if (child.key !== undefined) keyed.set(child.key, child);
  }
  let at = parent.firstChild;
  for (const next of fresh) {
    const old = next.key === undefined ? at : keyed.get(next.key);
    if (old && old.key === next.key && old.nodeName === next.nodeName) {
      if (old === at) at = at.nextSibling;
      else parent.insertBefore(old, at);
      become(old, next);
    } else {
      parent.insertBefore(next, at);
    }
  }
  while (at) {
    const gone = at;
    at = at.nextSibling;
    gone.remove();
  }
}

function become(old, next) {
  if (old.nodeType !== Node.ELEMENT_NODE) {
    if (old.data !== next.data) old.data = next.data;
    return;
  }
  for (const name of HANDLERS) {
    if (old[name] !== next[name]) old[name] = next[name];
  }
  for (const { name, value } of [...next.attributes]) {
    if (old.getAttribute(name) !== value) old.setAttribute(name, value);
  }
  for (const { name } of [...old.attributes]) {
    // Whether something is unfolded is the reader's business.
    if (!next.hasAttribute(name) && name !== "open") old.removeAttribute(name);
  }
  if (old.nodeName !== "TEXTAREA") children(old, [...next.childNodes]);
}
