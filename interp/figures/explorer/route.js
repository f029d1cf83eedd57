// The route of a pair: embeddings, heads, MLPs and answer as a graph, and what each edge does when it is patched alone.

const BY = { q: "its queries", k: "its keys", v: "its values", mlp: "the MLP's input", answer: "the final norm" };
const LEAST = 0.01;
const route = { shown: false, pair: 0, top: 1, pinned: null, nodes: [], edges: [] };
const pair = () => data.routes.pairs[route.pair];
const headOf = name => /^\((\d+),(\d+)\)$/.exec(name)?.slice(1).map(Number);
const layerOf = name => headOf(name)?.[0] ?? +(/^MLP (\d+)$/.exec(name)?.[1] ?? (name === "answer" ? data.routes.shape[0] : -1));
const nld = value => value === null ? "undefined" : digits(value).replace("-", "−");
const part = share => percent(Math.abs(share) < 0.005 ? 0 : share).replace("-", "−");
const shownPiece = piece => typeof piece === "string" ? piece : element("b", "", piece.bold);
const plainText = pieces => pieces.map(piece => typeof piece === "string" ? piece : piece.bold).join("");
const count = number => number.toLocaleString("en");

/** A pair's graph, list and texts; of another pair as many edges as its route has. */
function openPair(number, top) {
  const most = data.routes.pairs[number].edges.length;
  Object.assign(route, { pair: number, top: Math.min(most, Math.max(1, top ?? data.routes.pairs[number].route.edges)), pinned: null });
  byId("pair-choice").value = number;
  byId("top").max = most;
  byId("tried").replaceChildren(...(pair().route.tried ?? []).filter(n => n <= most).map(n => new Option("", n)));
  showTexts();
  showRoute();
}

function showRoute() {
  byId("top").value = route.top;
  byId("top-n").textContent = `${route.top} of ${pair().edges.length}`;
  tellRoute();
  drawRoute();
  listEdges();
  mark(null);
}

/** How much of the effect the strongest edges keep alone, and what is left without them. */
function tellRoute() {
  const { edges, of, alone, without, tried, kept } = pair().route, patched = pair().edges.length;
  const pieces = [];
  if (alone === null) pieces.push("The embeddings' change has next to no effect on this answer: there is no share to keep. ");
  else {
    pieces.push(Math.abs(alone - 1) > 1 - data.routes.share + 1e-9 ? `No route that keeps ${part(data.routes.share)} was found: the ` : "The route: the ", bold(count(edges)), ` strongest of ${count(of)} edges keep `, bold(part(alone)), " of the effect alone; without them ", bold(part(without)), " is left. ");
    const i = (tried ?? []).findLastIndex(n => n <= route.top);
    if (i >= 0 && tried[i] !== edges) pieces.push(`The first ${tried[i]} alone keep `, bold(part(kept[i])), ". ");
    if (edges > patched) pieces.push(`Only the first ${patched} were patched one by one. `);
  }
  byId("route-said").replaceChildren(...pieces.map(shownPiece));
}

/** Where nodes stand: heads in columns, MLPs in one of their own and a little higher, layers upwards. */
function layout(width, height) {
  const [layers, heads] = data.routes.shape, left = 40, top = 22, bottom = 40;
  const column = (width - left - 54) / (heads + 0.9), row = (height - top - bottom) / (layers + 1);
  const x = head => left + (head + 0.5) * column, y = layer => height - bottom - (layer + 1) * row;
  const middle = x((heads - 1) / 2), mlps = x(heads + 0.4);
  const at = name => {
    const head = headOf(name), layer = layerOf(name);
    if (head) return { x: x(head[1]), y: y(layer) };
    return name.startsWith("MLP") ? { x: mlps, y: y(layer) - 0.35 * row } : { x: middle, y: y(layer) };
  };
  return { x, y, at, column, row, mlps };
}

