// The functions with most samples, as a table.

import { base, count, percent, printable, seconds } from "/assets/format.js";
import { KIND_TEXT } from "/assets/tree.js";

const KIND_CLASS = ["k-root", "k-process", "k-thread", "k-user", "k-unnamed", "k-kernel", "k-cut", "k-pruned"];
const COLUMNS = [
  { key: "own", title: "Self", help: "Samples whose innermost function is this one" },
  { key: "total", title: "Total", help: "Samples with this function anywhere in the stack" },
  { key: "name", title: "Function" },
  { key: "binary", title: "Binary" },
];

function element(tag, properties = {}, ...children) {
  const made = Object.assign(document.createElement(tag), properties);
  made.append(...children);
  return made;
}

export class TopTable {
  /** `onPick` hears the name of a function that someone clicked. */
  constructor(host, onPick) {
    this.host = host;
    this.onPick = onPick;
    this.order = "own";
    this.rows = [];
    this.test = null;
  }

  /** `flame` is the answer of /api/flame. */
  load(flame) {
    const { top, strings, samples } = flame.tree;
    this.samples = samples;
    this.secondsPerSample = flame.period_ns / 1e9;
    this.leftOut = flame.tree.left_out_functions;
    this.rows = top.name.map((name, i) => ({
      name: printable(strings[name]),
      binary: printable(strings[top.binary[i]]),
      kind: top.kind[i],
      own: top.self[i],
      total: top.total[i],
    }));
    // Bars are drawn against the longest of their column.
    this.most = { own: Math.max(1, ...top.self), total: Math.max(1, ...top.total) };
    this.draw();
  }

  /** Shows only rows whose name or file passes; all, where `test` is null. */
  filter(test) {
    this.test = test;
    this.draw();
  }

  draw() {
    if (this.host.hidden) return;
    const by = this.order;
    const numeric = by === "own" || by === "total";
    const rows = this.rows.filter((row) => !this.test || this.test(row.name) || this.test(row.binary));
    rows.sort((a, b) => (numeric ? b[by] - a[by] : a[by] < b[by] ? -1 : a[by] > b[by] ? 1 : 0) || b.own - a.own);
    const head = element("tr", {}, ...COLUMNS.map((column) => this.heading(column)));
    const body = element("tbody", {}, ...rows.map((row) => this.row(row)));
    const table = element("table", {}, element("thead", {}, head), body);
    const parts = [table];
    if (rows.length === 0) parts.push(element("p", { className: "note", textContent: "No function matches." }));
    else if (this.leftOut > 0) {
      parts.push(element("p", { className: "note", textContent: `${count(this.leftOut)} smaller functions are not listed.` }));
    }
    this.host.replaceChildren(...parts);
  }

  heading(column) {
    const button = element("button", { type: "button", textContent: column.title, title: column.help ?? "" });
    button.addEventListener("click", () => {
      this.order = column.key;
      this.draw();
    });
    const cell = element("th", { scope: "col", className: column.key }, button);
    if (this.order === column.key) cell.setAttribute("aria-sort", column.key === "name" || column.key === "binary" ? "ascending" : "descending");
    return cell;
  }

  row(row) {
    const name = element("button", { type: "button", className: "link", textContent: row.name, title: row.name });
    name.addEventListener("click", () => this.onPick(row.name));
    const dot = element("span", { className: `swatch ${KIND_CLASS[row.kind]} s2`, title: KIND_TEXT[row.kind] });
    const tr = element(
      "tr",
      {},
      this.amount("own", row.own),
      this.amount("total", row.total),
      element("td", { className: "name" }, element("div", { className: "with-dot" }, dot, name)),
      element("td", { className: "binary", textContent: base(row.binary), title: row.binary }),
    );
    Object.assign(tr.dataset, { name: row.name, self: row.own, total: row.total });
    return tr;
  }

  amount(className, samples) {
    const share = this.samples ? samples / this.samples : 0;
    const bar = element("span", { className: "meter" });
    bar.style.setProperty("--share", `${(samples / this.most[className]) * 100}%`);
    const text = element("span", { className: "figure", textContent: percent(share) });
    const cell = element("td", { className, title: `${count(samples)} samples, ${seconds(samples * this.secondsPerSample)} CPU` });
    cell.append(element("div", { className: "amount" }, text, bar));
    return cell;
  }
}
