// What is chosen, and what happens when that changes.

const data = JSON.parse(byId("data").textContent);
const state = { trace: 0, map: 0, kind: "final", at: 0, mark: null };
let text, maps, seen, ramps, marks = {}, hovered = null;
const unpacked = new Map(), painted = [], outlined = [];
const trace = () => data.traces[state.trace];

/** The tokens that are chosen, end exclusive. */
function range() {
  if (state.kind === "token") return [state.at, state.at + 1];
  return state.kind === "sentence" ? trace().sentences[state.at] : trace().final;
}

async function show(changed) {
  if (changed.trace) {
    const wanted = state.trace;
    document.documentElement.dataset.ready = "";
    if (!unpacked.has(wanted)) unpacked.set(wanted, unpack(await inflate(data.traces[wanted].attention), data.traces[wanted].tokens.length, data.maps.length));
    if (wanted !== state.trace) return;
    maps = unpacked.get(wanted);
    painted.length = outlined.length = 0;
    hovered = null;
    text = renderText(trace());
    byId("fold").setAttribute("aria-pressed", "false");
    marks = strengths(trace());
    offerMarks();
    tellAnswer();
    byId("notes").replaceChildren(...trace().notes.map(note => element("li", "", note)));
    byId("causes").hidden = !trace().measured.length && !trace().notes.length;
    drawCurves(trace());
  }
  if (changed.trace || changed.mark) paintMarks();
  if (changed.trace || changed.map) drawDiagonal(maps[state.map], data.sequential, trace().segments);
  showChoice();
  byId("trace").value = state.trace;
  byId("map").value = state.map;
  document.querySelectorAll("#masses button").forEach(one => one.setAttribute("aria-pressed", String(+one.dataset.map === state.map)));
  writeAddress();
  document.documentElement.dataset.ready = `${state.trace}`;
}

function showChoice() {
  const [start, end] = range();
  seen = look(maps[state.map], start, end);
  paintText(text, trace(), seen, start, end, painted, ramps);
  for (const one of outlined) one.classList.remove("q");
  outlined.length = 0;
  const chosen = state.kind === "sentence" ? [text.sentences[state.at].number] : text.tokens.slice(start, end);
  for (const one of chosen) one.classList.add("q"), outlined.push(one);
  markDiagonal(trace().tokens.length, start, end);
  list("back", seen.back);
  list("ahead", seen.ahead);
  tell(start, end);
  byId("effects").replaceChildren(...tellCauses(trace(), start, end, state.kind === "token"));
}

/** What is chosen, in words. */
function tell(start, end) {
  const segment = trace().segments.find(([, from, to]) => start >= from && start < to)?.[0] ?? "";
  const what = { token: `token ${start}`, sentence: `sentence ${state.at}`, final: end - start > 1 ? `what writes the final answer, tokens ${start} to ${end - 1}` : `what writes the final answer, token ${start}` }[state.kind];
  const first = element("p"), words = trace().tokens.slice(start, end).join("");
  const shown = end - start > 1 ? oneLine(words) : label(words);
  first.append(element("b", "", `“${shown.slice(0, 90)}”`), ` · ${what}, ${segment}`);
  const sink = seen.back[0], more = element("p", "", `${data.maps[state.map].name}: ${percent(sink)} on the first token, ${percent(seen.inside)} ${end - start > 1 ? "within" : "on itself"}.`);
  const rest = element("p", "quiet", `Kept: ${percent(seen.kept)} of where it looks, ` + (seen.received < 0.001 ? "and it gets next to nothing from later tokens" : `${percent(seen.keptAhead)} of the ${digits(seen.received)} that it gets from later tokens`) + "; the rest lies in smaller weights.");
  byId("said").replaceChildren(first, more, rest);
}

function list(id, weights) {
  const places = largest(id === "back" ? weights.map((weight, p) => p ? weight : 0) : weights, 6), top = weights[places[0]] || 1;
  byId(id).replaceChildren(...places.map(p => {
    const item = element("li"), button = element("button"), bar = element("span", "bar");
    button.type = "button";
    bar.style.width = `${100 * weights[p] / top}%`;
    button.append(bar, element("span", "word", label(trace().tokens[p])), element("span", "at", String(p)), element("span", "", weightDigits(weights[p])));
    const strength = marks[state.mark]?.[p];
    if (strength > 0) button.append(element("span", "did", percent(strength))), button.title = `${MARKS[state.mark]}: ${percent(strength)}`;
    button.addEventListener("click", () => choose("token", p, true));
    item.append(button);
    return item;
  }));
  document.querySelector(`h2.${id} span`).textContent = places.length ? ` (≤ ${weightDigits(top)})` : "";
  if (!places.length) byId(id).append(element("li", "at", id === "back" ? "nothing but the first token" : "nothing that is kept"));
}

function tellAnswer() {
  const { gold, model, correct } = trace().answer, line = byId("answer");
  const verdict = correct === null ? "whether it is right is not known" : correct ? "✓ right" : "✗ wrong";
  line.replaceChildren("Answer ", element("b", "", model ?? "none found"), gold === null ? "" : " · right one ", gold === null ? "" : element("b", "", gold), ` · ${verdict} · ${trace().name} · ${trace().tokens.length} tokens`);
}