function drawRoute() {
  const svg = byId("graph"), { width, height } = svg.getBoundingClientRect();
  if (!width) return;
  const [layers, heads] = data.routes.shape, place = layout(width, height), shown = pair().edges.slice(0, route.top);
  const names = [...new Set(shown.flatMap(edge => [edge.from, edge.to]))].sort((a, b) => layerOf(a) - layerOf(b) || place.at(a).x - place.at(b).x);
  svg.setAttribute("viewBox", `0 0 ${width} ${height}`);
  const below = drawn("g", { class: "axes", "aria-hidden": true }), every = (n, room) => Math.max(1, Math.ceil(n / Math.max(1, room)));
  for (let layer = 0; layer < layers; layer += every(layers, height / 22)) below.append(word(layer, 8, place.y(layer) + 4));
  for (let head = 0; head < heads; head += every(heads, width / 34)) below.append(word(head, place.x(head), height - 8, "middle"));
  below.append(word("layer", 2, 14), word("head", 2, height - 8), word("MLP", place.mlps, height - 8, "middle"));
  let dots = "";
  for (let layer = 0; layer < layers; layer++) {
    for (let head = 0; head < heads; head++) dots += `M${place.x(head)} ${place.y(layer)}h0`;
    dots += `M${place.mlps} ${place.at(`MLP ${layer}`).y}h0`;
  }
  below.append(drawn("path", { class: "dots", d: dots }));
  const size = Math.max(3, Math.min(6, 0.3 * place.column, 0.34 * place.row));
  route.edges = shown.map((edge, i) => drawEdge(edge, i, place.at(edge.from), place.at(edge.to), size));
  route.nodes = names.map((name, i) => drawNode(name, i, place.at(name), size, names.length));
  // Weak edges lie below strong ones.
  svg.replaceChildren(below, ...[...route.edges].reverse(), ...route.nodes);
}

const word = (text, x, y, anchor = "start") => Object.assign(drawn("text", { x, y, "text-anchor": anchor }), { textContent: text });

/** A bow from its sender to its receiver: by q and k to either side, so that the three ways into a head are told apart. */
function drawEdge(edge, number, from, to, size) {
  const dx = to.x - from.x, dy = to.y - from.y, length = Math.hypot(dx, dy) || 1;
  const bend = Math.abs(dx) < 1 ? 0.16 : { q: -0.1, k: 0.1, v: 0.03, mlp: 0.03, answer: 0.03 }[edge.by];
  const over = { x: from.x + dx / 2 + dy * bend, y: from.y + dy / 2 - dx * bend };
  const ax = to.x - over.x, ay = to.y - over.y, a = Math.hypot(ax, ay) || 1, [ux, uy] = [ax / a, ay / a];
  const value = Math.min(1, Math.abs(edge.value ?? 0)), width = 0.8 + 5 * value, tip = 5 + width;
  const end = { x: to.x - ux * (size + 1), y: to.y - uy * (size + 1) }, neck = { x: end.x - ux * tip, y: end.y - uy * tip };
  const d = `M${from.x} ${from.y}Q${over.x} ${over.y} ${neck.x} ${neck.y}`, half = tip / 2;
  const made = drawn("g", { class: `edge${value < LEAST ? " weak" : ""}`, "data-by": edge.by, "data-e": number, "aria-hidden": true });
  const line = drawn("path", { class: "line", d, "stroke-width": width });
  if (edge.value < 0) line.setAttribute("stroke-dasharray", "5 3");
  const corners = [[end.x, end.y], [neck.x - uy * half, neck.y + ux * half], [neck.x + uy * half, neck.y - ux * half]];
  made.append(drawn("path", { class: "hit", d }), line, drawn("polygon", { points: corners.map(one => one.join()).join(" ") }));
  made.addEventListener("mouseenter", () => mark({ edge: number }));
  made.addEventListener("mouseleave", () => mark(null));
  made.addEventListener("click", () => pin({ edge: number }));
  return made;
}

/** A node; filled where its map of attention is kept, ringed where it is a Reasoning-Focus Head. */
function drawNode(name, number, at, size, n) {
  const head = headOf(name), kept = mapOf(name) >= 0;
  const made = drawn("g", { class: `node${kept ? " kept" : ""}`, role: "button", tabindex: number ? -1 : 0, "aria-label": plainText(tellNode(name)), "data-node": name });
  if (head && data.routes.rfhs.some(one => one.join() === head.join())) made.append(drawn("circle", { class: "rfh", cx: at.x, cy: at.y, r: size + 3.5 }));
  made.append(drawn("circle", { class: "hit", cx: at.x, cy: at.y, r: size + 5 }), drawn("circle", { class: "dot", cx: at.x, cy: at.y, r: size }));
  if (!head && !name.startsWith("MLP")) made.append(word(name, at.x + size + 6, name === "answer" ? at.y - 4 : at.y + 12));
  else if (!head) made.append(word(name, at.x + size + 4, at.y + 4));
  else if (n <= 24) made.append(word(name, at.x - size - 4, at.y + 4, "end"));
  made.addEventListener("mouseenter", () => mark({ node: name }));
  made.addEventListener("mouseleave", () => mark(null));
  made.addEventListener("focus", () => mark({ node: name }));
  made.addEventListener("blur", () => mark(null));
  made.addEventListener("click", () => chooseNode(name));
  return made;
}

