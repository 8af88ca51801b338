// Who is connected.

import { h } from "./dom.js";
import { ago, duration, moment } from "./format.js";
import { badge, commandLine, heading, none, section, table } from "./parts.js";

export function peers(app) {
  const { peers: found, errors, alerts } = app.state;
  const title = heading("Peers", "Nodes that this one is connected to.");
  if (errors.peers) return [title, none(errors.peers.message)];
  if (!found) return [title, none("Asking the node…")];
  const gone = alerts?.alerts.filter((one) => one.kind === "peer") ?? [];
  return [
    title,
    found.peers.length ? table("Connected peers",
      ["Peer", "Way", "#Round trip", "#Connected for", "#Taking", "Addresses"],
      found.peers.map((one) => [one.peer, row(one)]))
      : none("Nobody yet. A peer that is known by its address is named with " +
        "allod up --peer MULTIADDR, a way into the network with --bootstrap."),
    gone.length ? section("Went away", h("ul", { class: "plainly" }, gone.map((one) =>
      h("li", { key: one.id }, one.text, " ",
        h("span", { class: "soft", title: moment(one.at) }, ago(one.at)))))) : null,
    commandLine("allod peers"),
  ];
}

function row(one) {
  return [
    h("code", {}, one.peer),
    [badge(one.path, one.path === "relay" ? "warn" : ""), " ",
      h("span", { class: "soft" }, one.inbound ? "it dialled" : "dialled")],
    one.round_trip == null ? "–" : `${(1000 * one.round_trip).toFixed(1)} ms`,
    h("span", { title: moment(one.since) }, duration(Date.now() / 1000 - one.since)),
    one.uploads ? `${one.uploads} file${one.uploads === 1 ? "" : "s"}` : "–",
    h("ul", { class: "bare" }, one.addresses.map((each) => h("li", {}, h("code", {}, each)))),
  ];
}
