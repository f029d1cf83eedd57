// What packing.py packed, and the questions that the page asks of it.

/** The bytes behind base64 of a zlib stream. */
async function inflate(text) {
  const coded = atob(text);
  const bytes = new Uint8Array(coded.length);
  for (let i = 0; i < coded.length; i++) bytes[i] = coded.charCodeAt(i);
  const stream = new Blob([bytes]).stream().pipeThrough(new DecompressionStream("deflate"));
  return new Uint8Array(await new Response(stream).arrayBuffer());
}

/** A number of half precision; none is negative. */
function half(bits) {
  const exponent = bits >> 10 & 31, fraction = bits & 1023;
  return exponent ? (1 + fraction / 1024) * 2 ** (exponent - 15) : fraction / 1024 * 2 ** -14;
}

/** For each map: entries first[p] .. first[p + 1] - 1 are position p's keys and weights; received[p] comes from later ones. */
function unpack(bytes, n, nMaps) {
  let total = 0;
  for (let i = 0; i < n * nMaps; i++) total += bytes[i];
  let at = n * nMaps;
  const part = size => bytes.subarray(at, at += size);
  const low = part(total), high = part(total), codes = part(total), halves = part(2 * n * nMaps);
  const maps = [];
  for (let m = 0, entry = 0; m < nMaps; m++) {
    const first = new Uint32Array(n + 1), received = new Float32Array(n);
    for (let p = 0; p < n; p++) {
      first[p + 1] = first[p] + bytes[m * n + p];
      received[p] = half(halves[2 * (m * n + p)] | halves[2 * (m * n + p) + 1] << 8);
    }
    const keys = new Uint16Array(first[n]), weights = new Float32Array(first[n]);
    for (let p = 0; p < n; p++)
      for (let e = first[p], key = 0; e < first[p + 1]; e++, entry++) {
        keys[e] = key += low[entry] | high[entry] << 8;
        weights[e] = (codes[entry] / 255) ** 2;
      }
    maps.push({ n, first, keys, weights, received });
  }
  return maps;
}

/** The same entries by key: who looks at it. */
function byKey(map) {
  if (map.later) return map.later;
  const first = new Uint32Array(map.n + 1), queries = new Uint16Array(map.keys.length), weights = new Float32Array(map.keys.length);
  for (const key of map.keys) first[key + 1]++;
  for (let k = 0; k < map.n; k++) first[k + 1] += first[k];
  const next = first.slice();
  for (let q = 0; q < map.n; q++)
    for (let e = map.first[q]; e < map.first[q + 1]; e++) {
      const place = next[map.keys[e]]++;
      queries[place] = q;
      weights[place] = map.weights[e];
    }
  return map.later = { first, queries, weights };
}

/**
 * The attention of tokens start .. end - 1. `back[k]`: what one of them gives to position k before them, in the mean;
 * `ahead[q]`: what position q behind them gives to all of them; `inside`: what they give to one another, in the mean;
 * `kept`: how much of their rows is known, `keptAhead`: how much of what they receive from later positions.
 */
function look(map, start, end) {
  const back = new Float32Array(map.n), ahead = new Float32Array(map.n), later = byKey(map);
  let inside = 0, kept = 0, seen = 0, received = 0;
  for (let q = start; q < end; q++)
    for (let e = map.first[q]; e < map.first[q + 1]; e++) {
      const weight = map.weights[e] / (end - start);
      kept += weight;
      if (map.keys[e] < start) back[map.keys[e]] += weight;
      else inside += weight;
    }
  for (let k = start; k < end; k++) {
    received += map.received[k];
    for (let e = later.first[k]; e < later.first[k + 1]; e++) {
      const q = later.queries[e];
      if (q > k) seen += later.weights[e];
      if (q >= end) ahead[q] += later.weights[e];
    }
  }
  return { back, ahead, inside, kept: Math.min(1, kept), received, keptAhead: received > 1e-6 ? Math.min(1, seen / received) : 1 };
}

/** The n largest places of some weights, largest first. */
function largest(values, n) {
  const found = [];
  for (let i = 0; i < values.length; i++) {
    if (values[i] <= 0 || found.length === n && values[i] <= values[found[n - 1]]) continue;
    let place = found.length;
    while (place && values[found[place - 1]] < values[i]) place--;
    found.splice(place, 0, i);
    found.length = Math.min(n, found.length);
  }
  return found;
}