function listEdges() {
  byId("edges").replaceChildren(...pair().edges.slice(0, route.top).map((edge, i) => {
    const item = element("li"), button = element("button");
    button.dataset.by = edge.by;
    button.type = "button";
    button.tabIndex = i ? -1 : 0;
    button.dataset.e = i;
    button.append(element("span", "swatch"), element("span", "word", `${edge.from} → ${edge.to}`), element("span", "at", edge.by === "answer" || edge.by === "mlp" ? "" : `by ${edge.by}`), element("span", "", nld(edge.value)));
    button.setAttribute("aria-label", plainText(tellEdge(i)));
    button.addEventListener("mouseenter", () => mark({ edge: i }));
    button.addEventListener("mouseleave", () => mark(null));
    button.addEventListener("focus", () => mark({ edge: i }));
    button.addEventListener("blur", () => mark(null));
    button.addEventListener("click", () => pin({ edge: i }));
    item.append(button);
    return item;
  }));
}

function tellEdge(i) {
  const edge = pair().edges[i], [layer] = headOf(edge.to) ?? [];
  const through = edge.readers === null ? BY[edge.by] : `the ${edge.by === "k" ? "keys" : "values"} of key-value head (${layer},${edge.kv}), which query heads ${edge.readers.join(" to ")} read`;
  return [{ bold: `${edge.from} → ${edge.to}` }, ` through ${through}. NLD `, { bold: nld(edge.value) }, ` patched alone, estimate ${nld(edge.estimate)}; number ${i + 1} of ${count(pair().route.of)} by its estimate.`];
}

const SOME = 4;
function tellNode(name) {
  const shown = pair().edges.slice(0, route.top), pieces = [{ bold: headOf(name) ? `head ${name}` : name }];
  const some = (edges, end) => {
    const first = [...edges].sort((a, b) => Math.abs(b.value ?? 0) - Math.abs(a.value ?? 0)).slice(0, SOME);
    const said = first.map(edge => `${edge[end]}${["q", "k", "v"].includes(edge.by) ? ` by ${edge.by}` : ""} ${nld(edge.value)}`).join(", ");
    return edges.length > SOME ? `${said} and ${edges.length - SOME} more` : said;
  };
  const [incoming, outgoing] = [shown.filter(edge => edge.to === name), shown.filter(edge => edge.from === name)];
  if (incoming.length) pieces.push(`; from ${some(incoming, "from")}`);
  if (outgoing.length) pieces.push(`; to ${some(outgoing, "to")}`);
  pieces.push(".");
  if (headOf(name) && data.traces.length) pieces.push(mapOf(name) < 0 ? " Its map of attention was not kept." : mapOf(name) === state.map ? " The text shows where it looks." : " A click shows where it looks in the text.");
  return pieces;
}

const mapOf = name => data.maps.findIndex(map => map.layer !== undefined && `(${map.layer},${map.head})` === name);

/** Shows an edge, or a node with its edges, before all others, in the graph, in the list and in words. */
function mark(one) {
  const wanted = one ?? route.pinned, edges = pair().edges;
  const on = i => wanted === null || wanted.edge === i || edges[i].from === wanted.node || edges[i].to === wanted.node;
  byId("graph").classList.toggle("some", wanted !== null);
  for (const made of [...route.edges, ...byId("edges").querySelectorAll("button")]) made.classList.toggle("on", wanted !== null && on(+made.dataset.e));
  const ends = new Set(wanted === null ? [] : edges.slice(0, route.top).filter((_, i) => on(i)).flatMap(edge => [edge.from, edge.to]));
  for (const made of route.nodes) made.classList.toggle("on", ends.has(made.dataset.node));
  const said = wanted === null ? ["Point at an edge or a node, or walk with the arrow keys: what it does, and from where to where."] : wanted.node === undefined ? tellEdge(wanted.edge) : tellNode(wanted.node);
  byId("edge-said").replaceChildren(...said.map(shownPiece));
}

