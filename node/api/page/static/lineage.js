// The lineage of a release as a drawing: the release on the left, what it was made from to the
// right. Arrow keys lead along it; the same stands below it as a list.

import { h, svg } from "./dom.js";
import { short, size } from "./format.js";
import { mark } from "./parts.js";

const WIDTH = 232;
const HEIGHT = 66;
const GAP = 92; // between columns: room for the word on the line
const SPACE = 18; // between rows
const MARGIN = 12;
const LETTERS = 24; // that fit into a box

export function lineage(app, found) {
  const tree = layout(found.chain);
  const chosen = tree.nodes.find((one) => one.id === app.state.chosen) ?? tree.nodes[0];
  const choose = (id) => app.change({ chosen: id });
  const wide = tree.columns * (WIDTH + GAP) - GAP + 2 * MARGIN;
  const high = tree.rows * (HEIGHT + SPACE) - SPACE + 2 * MARGIN;
  return [
    h("div", { class: "scroll", tabindex: "-1" },
      svg("svg", { class: "lineage", width: wide, height: high, viewBox: `0 0 ${wide} ${high}`,
        role: "group", "aria-label": `Lineage of ${tree.nodes[0].title}: ` +
          `${tree.nodes.length} releases. Arrow keys lead along it.` },
        tree.edges.map(line),
        tree.nodes.map((one) => box(one, one === chosen, choose, tree)))),
    h("div", { class: "card", "aria-live": "polite", key: "chosen" }, details(chosen)),
    h("details", {}, h("summary", {}, "The same as a list"), list(tree.nodes[0], new Set())),
    found.cut ? h("p", { class: "soft" }, "This lineage goes on further than is followed.") : null,
  ];
}

/**
 * Give each release a column, right of all that was made from it, and a row between those of what
 * it was made from. A line that leads over a column gets a row of its own there.
 */
function layout(chain) {
  const known = new Map(chain.map((one) => [one.manifest, one]));
  const nodes = [];
  const byId = new Map();
  const edges = [];
  let rows = 0;
  function push(node, depth) { // ends: what is made of something names its hash, so none comes back
    if (depth <= node.depth) return;
    node.depth = depth;
    for (const each of node.parents) push(each.node, depth + 1);
  }
  function place(id, one, label, owner) {
    const node = { id, one, owner, depth: -1, title: title(one, label), parents: [], row: 0 };
    nodes.push(node);
    byId.set(id, node);
    for (const [at, parent] of (one?.parents ?? []).entries()) {
      const parentId = parent.manifest ?? `${id} ${at}`;
      const name = parent.manifest ?? parent.uri ?? parent.name;
      const there = byId.get(parentId) ??
        place(parentId, known.get(parent.manifest), name, node);
      node.parents.push({ node: there, role: role(parent) });
      edges.push({ from: node, to: there, role: role(parent) });
    }
    const own = node.parents.map((each) => each.node).filter((each) => each.owner === node);
    node.row = own.length ? (own[0].row + own.at(-1).row) / 2 : rows++;
    return node;
  }
  push(place(chain[0].manifest, chain[0], chain[0].manifest, null), 0);
  for (const edge of edges) {
    if (edge.to.depth > edge.from.depth + 1) edge.lane = MARGIN + rows++ * (HEIGHT + SPACE);
  }
  for (const node of nodes) {
    node.x = MARGIN + node.depth * (WIDTH + GAP);
    node.y = MARGIN + node.row * (HEIGHT + SPACE);
  }
  return { nodes, edges, rows, columns: 1 + Math.max(...nodes.map((one) => one.depth)) };
}

const title = (one, label) => (one?.here
  ? `${one.petname || short(one.publisher)}/${one.name} ${one.version}` : label);

const role = (parent) =>
  String(parent.role).replaceAll("_", " ") + (parent.relation ? `, ${parent.relation}` : "");

/** What is to be said of a release in a word, and how it is marked. */
function standing(one) {
  if (!one) return ["elsewhere", "soft"];
  if (!one.here) return ["not here", "warn"];
  if (one.status) return [one.status.state, "bad"];
  if (!one.signatures.ok) return ["not signed", "bad"];
  if (!one.verdict) return ["unjudged", "soft"];
  return one.verdict.admitted ? ["admitted", "good"] : ["refused", "bad"];
}

const cut = (text, most = LETTERS) => (text.length > most ? `${text.slice(0, most - 1)}…` : text);

