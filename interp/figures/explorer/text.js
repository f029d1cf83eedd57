// The text: segments, sentences, tokens, and their colours. Whatever a model wrote becomes a text node.

const byId = id => document.getElementById(id);

function element(name, className, text) {
  const made = document.createElement(name);
  if (className) made.className = className;
  if (text !== undefined) made.textContent = text;
  return made;
}

/** An element of a drawing. */
function drawn(name, attributes) {
  const made = document.createElementNS("http://www.w3.org/2000/svg", name);
  for (const [key, value] of Object.entries(attributes)) made.setAttribute(key, value);
  return made;
}

/** A token as a label on one line. */
const label = text => (text.trim() || text).replace(/\n/g, "⏎").replace(/\t/g, "⇥").replace(/ /g, "·") || "∅";
const digits = value => value === 0 ? "0" : Math.abs(value) < 0.0005 ? value.toExponential(0) : Math.abs(value) < 1 ? value.toFixed(3).replace(/^(-?)0/, "$1") : value.toFixed(2);
/** A weight that is kept in a byte, right to one of its last digit. */
const weightDigits = weight => weight < 0.1 ? digits(weight) : weight.toFixed(2).replace(/^0/, "");
const percent = share => `${Math.round(100 * share)}\u00a0%`;
const oneLine = text => text.trim().replace(/\s+/g, " ");

const rgb = hex => [1, 3, 5].map(i => parseInt(hex.slice(i, i + 2), 16));
const colour = name => getComputedStyle(document.documentElement).getPropertyValue(`--${name}`).trim();
const hexOf = channels => "#" + channels.map(c => Math.round(c).toString(16).padStart(2, "0")).join("");
function luminance(channels) {
  const [r, g, b] = channels.map(c => (c /= 255) <= 0.03928 ? c / 12.92 : ((c + 0.055) / 1.055) ** 2.4);
  return 0.2126 * r + 0.7152 * g + 0.0722 * b;
}

const LEVELS = 32;
/** From the paper's colour to a hue in steps, each with the ink that is read best on it. */
function ramp(hue) {
  const from = rgb(colour("paper").length === 4 ? "#ffffff" : colour("paper")), to = rgb(colour(hue));
  return Array.from({ length: LEVELS + 1 }, (_, i) => {
    const mixed = from.map((c, k) => c + (to[k] - c) * i / LEVELS);
    return { paper: hexOf(mixed), ink: luminance(mixed) > 0.179 ? "#000" : "#fff" };
  });
}

/** The trace's text as elements; `tokens[p]` and `sentences[s]` are found again by number. */
function renderText(trace) {
  const root = byId("text"), tokens = [], sentences = [], ofToken = new Int32Array(trace.tokens.length).fill(-1);
  const reflections = new Set(trace.reflections), starts = new Map(trace.sentences.map(([start], s) => [start, s]));
  root.replaceChildren();
  const whole = document.createDocumentFragment();
  for (const [name, start, end] of trace.segments) {
    const segment = element("div", `segment ${name}`);
    if (!["think", "end_think", "bos"].includes(name)) segment.append(element("h3", "", name));
    let body = segment;
    for (let p = start; p < end; p++) {
      const s = starts.get(p);
      if (s !== undefined) {
        const sentence = element("span", "sentence"), number = element("button", "n", String(s));
        const [from, to] = trace.sentences[s];
        number.type = "button";
        number.tabIndex = -1;
        number.dataset.s = s;
        number.setAttribute("aria-label", `sentence ${s}, ${name}`);
        number.setAttribute("aria-expanded", "true");
        body = element("span", "body");
        const words = trace.tokens.slice(from, Math.min(to, from + 40)).join("");
        const short = element("span", "short", `${oneLine(words).slice(0, 70)}… (${to - from})`);
        short.dataset.s = s;
        sentence.append(number, body, short);
        segment.append(sentence);
        sentences[s] = { root: sentence, number, short, body };
      }
      const token = element("span", reflections.has(p) ? "t r" : "t", trace.tokens[p]);
      token.dataset.p = p;
      body.append(token);
      tokens[p] = token;
      ofToken[p] = sentences.length - 1;
    }
    whole.append(segment);
  }
  trace.sentences.forEach(([start, end], s) => ofToken.fill(s, start, end));
  root.append(whole);
  return { tokens, sentences, ofToken };
}

/** Colours tokens and sentences by what they give and get; `painted` are those that have a colour already. */
function paintText(text, trace, seen, start, end, painted, ramps) {
  for (const one of painted) one.style.backgroundColor = one.style.color = "";
  painted.length = 0;
  const put = (one, share, hue) => {
    const { paper, ink } = ramps[hue][Math.round(LEVELS * Math.sqrt(Math.min(1, share)))];
    one.style.backgroundColor = paper;
    one.style.color = ink;
    painted.push(one);
  };
  const sides = [[seen.back, "blue", 0, start], [seen.ahead, "orange", end, trace.tokens.length]];
  for (const [weights, hue, from, to] of sides) {
    let top = 0;
    const sums = new Float32Array(text.sentences.length);
    for (let p = Math.max(1, from); p < to; p++) {
      top = Math.max(top, weights[p]);
      if (weights[p] && text.ofToken[p] >= 0) sums[text.ofToken[p]] += weights[p];
    }
    if (!top) continue;
    for (let p = Math.max(1, from); p < to; p++) if (weights[p] / top > 1e-3) put(text.tokens[p], weights[p] / top, hue);
    const most = Math.max(...sums);
    sums.forEach((sum, s) => {
      if (sum / most <= 1e-3) return;
      put(text.sentences[s].number, sum / most, hue);
      put(text.sentences[s].short, sum / most, hue);
    });
  }
}