/** Keeps an edge or node before the others; the same one again lets it go. */
function pin(one) {
  const same = route.pinned && route.pinned.edge === one.edge && route.pinned.node === one.node;
  route.pinned = same ? null : one;
  mark(one);
}

function chooseNode(name) {
  pin({ node: name });
  if (!data.traces.length || mapOf(name) < 0) return;
  state.map = mapOf(name);
  show({ map: true });
  mark({ node: name });
}

function walkGraph(event) {
  const at = route.nodes.findIndex(node => node === event.target), name = event.target.dataset.node;
  if (at < 0) return;
  const strongest = (end, other) => pair().edges.slice(0, route.top).filter(edge => edge[end] === name).sort((a, b) => Math.abs(b.value ?? 0) - Math.abs(a.value ?? 0))[0]?.[other];
  const steps = { ArrowRight: at + 1, ArrowLeft: at - 1, ArrowUp: strongest("from", "to"), ArrowDown: strongest("to", "from") };
  if (event.key === "Enter" || event.key === " ") chooseNode(name);
  else if (event.key in steps) focusNode(typeof steps[event.key] === "number" ? route.nodes[steps[event.key]] : route.nodes.find(node => node.dataset.node === steps[event.key]));
  else return;
  event.preventDefault();
  event.stopPropagation();
}

function focusNode(node) {
  if (!node) return;
  for (const one of route.nodes) one.setAttribute("tabindex", one === node ? 0 : -1);
  node.focus();
}

function walkList(event) {
  const by = { ArrowDown: 1, ArrowUp: -1 }[event.key], item = event.target.closest("li");
  if (by === undefined || !item) return;
  event.preventDefault();
  event.stopPropagation();
  const next = (by > 0 ? item.nextElementSibling : item.previousElementSibling)?.querySelector("button");
  if (!next) return;
  event.target.tabIndex = -1;
  next.tabIndex = 0;
  next.focus();
}

/** Both texts of the pair; what differs is marked. */
function showTexts() {
  const { name, domain, answers, clean, corrupted } = pair(), made = [];
  for (const [side, pieces, answer, hue] of [["clean", clean, answers[0], "blue"], ["corrupted", corrupted, answers[1], "orange"]]) {
    const column = element("div", `side ${hue}`);
    column.append(element("h2", "", answer === null ? side : `${side}, answer “${oneLine(answer)}”`));
    let body = null, last = null;
    for (const [where, differs, words] of pieces) {
      if (where !== last) column.append(element("h3", "", where), body = element("p"));
      last = where;
      body.append(differs ? element("mark", "", words) : words);
    }
    made.push(column);
  }
  byId("pair-name").textContent = `Pair ${name} (${domain}): the corrupted run takes the clean run's embeddings from the reasoning on, where both are aligned.`;
  byId("pair-sides").replaceChildren(...made);
}

function showView(shown) {
  route.shown = shown;
  document.body.classList.toggle("route", shown);
  byId("route").hidden = byId("pair").hidden = !shown;
  byId("route-view")?.setAttribute("aria-pressed", String(shown));
  if (shown) showRoute();
}

const routeAddress = () => route.shown ? `route=${route.pair}&top=${route.top}` : "";

/** The pair and number of edges that an address names; a wrong one is not obeyed. */
function readRoute(number) {
  const asked = number("route", data.routes.pairs.length), top = number("top", 1e6);
  if (asked !== null || !data.traces.length) openPair(asked ?? 0, top ?? undefined);
  showView(asked !== null || !data.traces.length);
}

function startRoute() {
  const { pairs, left_out } = data.routes;
  byId("pair-choice").append(...pairs.map((one, i) => new Option(`${i}: ${one.name}`, i)));
  byId("pair-more").textContent = left_out ? `${left_out} more pairs would have made this page too large.` : "";
  byId("pair-choice").addEventListener("change", event => { openPair(+event.target.value); writeAddress(); });
  byId("top").addEventListener("input", event => { Object.assign(route, { top: +event.target.value, pinned: null }); showRoute(); writeAddress(); });
  byId("route-view")?.addEventListener("click", () => { showView(!route.shown); if (text) redraw(); writeAddress(); });
  byId("graph").addEventListener("keydown", walkGraph);
  byId("edges").addEventListener("keydown", walkList);
  openPair(0);
}
