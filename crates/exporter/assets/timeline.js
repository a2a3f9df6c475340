// A bar per window over the last minutes; a click chooses one, a drag several.

import { clock, count, milliseconds } from "/assets/format.js";

const LEAST_SPAN_MS = 3 * 60 * 1000; // The axis grows with what is kept, from this on.

export class Timeline {
  /** `onChoose` hears the first and the last window's number. */
  constructor(element, axis, onChoose) {
    this.element = element;
    this.axis = axis;
    this.onChoose = onChoose;
    this.windows = [];
    this.shown = null;
    this.dragging = null;
    element.addEventListener("pointerdown", (e) => this.press(e));
    element.addEventListener("pointermove", (e) => this.dragging && this.drag(e));
    element.addEventListener("pointerup", (e) => this.release(e));
    element.addEventListener("pointercancel", () => this.cancel());
    element.addEventListener("keydown", (e) => this.key(e));
  }

  /** `windows` is the answer of /api/windows; `shown` the range that is drawn, as texts of nanoseconds. */
  draw(windows, shown) {
    this.shown = shown;
    this.windows = windows.from_ns.map((from, i) => ({
      from: milliseconds(from),
      to: milliseconds(windows.to_ns[i]),
      samples: windows.samples[i],
    }));
    const end = this.windows.at(-1)?.to ?? 0;
    this.start = Math.min(end - LEAST_SPAN_MS, this.windows[0]?.from ?? 0);
    this.end = end;
    const most = Math.max(1, ...windows.samples);
    while (this.element.childElementCount > this.windows.length) this.element.lastElementChild.remove();
    while (this.element.childElementCount < this.windows.length) this.element.append(document.createElement("div"));
    this.windows.forEach((window, i) => {
      const bar = this.element.children[i];
      bar.className = "bar";
      bar.style.left = `${this.position(window.from)}%`;
      bar.style.width = `${this.position(window.to) - this.position(window.from)}%`;
      bar.style.setProperty("--height", `${Math.max(4, (window.samples / most) * 100)}%`);
      bar.title = `${clock(window.from)} – ${clock(window.to)}: ${count(window.samples)} samples`;
      bar.dataset.samples = String(window.samples);
    });
    this.mark();
    this.ticks();
  }

  position(ms) {
    return this.end > this.start ? ((ms - this.start) / (this.end - this.start)) * 100 : 0;
  }

  mark() {
    let [first, last] = [-1, -2];
    if (this.dragging) {
      [first, last] = [this.dragging.first, this.dragging.last].sort((a, b) => a - b);
    } else if (this.shown) {
      const [from, to] = [milliseconds(this.shown.from_ns), milliseconds(this.shown.to_ns)];
      const inside = (w) => w.from >= from && w.to <= to;
      first = this.windows.findIndex(inside);
      last = this.windows.findLastIndex(inside);
    }
    this.chosen = [first, last];
    [...this.element.children].forEach((bar, i) => bar.classList.toggle("in", i >= first && i <= last));
  }

  ticks() {
    this.axis.replaceChildren();
    if (this.windows.length === 0) return;
    const steps = 5;
    for (let i = 0; i <= steps; i++) {
      const tick = document.createElement("span");
      tick.textContent = clock(this.start + ((this.end - this.start) * i) / steps);
      this.axis.append(tick);
    }
  }

  /** The number of the window under the pointer, or the nearest. */
  under(event) {
    const box = this.element.getBoundingClientRect();
    const ms = this.start + ((event.clientX - box.left) / box.width) * (this.end - this.start);
    const found = this.windows.findIndex((w) => ms < w.to);
    return found < 0 ? this.windows.length - 1 : found;
  }

  press(event) {
    if (this.windows.length === 0 || event.button !== 0) return;
    this.element.setPointerCapture(event.pointerId);
    const at = this.under(event);
    this.dragging = { first: at, last: at };
    this.mark();
  }

  drag(event) {
    this.dragging.last = this.under(event);
    this.mark();
  }

  release(event) {
    if (!this.dragging) return;
    this.drag(event);
    const [first, last] = this.chosen;
    this.dragging = null;
    this.onChoose(first, last);
  }

  cancel() {
    this.dragging = null;
    this.mark();
  }

  key(event) {
    const step = { ArrowLeft: -1, ArrowRight: 1 }[event.key];
    if (!step || this.windows.length === 0) return;
    event.preventDefault();
    let [first, last] = this.chosen[0] < 0 ? [this.windows.length, this.windows.length] : this.chosen;
    const clamp = (i) => Math.max(0, Math.min(this.windows.length - 1, i));
    if (event.shiftKey) {
      if (step < 0) first = clamp(first - 1);
      else last = clamp(last + 1);
    } else {
      first = last = clamp(step < 0 ? first - 1 : last + 1);
    }
    this.onChoose(first, last);
  }
}
