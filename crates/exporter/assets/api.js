// What the server is asked for.

/** An answer that was not the wished one; its message is the server's own text where there is one. */
class Refused extends Error {}

async function get(path, parameters, signal) {
  const query = new URLSearchParams(Object.entries(parameters).filter(([, value]) => value !== "" && value != null));
  const response = await fetch(`${path}?${query}`, { signal, cache: "no-store" });
  if (!response.ok) throw new Refused((await response.text()).trim().slice(0, 500) || `status ${response.status}`);
  return response.json();
}

/** The windows that are kept, oldest first: columns `from_ns`, `to_ns` (texts) and `samples`. */
export function windows(signal) {
  return get("/api/windows", {}, signal);
}

/** The tree of a range; `filter` holds `pid`, `namespace`, `pod`, `container` and `service`, as far as they are chosen. */
export function flame(range, group, filter, signal) {
  return get("/api/flame", { ...range, group, ...filter }, signal);
}

/** Where the range that is shown can be had as a file. */
export function file(name, shown, filter) {
  return `/api/${name}?${new URLSearchParams({ from: shown.from_ns, to: shown.to_ns, ...filter })}`;
}
