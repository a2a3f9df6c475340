// The tree as the server tells it, and what can be asked of it. No drawing.

import { printable } from "/assets/format.js";

export const KIND = { ROOT: 0, PROCESS: 1, THREAD: 2, USER: 3, UNNAMED: 4, KERNEL: 5, CUT: 6, PRUNED: 7, CONTAINER: 8, POD: 9, SERVICE: 10 };

export const KIND_TEXT = [
  "everything", "process", "thread", "user code", "user code without a name", "kernel", "cut stack", "too small to show",
  "container", "pod", "service",
];

export class Tree {
  /** `flame` is the answer of /api/flame. Nodes are numbered in preorder; 0 is the root. */
  constructor(flame) {
    const { nodes, strings } = flame.tree;
    this.samples = flame.tree.samples;
    this.secondsPerSample = flame.period_ns / 1e9;
    this.strings = strings.map(printable);
    this.size = nodes.parent.length;
    this.parent = nodes.parent;
    this.nameIndex = nodes.name;
    this.binaryIndex = nodes.binary;
    this.kind = nodes.kind;
    this.own = nodes.self;
    this.total = nodes.total;
    this.depth = new Uint32Array(this.size);
    /** One behind the last node below each node. */
    this.end = new Uint32Array(this.size);
    /** Samples left of each node. */
    this.left = new Float64Array(this.size);
    const filled = new Float64Array(this.size);
    for (let i = 1; i < this.size; i++) {
      const p = this.parent[i];
      this.depth[i] = this.depth[p] + 1;
      this.left[i] = this.left[p] + filled[p];
      filled[p] += this.total[i];
    }
    for (let i = this.size - 1; i >= 0; i--) {
      if (this.end[i] === 0) this.end[i] = i + 1;
      const p = this.parent[i];
      if (i > 0 && this.end[p] < this.end[i]) this.end[p] = this.end[i];
    }
  }

  name(i) {
    return this.strings[this.nameIndex[i]];
  }

  binary(i) {
    return this.strings[this.binaryIndex[i]];
  }

  /** The nodes from the root down to `i`. */
  path(i) {
    const path = [i];
    while (i > 0) path.push((i = this.parent[i]));
    return path.reverse();
  }

  children(i) {
    const found = [];
    for (let c = i + 1; c < this.end[i]; c = this.end[c]) found.push(c);
    return found;
  }

  /** What tells a node from its siblings, in every tree. */
  key(i) {
    return `${this.kind[i]}\n${this.name(i)}\n${this.binary(i)}`;
  }

  /** The node that a path of keys leads to, as far as it leads. */
  follow(keys) {
    let at = 0;
    for (const key of keys.slice(1)) {
      const next = this.children(at).find((c) => this.key(c) === key);
      if (next === undefined) break;
      at = next;
    }
    return at;
  }

  /**
   * The nodes whose name or file matches: a flag per node, and the samples below any of them, each counted once.
   * `test` says whether a text matches; it is asked once per text.
   */
  search(test) {
    const hit = this.strings.map((text) => text !== "" && test(text));
    const flags = new Uint8Array(this.size);
    let samples = 0;
    let covered = 0;
    for (let i = 1; i < this.size; i++) {
      if (this.kind[i] === KIND.PRUNED) continue;
      const code = this.kind[i] >= KIND.USER && this.kind[i] <= KIND.CUT;
      if (!hit[this.nameIndex[i]] && !(code && hit[this.binaryIndex[i]])) continue;
      flags[i] = 1;
      if (i >= covered) {
        samples += this.total[i];
        covered = this.end[i];
      }
    }
    return { flags, samples };
  }
}

/** A test for texts from what was typed: every word must be in it, or `/a regular expression/`. Null where it is none. */
export function matcher(typed) {
  const expression = typed.match(/^\/(.+)\/$/);
  if (expression) {
    try {
      const regex = new RegExp(expression[1], "i");
      return (text) => regex.test(text);
    } catch {
      return null;
    }
  }
  const words = typed.toLowerCase().split(/\s+/).filter(Boolean);
  return (text) => {
    const lower = text.toLowerCase();
    return words.every((word) => lower.includes(word));
  };
}
