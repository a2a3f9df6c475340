// The state of the page: in the address, so that a reload or a link shows the same; and the controls that change it.

import { percent, printable } from "/assets/format.js";

const CHOICES = {
  group: ["program", "process", "thread", "container", "pod", "service", "none"],
  color: ["kind", "binary"],
  view: ["flame", "top"],
  root: ["top", "bottom"],
};

export const LAST = [60, 300, 900];

/** What says where something runs; an empty text is everywhere. */
const PLACE = ["namespace", "pod", "container", "service"];

const MAX_OPTIONS = 100; // of each kind

/** What the state asks for, without what is empty. */
export function filterOf(state) {
  return Object.fromEntries(["pid", ...PLACE].map((name) => [name, state[name]]).filter(([, value]) => value !== ""));
}

/** What the address says; nonsense in it is left out. */
export function fromAddress() {
  const given = new URLSearchParams(location.search);
  const state = { last: 60, from: null, to: null, pid: "", q: (given.get("q") ?? "").slice(0, 200) };
  for (const [name, values] of Object.entries(CHOICES)) {
    state[name] = values.includes(given.get(name)) ? given.get(name) : values[0];
  }
  if (LAST.includes(Number(given.get("last")))) state.last = Number(given.get("last"));
  if (/^\d{1,10}$/.test(given.get("pid") ?? "")) state.pid = given.get("pid");
  for (const name of PLACE) state[name] = (given.get(name) ?? "").slice(0, 300);
  const number = /^\d{1,20}$/;
  if (number.test(given.get("from") ?? "") && number.test(given.get("to") ?? "")) {
    state.from = given.get("from");
    state.to = given.get("to");
  }
  return state;
}

/** Puts into the address what differs from the defaults. */
export function toAddress(state) {
  const query = new URLSearchParams();
  if (state.from) {
    query.set("from", state.from);
    query.set("to", state.to);
  } else if (state.last !== LAST[0]) query.set("last", state.last);
  for (const [name, values] of Object.entries(CHOICES)) {
    if (state[name] !== values[0]) query.set(name, state[name]);
  }
  for (const [name, value] of Object.entries(filterOf(state))) query.set(name, value);
  if (state.q) query.set("q", state.q);
  history.replaceState(null, "", query.size ? `?${query}` : location.pathname);
}

export function byId(id) {
  return document.getElementById(id);
}

/** Connects the controls: `changed(what)` is called after `state` was changed by someone. */
export function connect(state, changed) {
  const set = (values, what) => {
    Object.assign(state, values);
    show(state);
    toAddress(state);
    changed(what);
  };
  for (const button of document.querySelectorAll("[data-last]")) {
    button.addEventListener("click", () => set({ last: Number(button.dataset.last), from: null, to: null }, "range"));
  }
  for (const tab of document.querySelectorAll("[data-view]")) {
    tab.addEventListener("click", () => set({ view: tab.dataset.view }, "view"));
  }
  byId("live").addEventListener("click", () => changed("live"));
  byId("group").addEventListener("change", (e) => set({ group: e.target.value }, "group"));
  byId("color").addEventListener("change", (e) => set({ color: e.target.value }, "view"));
  byId("process").addEventListener("change", (e) => set({ pid: e.target.value }, "process"));
  byId("place").addEventListener("change", (e) => set(place(e.target.value), "process"));
  for (const button of document.querySelectorAll("[data-root]")) {
    button.addEventListener("click", () => set({ root: button.dataset.root }, "view"));
  }
  let typing = 0;
  byId("search").addEventListener("input", (e) => {
    clearTimeout(typing);
    typing = setTimeout(() => set({ q: e.target.value.trim().slice(0, 200) }, "search"), 120);
  });
  document.addEventListener("keydown", (e) => {
    const writing = e.target.closest?.("input, select, textarea");
    if (e.key === "/" && !writing && !e.ctrlKey && !e.metaKey) {
      e.preventDefault();
      byId("search").select();
    } else if (e.key === "Escape") {
      byId("download").open = false;
      if (e.target === byId("search")) {
        byId("search").value = "";
        set({ q: "" }, "search");
      } else changed("reset");
    }
  });
  document.addEventListener("click", (e) => {
    if (!byId("download").contains(e.target)) byId("download").open = false;
  });
  theme();
  show(state);
  byId("search").value = state.q;
  return set;
}

