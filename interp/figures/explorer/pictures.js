// The curves along the text, the layer x head map and the map of queries and keys.

const CURVES = [["waad", "WAAD", "purple"], ["fai_to_end", "FAI", "blue"], ["entropy", "entropy", "red"]];

/** A canvas as sharp as the screen, and its size in CSS pixels. */
function fitted(canvas) {
  const { width, height } = canvas.getBoundingClientRect(), ratio = window.devicePixelRatio || 1;
  canvas.width = Math.max(1, Math.round(width * ratio));
  canvas.height = Math.max(1, Math.round(height * ratio));
  const pen = canvas.getContext("2d");
  pen.scale(ratio, ratio);
  return { pen, width, height };
}

function drawCurves(trace) {
  const box = byId("curves");
  box.hidden = !trace.curves;
  if (!trace.curves) return;
  const { pen, width, height } = fitted(box.querySelector("canvas")), rows = height / CURVES.length, n = trace.tokens.length;
  const x = position => (position + 0.5) / n * width;
  pen.font = "11px system-ui, sans-serif";
  CURVES.forEach(([key, name, hue], i) => {
    const values = trace.curves[key], known = values.filter(value => value !== null);
    const low = Math.min(...known), high = Math.max(...known), base = (i + 1) * rows - 3;
    const y = value => base - (value - low) / (high - low || 1) * (rows - 9);
    pen.strokeStyle = pen.fillStyle = colour(hue);
    pen.lineWidth = 1.2;
    pen.beginPath();
    let drawing = false;
    values.forEach((value, k) => {
      if (value === null) drawing = false;
      else if (drawing) pen.lineTo(x(trace.curves.start + k), y(value));
      else pen.moveTo(x(trace.curves.start + k), y(value)), drawing = true;
    });
    pen.stroke();
    for (const peak of trace.curves.peaks[key] ?? []) {
      const value = values[peak - trace.curves.start];
      if (value === null || value === undefined) continue;
      pen.beginPath();
      pen.arc(x(peak), y(value), 2.6, 0, 7);
      pen.fill();
    }
    pen.fillStyle = colour("ink");
    pen.fillText(`${name} ${digits(low)} to ${digits(high)}`, 4, i * rows + 12);
    pen.fillStyle = colour("line");
    pen.fillRect(0, (i + 1) * rows - 1, width, 1);
  });
}

/** What the curves say of a position. */
function curveValues(trace, position) {
  const k = position - trace.curves.start;
  const said = CURVES.map(([key, name]) => [name, trace.curves[key][k], trace.curves.peaks[key]?.includes(position)]);
  const known = said.filter(([, value]) => value !== null && value !== undefined);
  return `${position} ${label(trace.tokens[position])}  ` + known.map(([name, value, peak]) => `${name} ${digits(value)}${peak ? " (peak)" : ""}`).join(", ");
}

/** Layers go upwards, as in the figures. */
function drawMasses(masses, colours, maps, choose) {
  const box = byId("masses"), { pen, width, height } = fitted(box.querySelector("canvas"));
  const layers = masses.length, heads = masses[0].length, top = Math.max(1e-9, ...masses.flat().map(value => value ?? 0));
  const w = width / heads, h = height / layers;
  masses.forEach((row, layer) => row.forEach((value, head) => {
    pen.fillStyle = value === null ? colour("line") : colours[Math.round(value / top * (colours.length - 1))];
    pen.fillRect(head * w, (layers - 1 - layer) * h, w + 0.5, h + 0.5);
  }));
  box.querySelectorAll("button").forEach(button => button.remove());
  maps.forEach((map, i) => {
    if (map.layer === undefined) return;
    const button = element("button"), mass = masses[map.layer][map.head];
    button.type = "button";
    button.dataset.map = i;
    button.title = `${map.name}: ${mass === null ? "undefined" : digits(mass)}`;
    button.setAttribute("aria-label", button.title);
    Object.assign(button.style, { left: `${map.head * w}px`, top: `${(layers - 1 - map.layer) * h}px`, width: `${w}px`, height: `${h}px` });
    button.addEventListener("click", () => choose(i));
    box.append(button);
  });
  byId("masses-title").title = `mean mass, 0 (dark) to ${digits(top)} (light); framed: heads that can be chosen`;
}

const CELLS = 200;
/** The largest kept weight in each cell of queries and keys, square root. */
function drawDiagonal(map, colours, segments) {
  const canvas = byId("diagonal").querySelector("canvas"), { pen, width, height } = fitted(canvas), n = map.n, size = Math.min(n, CELLS);
  const cells = new Float32Array(size * size);
  let top = 0;
  for (let q = 0; q < n; q++)
    for (let e = map.first[q], row = Math.floor(q * size / n) * size; e < map.first[q + 1]; e++) {
      const cell = row + Math.floor(map.keys[e] * size / n);
      if (map.weights[e] > cells[cell]) cells[cell] = map.weights[e];
      if (map.keys[e] > 0 && map.weights[e] > top) top = map.weights[e];
    }
  const image = new ImageData(size, size), table = colours.map(rgb);
  for (let i = 0; i < cells.length; i++) {
    const key = i % size, row = Math.floor(i / size);
    if (key > row) continue;
    image.data.set([...table[Math.round(Math.sqrt(Math.min(1, cells[i] / (top || 1))) * (table.length - 1))], 255], 4 * i);
  }
  const small = new OffscreenCanvas(size, size);
  small.getContext("2d").putImageData(image, 0, 0);
  pen.imageSmoothingEnabled = false;
  pen.drawImage(small, 0, 0, width, height);
  pen.strokeStyle = colour("dim");
  pen.setLineDash([2, 2]);
  for (const [name, start] of segments) {
    if (!["reasoning", "answer"].includes(name)) continue;
    const at = start / n;
    pen.beginPath();
    pen.moveTo(0, at * height);
    pen.lineTo(at * width, at * height);
    pen.lineTo(at * width, height);
    pen.stroke();
  }
}

/** Lines through the chosen queries (row) and keys (column). */
function markDiagonal(n, start, end) {
  const box = byId("diagonal"), share = position => `${100 * position / n}%`;
  Object.assign(box.querySelector(".row").style, { top: share(start), height: share(end - start), visibility: "visible" });
  Object.assign(box.querySelector(".column").style, { left: share(start), width: share(end - start), visibility: "visible" });
}
