// The first view: how the node is, and what it is doing, at a glance.

import { h } from "./dom.js";
import { count, size } from "./format.js";
import { alertList } from "./health.js";
import { jobList } from "./transfers.js";
import { heading, none, section } from "./parts.js";

export function overview(app) {
  const { status, jobs, alerts, ls, ps } = app.state;
  if (!status) return [heading("Overview"), none("Asking the node…")];
  const running = jobs?.jobs.filter((one) => one.state === "running") ?? [];
  const lately = jobs?.jobs.filter((one) => one.state !== "running").slice(0, 5) ?? [];
  return [
    heading("Overview"),
    h("ul", { class: "tiles" }, [
      room(status.store),
      tile("Releases", ls ? ls.releases.length : "…",
        ls ? `${count(ls.releases.filter((one) => one.pinned).length, "pinned")
          .replace("pinneds", "pinned")}` : "", "#/releases"),
      tile("Peers", status.peers, direction(app.state.peers?.peers), "#/peers"),
      tile("Models", ps ? ps.models.length : "…",
        ps ? `${ps.models.filter((one) => one.state === "ready").length} loaded` : "", "#/models"),
    ]),
    section("Needs a look", alerts?.alerts.length ? alertList(alerts.alerts)
      : none(alerts ? "Nothing. All is well." : "Asking…")),
    section("At work", running.length ? jobList(app, running) : none("Nothing at the moment.")),
    lately.length ? section("Lately", jobList(app, lately)) : null,
    section("Where it answers", addresses(status)),
  ];
}

function direction(peers) {
  if (!peers?.length) return "nobody is connected";
  const inbound = peers.filter((one) => one.inbound).length;
  return `${inbound} came in, ${peers.length - inbound} went out`;
}

const tile = (name, value, about, href) => h("li", {},
  h("a", { class: "tile", href }, h("span", { class: "name" }, name),
    h("span", { class: "value" }, value), h("span", { class: "about" }, about)));

function room(store) {
  const near = store.quota !== null && store.bytes >= 0.9 * store.quota;
  return h("li", {}, h("div", { class: "tile" },
    h("span", { class: "name" }, "Room"),
    h("span", { class: "value" }, size(store.bytes)),
    store.quota === null ? h("span", { class: "about" }, `${count(store.files, "file")}, no quota`)
      : [h("meter", { min: 0, max: store.quota, value: store.bytes, high: 0.9 * store.quota,
        "aria-label": "Share of the quota that is taken" }),
        h("span", { class: `about ${near ? "warn" : ""}` }, `of ${size(store.quota)}`)]));
}

function reach({ verdict, mapped, relays }) {
  const said = {
    public: "Reached from everywhere, as others have tried",
    private: "Not reached directly, as others have tried",
    unknown: "Nobody has tried yet",
  }[verdict];
  return said + (mapped ? "; the router passes a port on" : "") +
    (relays.length ? `; by ${count(relays.length, "relay")}` : "") + ".";
}

const addresses = (status) => h("dl", { class: "facts" },
  h("dt", {}, "Peer id"), h("dd", {}, h("code", {}, status.peer)),
  h("dt", {}, "Programs here"), h("dd", {}, h("code", {}, `${status.http}/v1`)),
  status.addresses.length > 0 && [h("dt", {}, "Peers"), h("dd", {},
    h("ul", { class: "bare" }, status.addresses.map((one) => h("li", {}, h("code", {}, one)))))],
  status.reach && [h("dt", {}, "From outside"), h("dd", {}, reach(status.reach))],
  status.gateway?.length > 0 && [h("dt", {}, "The public"), h("dd", {},
    status.gateway.map((one) => h("code", {}, one)))]);
