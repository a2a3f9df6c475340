// Numbers, times and names as people read them. Pure functions.

const INVISIBLE = /[\u0000-\u001f\u007f-\u009f\u00ad\u061c\u200b-\u200f\u2028-\u202e\u2060-\u206f\ufeff\ufff9-\ufffb]/g;
const ESCAPES = { "\n": "\\n", "\r": "\\r", "\t": "\\t" };

/** A name with every character that is invisible, or reorders its neighbours, written as an escape. */
export function printable(text) {
  return text.replace(INVISIBLE, (c) => ESCAPES[c] ?? `\\u{${c.charCodeAt(0).toString(16)}}`);
}

export function count(n) {
  return n.toLocaleString("en-US");
}

/** A share of 1 as percent, with as many digits as tell something. */
export function percent(share) {
  if (!(share > 0)) return "0 %";
  const p = share * 100;
  if (p < 0.01) return "< 0.01 %";
  return `${p >= 99.95 ? "100" : p >= 10 ? p.toFixed(1) : p.toFixed(2)} %`;
}

export function seconds(s) {
  if (s <= 0) return "0 s";
  if (s < 0.0995) return `${(s * 1000).toFixed(s < 0.00995 ? 1 : 0)} ms`;
  if (s < 9.95) return `${s.toFixed(2)} s`;
  if (s < 120) return `${s.toFixed(1)} s`;
  return `${Math.floor(s / 60)} min ${Math.round(s % 60)} s`;
}

/** The file's name without its directories. */
export function base(path) {
  return path.slice(path.lastIndexOf("/") + 1) || path;
}

/** Local time of day from milliseconds. */
export function clock(ms) {
  return new Date(ms).toLocaleTimeString("en-GB");
}

/** Milliseconds from nanoseconds written as text. */
export function milliseconds(ns) {
  return Number(BigInt(ns) / 1000000n);
}

/** A small number that depends on nothing but the text. */
export function hash(text) {
  let h = 2166136261;
  for (let i = 0; i < text.length; i++) h = Math.imul(h ^ text.charCodeAt(i), 16777619);
  return (h ^ (h >>> 15)) >>> 0;
}