function offerMarks() {
  const known = Object.keys(MARKS).filter(key => !key || key in marks);
  byId("marking").hidden = known.length < 2;
  byId("mark").replaceChildren(...known.map(key => new Option(MARKS[key], key)));
  if (!known.includes(state.mark)) state.mark = known[1] ?? "";
  byId("mark").value = state.mark;
}

function paintMarks() {
  const strength = marks[state.mark], steps = ramp("green");
  text.tokens.forEach((token, p) => {
    const tried = strength !== undefined && !Number.isNaN(strength[p]);
    token.classList.toggle("m", tried);
    if (!tried) return;
    token.style.setProperty("--w", strength[p] > 0 ? "3px" : "1px");
    token.style.setProperty("--m", strength[p] > 0 ? steps[Math.round(LEVELS * (0.35 + 0.65 * Math.min(1, strength[p])))].paper : colour("dim"));
  });
}

/** Chooses a token, a sentence or the final answer, and brings it into view. */
function choose(kind, at, scroll) {
  const last = kind === "sentence" ? trace().sentences.length - 1 : trace().tokens.length - 1;
  Object.assign(state, { kind, at: Math.min(last, Math.max(0, at)) });
  if (scroll) bringIntoView();
  return show({});
}

function bringIntoView() {
  const [start] = range(), s = text.ofToken[start];
  if (state.kind === "token" && s >= 0) fold(s, false);
  const one = state.kind === "sentence" ? text.sentences[state.at].number : text.tokens[start];
  one.scrollIntoView({ block: "nearest" });
}

function fold(s, folded) {
  const { root, number } = text.sentences[s];
  root.classList.toggle("folded", folded ?? !root.classList.contains("folded"));
  number.setAttribute("aria-expanded", String(!root.classList.contains("folded")));
}

function foldAll() {
  const folded = byId("fold").getAttribute("aria-pressed") !== "true";
  byId("fold").setAttribute("aria-pressed", String(folded));
  text.sentences.forEach((_, s) => fold(s, folded));
}

function hover(position) {
  if (hovered === position) return;
  if (hovered !== null) text.tokens[hovered]?.classList.remove("h");
  hovered = position;
  const cross = byId("curves").querySelector(".cross");
  cross.style.visibility = position === null ? "hidden" : "visible";
  byId("values").textContent = "";
  if (position === null) return;
  text.tokens[position].classList.add("h");
  if (!trace().curves) return;
  cross.style.left = `${100 * (position + 0.5) / trace().tokens.length}%`;
  byId("values").textContent = curveValues(trace(), position);
}

function setTheme(dark) {
  document.documentElement.dataset.theme = dark ? "dark" : "light";
  byId("theme").setAttribute("aria-pressed", String(dark));
  ramps = { blue: ramp("blue"), orange: ramp("orange") };
  if (maps) redraw(), paintMarks(), showChoice();
}

function redraw() {
  if (route.shown) drawRoute(), mark(null);
  if (!maps) return;
  drawCurves(trace());
  drawMasses(data.masses, data.sequential, data.maps, map => { state.map = map; show({ map: true }); });
  drawDiagonal(maps[state.map], data.sequential, trace().segments);
  document.querySelectorAll("#masses button").forEach(one => one.setAttribute("aria-pressed", String(+one.dataset.map === state.map)));
}

let written = "";
function writeAddress() {
  const place = state.kind === "final" ? "" : `&${state.kind}=${state.at}`;
  const chosen = data.traces.length ? `trace=${state.trace}${place}&head=${data.maps[state.map].id}` : "";
  written = `#${[chosen, routeAddress()].filter(Boolean).join("&")}`;
  history.replaceState(null, "", written);
}

/** The choice that an address names; what it names wrongly stays as it was. */
function readAddress() {
  const asked = new Map(location.hash.slice(1).split("&").map(part => part.split("=")));
  const number = (name, n) => /^\d+$/.test(asked.get(name) ?? "") && +asked.get(name) < n ? +asked.get(name) : null;
  if (data.routes) readRoute(number);
  if (!data.traces.length) return;
  state.trace = number("trace", data.traces.length) ?? state.trace;
  const map = data.maps.findIndex(one => one.id === asked.get("head")?.replace("%2C", ","));
  if (map >= 0) state.map = map;
  const token = number("token", trace().tokens.length), sentence = number("sentence", trace().sentences.length);
  if (token !== null) Object.assign(state, { kind: "token", at: token });
  else if (sentence !== null) Object.assign(state, { kind: "sentence", at: sentence });
  else Object.assign(state, { kind: "final", at: 0 });
}