/** Makes the controls show the state. */
export function show(state) {
  for (const button of document.querySelectorAll("[data-last]")) {
    button.setAttribute("aria-pressed", String(!state.from && Number(button.dataset.last) === state.last));
  }
  for (const tab of document.querySelectorAll("[data-view]")) {
    tab.setAttribute("aria-selected", String(tab.dataset.view === state.view));
  }
  byId("group").value = state.group;
  byId("color").value = state.color;
  for (const button of document.querySelectorAll("[data-root]")) {
    button.setAttribute("aria-pressed", String(button.dataset.root === state.root));
  }
  const live = byId("live");
  live.setAttribute("aria-pressed", String(!state.from));
  live.querySelector(".word").textContent = state.from ? "Paused" : "Live";
  live.title = state.from ? "Show the newest windows again" : "Keep what is shown now";
  for (const id of ["layout", "color-field", "group-field"]) byId(id).hidden = state.view !== "flame";
}

/** Fills the list of processes; the chosen one stays in it, whether it ran or not. */
export function listProcesses(select, flame, pid) {
  const { processes, strings, range_samples: all } = flame.tree;
  const options = [new Option("All processes", "")];
  processes.tgid.forEach((tgid, i) => {
    const name = printable(strings[processes.name[i]]).slice(0, 60);
    options.push(new Option(`${name} [${tgid}]  ${percent(processes.samples[i] / all)}`, String(tgid)));
  });
  if (pid && !processes.tgid.includes(Number(pid))) options.push(new Option(`[${pid}]  no samples`, pid));
  if (document.activeElement !== select) {
    select.replaceChildren(...options);
    select.value = pid;
  }
}

/** A place from its query, with all its parts. */
function place(query) {
  const given = new URLSearchParams(query);
  return Object.fromEntries(PLACE.map((name) => [name, given.get(name) ?? ""]));
}

/** The query of a place. */
function placeQuery(parts) {
  return String(new URLSearchParams(PLACE.map((name) => [name, parts[name] ?? ""]).filter(([, value]) => value !== "")));
}

/** Fills the list of namespaces, pods, containers and services; hidden where there are none. */
export function listPlaces(select, flame, state) {
  const { places, strings, range_samples: all } = flame.tree;
  const kinds = [["Namespaces", ["namespace"]], ["Pods", ["namespace", "pod"]], ["Containers", ["namespace", "pod", "container"]], ["Services", ["service"]]];
  const now = placeQuery(state);
  const known = new Set([""]);
  const groups = [new Option("Everywhere", "")];
  for (const [title, names] of kinds) {
    const sums = new Map();
    places.samples.forEach((samples, i) => {
      const parts = Object.fromEntries(names.map((name) => [name, strings[places[name][i]]]));
      if (parts[names.at(-1)] === "") return;
      const query = placeQuery(parts);
      const text = names.map((name) => parts[name]).filter(Boolean).join("/");
      sums.set(query, { text, samples: (sums.get(query)?.samples ?? 0) + samples });
    });
    if (sums.size === 0) continue;
    const group = Object.assign(document.createElement("optgroup"), { label: title });
    for (const [query, { text, samples }] of [...sums].sort((a, b) => b[1].samples - a[1].samples).slice(0, MAX_OPTIONS)) {
      group.append(new Option(`${printable(text).slice(0, 80)}  ${percent(samples / all)}`, query));
      known.add(query);
    }
    groups.push(group);
  }
  if (!known.has(now)) groups.push(new Option(PLACE.map((name) => state[name]).filter(Boolean).map(printable).join("/").slice(0, 80), now));
  byId("place-field").hidden = groups.length === 1;
  const pods = places.pod.some((i) => i !== 0);
  const containers = places.container.some((i) => i !== 0);
  for (const option of byId("group").options) {
    const there = { container: containers, pod: pods, service: places.samples.length > 0 }[option.value] ?? true;
    option.hidden = !there && state.group !== option.value;
  }
  if (document.activeElement !== select) {
    select.replaceChildren(...groups);
    select.value = now;
  }
}

function theme() {
  const order = ["auto", "light", "dark"];
  let now = "auto";
  try {
    now = localStorage.getItem("theme") ?? now;
  } catch {
    // Storage is off: the choice holds until the page is left.
  }
  const apply = () => {
    if (now === "auto") delete document.documentElement.dataset.theme;
    else document.documentElement.dataset.theme = now;
    byId("theme").title = `Colors: ${now === "auto" ? "as the system" : now}`;
  };
  byId("theme").addEventListener("click", () => {
    now = order[(order.indexOf(now) + 1) % order.length];
    apply();
    try {
      localStorage.setItem("theme", now);
    } catch {
      // As above.
    }
  });
  apply();
}
