// Draws the tree: one element per visible box, its width the share of samples of the node that is zoomed to.

import { count, hash, percent, seconds } from "/assets/format.js";
import { KIND, KIND_TEXT } from "/assets/tree.js";

const ROW = 21; // pixels
const MIN_WIDTH = 0.5; // pixels; a narrower box is not drawn, and nothing below it
const MIN_TEXT = 34; // pixels; a narrower box has no text
const MIN_BORDER = 3; // pixels; a narrower box has no gap to its neighbour
const MAX_BOXES = 15000;
const SHADES = 6;
const BINARY_COLORS = 12;
const KIND_CLASS = ["k-root", "k-process", "k-thread", "k-user", "k-unnamed", "k-kernel", "k-cut", "k-pruned", "k-process", "k-process", "k-process"];

export class FlameView {
  /** `onZoom` hears the node that someone wants to zoom to. */
  constructor(element, tip, onZoom) {
    this.element = element;
    this.tip = tip;
    this.onZoom = onZoom;
    this.tree = null;
    this.zoom = 0;
    this.found = null;
    this.colors = "kind";
    this.rootOnTop = true;
    this.boxes = [];
    this.focused = 0;
    element.addEventListener("click", (e) => this.at(e) >= 0 && onZoom(this.at(e)));
    this.pointer = null;
    element.addEventListener("pointermove", (e) => {
      this.pointer = [e.clientX, e.clientY];
      this.hover(this.at(e), ...this.pointer);
    });
    element.addEventListener("pointerleave", () => {
      this.pointer = null;
      this.hover(-1);
    });
    element.addEventListener("focusin", (e) => this.focus(this.at(e), e.target));
    element.addEventListener("focusout", () => this.hover(-1));
    element.addEventListener("keydown", (e) => this.key(e));
    new ResizeObserver(() => this.element.clientWidth !== this.width && this.draw()).observe(element);
  }

  at(event) {
    return this.node(event.target);
  }

  node(element) {
    const box = element?.closest?.(".frame");
    return box && this.element.contains(box) ? Number(box.dataset.node) : -1;
  }

  /** Takes another tree; what has the keyboard's focus keeps it, if the new tree has it too. */
  load(tree) {
    const keys = this.tree && this.focused < this.tree.size ? this.tree.path(this.focused).map((i) => this.tree.key(i)) : [];
    this.tree = tree;
    this.focused = tree.follow(keys);
  }

  /** Draws everything anew. Ancestors of the zoomed node are drawn above it, over the whole width. */
  draw() {
    const { tree, element, zoom } = this;
    this.width = element.clientWidth;
    if (!tree || tree.samples === 0 || this.width === 0) {
      element.replaceChildren();
      this.boxes = [];
      element.style.height = "0";
      element.dataset.ready = String(Boolean(tree));
      return;
    }
    const boxes = [];
    for (const i of tree.path(zoom)) boxes.push({ i, left: 0, share: 1, above: i !== zoom });
    const scale = 1 / tree.total[zoom];
    const least = MIN_WIDTH / this.width;
    for (let i = zoom + 1; i < tree.end[zoom] && boxes.length < MAX_BOXES; ) {
      const share = tree.total[i] * scale;
      if (share < least) {
        i = tree.end[i];
        continue;
      }
      boxes.push({ i, left: (tree.left[i] - tree.left[zoom]) * scale, share, above: false });
      i++;
    }
    const deepest = boxes.reduce((deep, box) => Math.max(deep, tree.depth[box.i]), 0);
    element.style.height = `${(deepest + 1) * ROW}px`;
    this.place(boxes, deepest);
    element.dataset.ready = "true";
    element.dataset.samples = String(tree.samples);
  }

  /** Puts the boxes into elements, those of before first. */
  place(boxes, deepest) {
    const { element } = this;
    while (element.childElementCount > boxes.length) element.lastElementChild.remove();
    const fresh = document.createDocumentFragment();
    while (element.childElementCount + fresh.childElementCount < boxes.length) {
      fresh.append(document.createElement("div"));
    }
    element.append(fresh);
    this.boxes = boxes;
    this.byNode = new Map();
    let child = element.firstElementChild;
    for (const box of boxes) {
      this.byNode.set(box.i, child);
      this.fill(child, box, deepest);
      child = child.nextElementSibling;
    }
    if (!this.byNode.has(this.focused)) this.focused = this.zoom;
    const focusable = this.byNode.get(this.focused);
    if (focusable) focusable.tabIndex = 0;
    if (element.contains(document.activeElement) && document.activeElement !== focusable) {
      focusable?.focus({ preventScroll: true });
    }
    // What lies under a resting pointer may be another box now.
    if (this.pointer) this.hover(this.node(document.elementFromPoint(...this.pointer)), ...this.pointer);
  }