function box(node, chosen, choose, tree) {
  const [word, tone] = standing(node.one);
  const about = node.one?.here
    ? `${node.one.kind} · ${node.one.license || "no licence"}` : "nothing here proves it";
  const parents = node.parents.map((each) => `${each.role} ${each.node.title}`).join("; ");
  return svg("g", {
    key: node.id, class: `box ${tone} ${node.one?.here ? "" : "absent"}`,
    transform: `translate(${node.x} ${node.y})`,
    role: "button", tabindex: chosen ? "0" : "-1", "aria-pressed": String(chosen),
    "aria-label": `${node.title}, ${about}, ${word}${parents ? `; made from ${parents}` : ""}`,
    "data-id": node.id,
    onclick: () => choose(node.id),
    onkeydown: (event) => move(event, node, choose, tree),
  },
  svg("rect", { width: WIDTH, height: HEIGHT, rx: 8, class: "paper" }),
  svg("rect", { width: 4, height: HEIGHT - 16, x: 0, y: 8, rx: 2, class: "stripe" }),
  svg("text", { x: 16, y: 22, class: "name" }, cut(node.title)),
  svg("text", { x: 16, y: 39, class: "about" }, cut(about, 31)),
  svg("text", { x: 16, y: 56, class: "word" }, word));
}

function line({ from, to, role: word, lane }) {
  const [x1, y1, x2, y2] = [from.x + WIDTH, from.y + HEIGHT / 2, to.x, to.y + HEIGHT / 2];
  const curve = (fromX, fromY, toX, toY) => {
    const middle = (fromX + toX) / 2;
    return `C${middle} ${fromY} ${middle} ${toY} ${toX} ${toY}`;
  };
  const over = lane === undefined ? null : lane + HEIGHT / 2;
  const way = over === null ? curve(x1, y1, x2, y2)
    : `${curve(x1, y1, x1 + GAP, over)}H${x2 - GAP}${curve(x2 - GAP, over, x2, y2)}`;
  const place = over === null ? { x: x2 - 8, y: y2 - 6 } : { x: x2 - GAP - 8, y: over - 6 };
  return svg("g", { class: "edge", "aria-hidden": "true" },
    svg("path", { d: `M${x1} ${y1}${way}` }),
    svg("text", { ...place, "text-anchor": "end" }, cut(word, 15)));
}

/** Arrow keys: right to what it was made from, left to what was made from it, up and down beside. */
function move(event, node, choose, tree) {
  const column = tree.nodes.filter((one) => one.depth === node.depth)
    .sort((one, other) => one.row - other.row);
  const beside = (step) => column[column.indexOf(node) + step];
  const next = {
    ArrowRight: () => node.parents[0]?.node,
    ArrowLeft: () => tree.edges.find((one) => one.to === node)?.from,
    ArrowUp: () => beside(-1),
    ArrowDown: () => beside(1),
    Home: () => tree.nodes[0],
    Enter: () => node,
    " ": () => node,
  }[event.key]?.();
  if (!(event.key.startsWith("Arrow") || next)) return;
  event.preventDefault();
  if (!next) return;
  choose(next.id);
  [...event.currentTarget.parentNode.children].find((one) => one.dataset.id === next.id)?.focus();
}

function facts(one) {
  const signed = one.signatures.ok ? mark(`signed by ${one.signatures.keys.join(", ")}`, "good")
    : mark(one.signatures.reason, "bad");
  return h("dl", { class: "facts" },
    h("dt", {}, "Publisher"), h("dd", {}, h("code", {}, one.publisher)),
    h("dt", {}, "Signature"), h("dd", {}, signed),
    h("dt", {}, "Made"), h("dd", {}, one.created, `, ${size(one.size)}, ${one.files} files`,
      one.complete ? "" : ", not all of them here"),
    one.status && [h("dt", {}, one.status.state), h("dd", {},
      mark(`${one.status.at}: ${one.status.reason}`, "bad"))],
    one.verdict && [h("dt", {}, "Policy"), h("dd", {},
      mark(one.verdict.admitted ? "admitted" : "refused", one.verdict.admitted ? "good" : "bad"),
      ` by ${one.verdict.rule}. ${one.verdict.reason}`)],
    one.findings.map((each) => [h("dt", {}, each.level), h("dd", {},
      mark(each.text, each.level === "problem" ? "bad" : "warn"))]),
    one.statements.map((each) => [h("dt", {}, each.kind), h("dd", {},
      `${each.petname || short(each.publisher)}, ${each.at}: ${each.text || "no word"}`,
      each.known ? "" : " (by a key that nothing ties to that name)")]),
    Object.entries(one.consent).map(([key, value]) =>
      [h("dt", {}, `consent, ${key}`), h("dd", {}, String(value))]));
}

const details = (node) => [
  h("h3", {}, node.title),
  node.one?.description ? h("p", {}, node.one.description) : null,
  node.one?.here ? facts(node.one)
    : h("p", { class: "soft" }, "Nothing of it is on this machine, so nothing of it was checked."),
];

function list(node, seen) {
  if (seen.has(node.id)) return h("p", {}, `${node.title}, as above`);
  seen.add(node.id);
  const [word] = standing(node.one);
  return h("div", { class: "tree" }, h("p", {}, `${node.title} (${word})`),
    node.parents.length ? h("ul", {}, node.parents.map((each) =>
      h("li", {}, h("span", { class: "soft" }, `${each.role}: `), list(each.node, seen)))) : null);
}
