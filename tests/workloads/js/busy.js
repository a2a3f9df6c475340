// busy.js SECONDS: what programs for node do: objects, JSON, regular expressions, sorting, closures, a little recursion.
'use strict';

function makeRows(n) {
  const rows = [];
  for (let i = 0; i < n; i++) {
    rows.push({ id: i, name: `row-${(i * 7919) % 1009}`, values: Array.from({ length: 8 }, (_, k) => (i * k) % 97) });
  }
  return rows;
}

function depth(node, n) {
  return n === 0 ? node.length : depth(`${node}${n % 10}`, n - 1) + 1;
}

function round(n) {
  const rows = makeRows(300);
  const text = JSON.stringify(rows);
  const back = JSON.parse(text);
  back.sort((a, b) => (a.name < b.name ? -1 : a.name > b.name ? 1 : a.id - b.id));
  const found = (text.match(/row-[0-9]+1/g) || []).length;
  const sums = back.map((row) => row.values.reduce((a, b) => a + b, 0));
  return found + sums[n % sums.length] + depth('', 60);
}

const end = Date.now() + 1000 * Number(process.argv[2] || 10);
let sum = 0;
for (let n = 0; Date.now() < end; n++) sum += round(n);
console.log(sum);