  fill(div, { i, left, share, above }, deepest) {
    const { tree } = this;
    const name = tree.name(i);
    const pixels = share * this.width;
    const kind = tree.kind[i];
    const classes = ["frame", KIND_CLASS[kind], this.color(i, name, kind)];
    if (above) classes.push("above");
    if (pixels < MIN_TEXT) classes.push("narrow");
    if (pixels < MIN_BORDER) classes.push("thin");
    if (this.found) classes.push(this.found.flags[i] ? "hit" : "miss");
    div.className = classes.join(" ");
    div.style.left = `${left * 100}%`;
    div.style.width = `${share * 100}%`;
    div.style.top = `${(this.rootOnTop ? tree.depth[i] : deepest - tree.depth[i]) * ROW}px`;
    div.textContent = pixels >= MIN_TEXT ? name : "";
    div.tabIndex = -1;
    div.dataset.node = String(i);
    div.dataset.name = name;
    div.dataset.kind = KIND_TEXT[kind];
    div.dataset.binary = tree.binary(i);
    div.dataset.samples = String(tree.total[i]);
    div.dataset.self = String(tree.own[i]);
    div.dataset.share = (tree.total[i] / tree.samples).toFixed(6);
    div.setAttribute("role", "treeitem");
    div.setAttribute("aria-level", String(tree.depth[i] + 1));
    div.setAttribute("aria-label", `${name}, ${percent(tree.total[i] / tree.samples)}, ${count(tree.total[i])} samples`);
  }

  color(i, name, kind) {
    if (this.colors === "binary" && (kind === KIND.USER || kind === KIND.UNNAMED)) {
      return binaryClass(this.tree.binary(i));
    }
    return `s${hash(name) % SHADES}`;
  }

  focus(i, element) {
    if (i < 0) return;
    const before = this.byNode?.get(this.focused);
    if (before) before.tabIndex = -1;
    this.focused = i;
    element.tabIndex = 0;
    if (element.matches(":focus-visible")) {
      const box = element.getBoundingClientRect();
      this.hover(i, box.left + Math.min(box.width / 2, 40), box.bottom);
    }
  }

  key(event) {
    const { tree } = this;
    const i = this.at(event);
    if (!tree || i < 0) return;
    const siblings = i === 0 ? [0] : tree.children(tree.parent[i]);
    const place = siblings.indexOf(i);
    const [outer, inner] = this.rootOnTop ? ["ArrowUp", "ArrowDown"] : ["ArrowDown", "ArrowUp"];
    const targets = {
      [outer]: tree.parent[i],
      [inner]: tree.children(i)[0],
      ArrowLeft: siblings[place - 1],
      ArrowRight: siblings[place + 1],
      Home: this.zoom,
    };
    if (event.key === "Enter" || event.key === " ") {
      this.focused = i;
      this.onZoom(i);
      this.byNode.get(i)?.focus({ focusVisible: true });
    } else if (event.key === "Backspace") {
      this.onZoom(tree.parent[this.zoom]);
    } else if (event.key in targets) {
      this.byNode.get(targets[event.key])?.focus({ focusVisible: true });
    } else {
      return;
    }
    event.preventDefault();
  }

  /** Tells of a node beside the pointer; of none, hides. */
  hover(i, x, y) {
    const { tip, tree } = this;
    tip.hidden = i < 0 || !tree;
    if (tip.hidden) return;
    if (tip.dataset.node !== String(i) || tip.tree !== tree || tip.zoom !== this.zoom) {
      tip.dataset.node = String(i);
      tip.tree = tree;
      tip.zoom = this.zoom;
      tip.replaceChildren(...describe(tree, i, this.zoom));
    }
    const box = tip.getBoundingClientRect();
    const over = x + 14 + box.width > window.innerWidth - 8;
    const below = y + 18 + box.height <= window.innerHeight - 8;
    tip.style.left = `${Math.max(8, over ? Math.min(x, window.innerWidth) - box.width - 10 : x + 14)}px`;
    tip.style.top = `${Math.max(8, below ? y + 18 : y - box.height - 12)}px`;
  }
}

const binaryColors = new Map();

/** The class that gives a file its color: files get theirs in the order in which they are asked for, far apart on the wheel. */
export function binaryClass(path) {
  if (path === "") return "b-none";
  if (!binaryColors.has(path)) binaryColors.set(path, (binaryColors.size * 5) % BINARY_COLORS);
  return `b${binaryColors.get(path)}`;
}

function describe(tree, i, zoom) {
  const title = document.createElement("strong");
  title.textContent = tree.name(i);
  const where = document.createElement("span");
  where.className = "where";
  const binary = tree.binary(i);
  where.textContent = binary ? `${KIND_TEXT[tree.kind[i]]} · ${binary}` : KIND_TEXT[tree.kind[i]];
  const rows = document.createElement("dl");
  const row = (label, samples) => {
    const dt = document.createElement("dt");
    dt.textContent = label;
    const cells = [percent(samples / tree.samples), `${count(samples)} samples`, `${seconds(samples * tree.secondsPerSample)} CPU`];
    rows.append(dt, ...cells.map((text) => Object.assign(document.createElement("dd"), { textContent: text })));
  };
  row("Total", tree.total[i]);
  if (tree.own[i] !== tree.total[i]) row("Self", tree.own[i]);
  const parts = [title, where, rows];
  if (zoom !== 0 && i >= zoom) {
    const note = document.createElement("span");
    note.className = "where";
    note.textContent = `${percent(tree.total[i] / tree.total[zoom])} of ${tree.name(zoom).slice(0, 80)}`;
    parts.push(note);
  }
  return parts;
}
