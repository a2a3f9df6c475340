// Asks for windows, shows the tree of the chosen range, and keeps both fresh.

import * as api from "/assets/api.js";
import { byId, connect, filterOf, fromAddress, listPlaces, listProcesses, show } from "/assets/controls.js";
import { base, clock, count, milliseconds, percent, seconds } from "/assets/format.js";
import { FlameView, binaryClass } from "/assets/flame.js";
import { TopTable } from "/assets/table.js";
import { Timeline } from "/assets/timeline.js";
import { KIND, Tree, matcher } from "/assets/tree.js";

const POLL_MS = 2000;
const RETRY_MS = 4000;
const LEGEND_BINARIES = 10;

const state = fromAddress();
const view = new FlameView(byId("flame"), byId("tip"), zoomTo);
const table = new TopTable(byId("top"), pick);
const timeline = new Timeline(byId("timeline"), byId("axis"), choose);
const set = connect(state, changed);

let windows = null;
let flame = null;
let tree = null;
let zoomKeys = [];
let shownEnd = null;
let request = null;

document.title = `profiler · ${location.host}`;
poll();
document.addEventListener("visibilitychange", () => document.hidden || refresh());

async function poll() {
  let wait = POLL_MS;
  if (!document.hidden) wait = (await refresh()) ? POLL_MS : RETRY_MS;
  setTimeout(poll, wait);
}

/** Asks for the list of windows and, if the newest is a new one and the page is live, for the tree. */
async function refresh() {
  try {
    windows = await api.windows();
    const newest = windows.to_ns.at(-1) ?? "none";
    if (flame === null || (!state.from && newest !== shownEnd)) {
      await load();
      shownEnd = newest;
    }
    timeline.draw(windows, flame);
    trouble("");
    return true;
  } catch (error) {
    if (error.name !== "AbortError") trouble(error);
    return false;
  }
}

/** Asks for the tree of the chosen range and shows it. */
async function load() {
  request?.abort();
  request = new AbortController();
  const range = state.from ? { from: state.from, to: state.to } : { seconds: state.last };
  flame = await api.flame(range, state.group, filterOf(state), request.signal);
  tree = new Tree(flame);
  view.load(tree);
  table.load(flame);
  listProcesses(byId("process"), flame, state.pid);
  listPlaces(byId("place"), flame, state);
  draw();
}

function trouble(error) {
  const text = !error ? "" : error instanceof TypeError ? "The profiler does not answer. Trying again…" : error.message;
  byId("trouble").hidden = text === "";
  byId("trouble").textContent = text;
}

/** Hears of every change of the state by hand. */
function changed(what) {
  if (what === "live") {
    if (state.from) set({ from: null, to: null }, "range");
    else if (flame && flame.windows > 0) set({ from: flame.from_ns, to: flame.to_ns }, "view");
    return;
  }
  if (what === "reset") return zoomTo(0);
  if (what === "group" || what === "process") zoomKeys = [];
  if (what === "range" || what === "group" || what === "process") {
    load().then(() => windows && timeline.draw(windows, flame), (error) => error.name !== "AbortError" && trouble(error));
  } else draw();
}

function choose(first, last) {
  set({ from: windows.from_ns[first], to: windows.to_ns[last] }, "range");
}

function pick(name) {
  byId("search").value = name;
  set({ q: name, view: "flame" }, "search");
}

function zoomTo(node) {
  if (!tree) return;
  zoomKeys = tree.path(node).map((i) => tree.key(i));
  draw();
}

/** Shows everything that is known, as the state wants it. */
function draw() {
  if (!tree) return;
  const test = state.q ? matcher(state.q) : null;
  const found = test ? tree.search(test) : null;
  byId("search").setAttribute("aria-invalid", String(Boolean(state.q) && !test));
  byId("matches").textContent = found ? `${percent(found.samples / Math.max(1, tree.samples))}` : "";
  byId("matches").title = found ? `${count(found.samples)} samples have a match in their stack` : "";
  byId("matches").dataset.samples = found ? String(found.samples) : "";

  const empty = explainNothing();
  byId("flame").hidden = empty || state.view !== "flame";
  byId("top").hidden = empty || state.view !== "top";
  view.found = found;
  view.colors = state.color;
  view.rootOnTop = state.root === "top";
  view.zoom = tree.follow(zoomKeys);
  legend(); // Before the graph: the biggest files get the first colors.
  view.draw();
  table.filter(test);
  crumbs(view.zoom);
  summary();
  show(state);
  const filter = filterOf(state);
  for (const [id, name] of [["download-pprof", "profile.pb.gz"], ["download-folded", "profile.folded"]]) {
    if (flame.windows > 0) byId(id).href = api.file(name, flame, filter);
    else byId(id).removeAttribute("href");
  }
  byId("command").textContent = `go tool pprof '${location.origin}/debug/pprof/profile?${new URLSearchParams({ seconds: 30, ...filter })}'`;
}