const turn = (value, by, n) => (value + by + n) % n;
const KEYS = { t: () => byId("theme").click(), "?": () => byId("keys").click(), r: () => byId("route-view")?.click() };
const TEXT_KEYS = {
  ArrowDown: () => step("sentence", 1), ArrowUp: () => step("sentence", -1),
  ArrowRight: () => step("token", 1), ArrowLeft: () => step("token", -1),
  h: () => { state.map = turn(state.map, 1, data.maps.length); show({ map: true }); },
  H: () => { state.map = turn(state.map, -1, data.maps.length); show({ map: true }); },
  "[": () => openTrace(turn(state.trace, -1, data.traces.length)), "]": () => openTrace(turn(state.trace, 1, data.traces.length)),
  f: () => { const s = text.ofToken[range()[0]]; if (s >= 0) fold(s); }, F: foldAll,
  a: () => choose("final", 0, true),
};

function step(kind, by) {
  const [start, end] = range();
  if (kind === state.kind) return choose(kind, state.at + by, true);
  if (kind === "token") return choose("token", by > 0 ? start : end - 1, true);
  const here = text.ofToken[start];
  return choose("sentence", here < 0 ? text.ofToken.find(s => s >= 0) ?? 0 : here, true);
}

function openTrace(number) {
  Object.assign(state, { trace: number, kind: "final", at: 0 });
  return show({ trace: true });
}

/** What both the text and the route hear. */
function listen() {
  byId("theme").addEventListener("click", () => setTheme(document.documentElement.dataset.theme !== "dark"));
  byId("keys").addEventListener("click", event => {
    byId("help").hidden = !byId("help").hidden;
    event.target.setAttribute("aria-expanded", String(!byId("help").hidden));
    redraw();
  });
  document.addEventListener("keydown", event => {
    const key = KEYS[event.key] ?? (text && TEXT_KEYS[event.key]);
    if (event.ctrlKey || event.metaKey || event.altKey || event.target.matches("select, input") || !key) return;
    event.preventDefault();
    key();
  });
  window.addEventListener("hashchange", () => {
    if (location.hash === written) return;
    const before = state.trace;
    readAddress();
    if (data.traces.length) show({ trace: state.trace !== before, map: true }).then(bringIntoView);
  });
  window.addEventListener("resize", redraw);
}

function listenToText() {
  byId("trace").addEventListener("change", event => openTrace(+event.target.value));
  byId("map").addEventListener("change", event => { state.map = +event.target.value; show({ map: true }); });
  byId("mark").addEventListener("change", event => { state.mark = event.target.value; show({ mark: true }); });
  byId("final").addEventListener("click", () => choose("final", 0, true));
  byId("fold").addEventListener("click", foldAll);
  byId("text").addEventListener("click", event => {
    const { p, s } = event.target.dataset;
    if (p !== undefined) return choose("token", +p);
    if (s === undefined) return undefined;
    if (state.kind === "sentence" && state.at === +s) fold(+s);
    return choose("sentence", +s);
  });
  byId("text").addEventListener("mouseover", event => hover(event.target.dataset.p === undefined ? null : +event.target.dataset.p));
  byId("text").addEventListener("mouseleave", () => hover(null));
  const under = event => {
    const box = event.currentTarget.getBoundingClientRect();
    return { x: (event.clientX - box.left) / box.width, y: (event.clientY - box.top) / box.height };
  };
  const position = share => Math.min(trace().tokens.length - 1, Math.max(0, Math.floor(share * trace().tokens.length)));
  byId("curves").addEventListener("mousemove", event => hover(position(under(event).x)));
  byId("curves").addEventListener("mouseleave", () => hover(null));
  byId("curves").addEventListener("click", event => choose("token", position(under(event).x), true));
  byId("diagonal").addEventListener("click", event => choose("token", position(under(event).y), true));
}

const SHOWN = 10;
/** What was kept, and the first heads of every set. */
function tellKept() {
  const sets = data.maps.filter(one => one.heads?.length).map(({ name, heads }) => {
    const first = heads.slice(0, SHOWN).map(([layer, head]) => `(${layer},${head})`).join(" ");
    return `${name} ${first}${heads.length > SHOWN ? ` and ${heads.length - SHOWN} more` : ""}`;
  });
  const cut = data.left_out ? `; ${data.left_out} more would have made this page too large` : "";
  byId("kept").textContent = `Kept are the ${data.largest} largest weights of each token, none below .001, of ${data.traces.length} traces (data ${data.data})${cut}. Heads by layer and head: ${sets.join("; ")}.`;
}

function startText() {
  byId("trace").append(...data.traces.map((one, i) => new Option(`${i}: ${one.name}`, i)));
  byId("map").append(...data.maps.map((one, i) => new Option(one.heads?.length ? `${one.name} (${one.heads.length})` : one.name, i)));
  tellKept();
  listenToText();
  return show({ trace: true, map: true }).then(() => { redraw(); bringIntoView(); }, error => { byId("said").textContent = `This browser cannot show the page: ${error.message}`; });
}

setTheme(window.matchMedia("(prefers-color-scheme: dark)").matches);
if (data.routes) startRoute();
readAddress();
listen();
if (data.traces.length) startText();
else writeAddress(), document.documentElement.dataset.ready = "0";