/** Where there is nothing to draw: says why, and what to do. */
function explainNothing() {
  const box = byId("empty");
  box.hidden = tree.samples > 0;
  if (!box.hidden) {
    const none = (windows?.to_ns.length ?? 0) === 0;
    const [title, text, action] = none
      ? ["Collecting the first samples", "A window of samples is published every few seconds; the first one is on its way.", null]
      : flame.windows === 0
        ? ["That time is no longer kept", "Only the last minutes are kept here. Choose a bar above, or go back to live.", ["Go live", { from: null, to: null }, "range"]]
        : flame.tree.range_samples > 0
          ? ["What you chose took no samples here", "It did not run in this range of time, or it has ended.", ["Show everything", { pid: "", namespace: "", pod: "", container: "", service: "" }, "process"]]
          : ["No samples in this range", "Nothing that is profiled ran on any CPU: the machine was idle, or only the filtered rest was busy.", null];
    box.classList.toggle("waiting", none);
    box.querySelector("h2").textContent = title;
    box.querySelector("p").textContent = text;
    const button = box.querySelector("button");
    button.hidden = !action;
    button.textContent = action?.[0] ?? "";
    button.onclick = action ? () => set(action[1], action[2]) : null;
  }
  return !box.hidden;
}

function crumbs(zoom) {
  const nav = byId("crumbs");
  nav.hidden = zoom === 0 || state.view !== "flame";
  if (nav.hidden) return nav.replaceChildren();
  const path = tree.path(zoom);
  const shown = path.length > 7 ? [...path.slice(0, 2), -1, ...path.slice(-4)] : path;
  const parts = shown.map((i) => {
    const button = document.createElement("button");
    button.type = "button";
    button.textContent = i < 0 ? "…" : tree.name(i);
    button.disabled = i < 0 || i === zoom;
    if (i >= 0) {
      button.title = tree.name(i);
      button.addEventListener("click", () => zoomTo(i));
    }
    return button;
  });
  const reset = document.createElement("button");
  reset.type = "button";
  reset.className = "reset";
  reset.textContent = "Reset zoom";
  reset.addEventListener("click", () => zoomTo(0));
  nav.replaceChildren(...parts, reset);
}

function legend() {
  const entries =
    state.color === "binary" && state.view === "flame"
      ? binaries().map(([path, share]) => [`${base(path)} ${percent(share)}`, `frame-color k-user ${binaryClass(path)}`, path])
      : [["user code", "k-user s2"], ["user code without a name", "k-unnamed s2"]];
  entries.push(["kernel", "k-kernel s2"], ["cut stack", "k-cut"], ["too small to show", "k-pruned"]);
  const chips = entries.map(([text, classes, title]) => {
    const chip = document.createElement("span");
    const swatch = document.createElement("i");
    swatch.className = `swatch ${classes}`;
    chip.append(swatch, text);
    if (title) chip.title = title;
    return chip;
  });
  byId("legend").replaceChildren(...chips);
}

/** The files with most samples of their own, with their shares. */
function binaries() {
  const sums = new Map();
  for (let i = 0; i < tree.size; i++) {
    if (tree.own[i] === 0 || (tree.kind[i] !== KIND.USER && tree.kind[i] !== KIND.UNNAMED) || tree.binary(i) === "") continue;
    sums.set(tree.binary(i), (sums.get(tree.binary(i)) ?? 0) + tree.own[i]);
  }
  return [...sums].sort((a, b) => b[1] - a[1]).slice(0, LEGEND_BINARIES).map(([path, n]) => [path, n / tree.samples]);
}

function summary() {
  const parts = [];
  if (flame.windows > 0) {
    const [from, to] = [milliseconds(flame.from_ns), milliseconds(flame.to_ns)];
    const cpu = tree.samples * tree.secondsPerSample;
    parts.push(`${clock(from)} – ${clock(to)} (${seconds((to - from) / 1000)})`);
    parts.push(`${count(tree.samples)} samples`);
    parts.push(`${seconds(cpu)} CPU${to > from ? `, ${(cpu / ((to - from) / 1000)).toFixed(2)} CPUs busy` : ""}`);
    if (flame.period_ns > 0) parts.push(`${Math.round(1e9 / flame.period_ns)} Hz`);
  }
  const spans = parts.map((text) => Object.assign(document.createElement("span"), { textContent: text }));
  byId("summary").replaceChildren(...spans);
  Object.assign(byId("summary").dataset, { from: flame.from_ns, to: flame.to_ns, samples: tree.samples, windows: flame.windows });
}
