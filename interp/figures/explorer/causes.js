// What interventions did at a token or in a sentence, in words, and how strongly, for the line below the text.

const KINDS = {
  change_number: "The number changed", swap_name: "Another name put in", delete_step: "This sentence left out",
  shuffle_step: "The words of this sentence shuffled", paraphrase_step: "This sentence put into a template", reword_step: "This sentence said in other words",
  insert_inert: "A sentence that says nothing put before this one (control)",
};
const ROLES = {
  changed: "The changed words", reasoning_after: "The reasoning behind them", close: "The closing tag",
  answer_before: "The answer so far", predicting: "The token before the prediction",
};
const MARKS = {
  "": "nothing",
  answer: "forced token: answer",
  overlap: "forced token: text",
  changed: "changed words: answer",
  suppressed: "hidden sentence: answer",
};

/** For each kind of line: what strength (0..1) each position has, NaN where nothing was tried. */
function strengths(trace) {
  const empty = () => new Float32Array(trace.tokens.length).fill(NaN), found = {};
  if (trace.forced) {
    found.answer = empty();
    found.overlap = empty();
    for (const one of trace.forced) {
      if (one.answer_changed !== null) found.answer[one.at] = Math.max(0, one.answer_changed - (one.answer_changed_own ?? 0));
      if (one.jaccard !== null && one.jaccard_own !== null) found.overlap[one.at] = Math.max(0, one.jaccard_own - one.jaccard);
    }
  }
  if (trace.changed) {
    found.changed = empty();
    for (const one of trace.changed)
      if (one.answer_changed !== null && one.kind !== "insert_inert")
        for (let p = one.start; p < Math.max(one.end, one.start + 1); p++) found.changed[p] = Math.max(found.changed[p] || 0, one.answer_changed);
  }
  if (trace.sentences_tried) {
    found.suppressed = empty();
    const top = Math.max(1e-6, ...trace.sentences_tried.map(one => one.suppressed ?? 0));
    for (const one of trace.sentences_tried) if (one.suppressed !== null) found.suppressed.fill(Math.max(0, one.suppressed) / top, one.start, one.end);
  }
  return found;
}

/** What happened at tokens start .. end - 1, as elements. */
function tellCauses(trace, start, end, single) {
  const lines = [], within = one => one.start < end && Math.max(one.end, one.start + 1) > start;
  const forced = (trace.forced ?? []).filter(one => one.at >= start && one.at < end);
  if (forced.length) lines.push(single ? forcedHere(forced[0]) : forcedInside(forced));
  for (const one of (trace.changed ?? []).filter(within)) lines.push(changedHere(one));
  for (const one of (trace.sentences_tried ?? []).filter(within).slice(0, 3)) lines.push(sentenceHere(one));
  for (const one of (trace.patched ?? []).filter(within)) lines.push(patchedHere(one));
  if (!lines.length && trace.measured) lines.push(line("none", "Nothing was tried here."));
  return lines;
}

function line(className, ...pieces) {
  const made = element("li", className);
  for (const piece of pieces) made.append(typeof piece === "string" ? piece : element("b", "", piece.bold));
  return made;
}
const bold = text => ({ bold: text });
const most = values => { const known = values.filter(value => value !== null); return known.length ? digits(Math.max(...known)) : "undefined"; };
const quoted = text => `“${(oneLine(text) || label(text)).slice(0, 60)}”`;
const placesOf = n => n === 1 ? "1 place" : `${n} places`;
const nats = value => (Math.abs(value) < 0.01 ? digits(value) : value.toFixed(2)).replace("-", "−");
const signed = (value, shown = digits) => (value > 0 ? "+" : value < 0 ? "−" : "±") + shown(Math.abs(value));

function forcedHere(one) {
  const pieces = [`Forced in its place: ${one.tokens.map(quoted).join(", ")}. `];
  if (one.answer_changed !== null) {
    pieces.push("Answer changed: ", bold(percent(one.answer_changed)), ` of ${one.n}`);
    pieces.push(one.answer_changed_own === null ? ". " : `; with its own token, ${percent(one.answer_changed_own)}. `);
  }
  if (one.jaccard !== null) {
    pieces.push("Overlap with the old text: ", bold(digits(one.jaccard)));
    pieces.push(one.jaccard_own === null ? "." : `; with its own token, ${digits(one.jaccard_own)}.`);
  }
  return line("", ...pieces);
}

function forcedInside(forced) {
  const mean = name => {
    const known = forced.map(one => one[name]).filter(value => value !== null);
    return known.length ? known.reduce((a, b) => a + b) / known.length : null;
  };
  const [other, own] = [mean("answer_changed"), mean("answer_changed_own")];
  if (other === null) return line("", `Other tokens were forced at ${placesOf(forced.length)} here.`);
  return line("", `Other tokens forced at ${placesOf(forced.length)}: answer changed `, bold(percent(other)), own === null ? "." : `; with their own, ${percent(own)}.`);
}

function changedHere(one) {
  const what = one.old || one.new ? `: ${quoted(one.old)} → ${quoted(one.new)}` : "";
  const outcome = one.answer_changed === null ? "the new answer was cut off" : one.answer_changed ? "answer changed" : "answer as before";
  return line("", `${KINDS[one.kind] ?? one.kind}${["change_number", "swap_name"].includes(one.kind) ? what : ""}: `, bold(outcome), one.follows_corrupted ? ", it is the new one." : ".");
}

function sentenceHere(one) {
  const pieces = ["Sentence hidden from what follows: the answer loses ", bold(`${nats(one.suppressed ?? 0)} nats`)];
  if (one.demanded !== null) pieces.push(`; the answer demanded behind it: ${signed(one.demanded, nats)} nats`);
  if (one.resampled !== null) pieces.push(`; written anew behind it: ${signed(one.resampled)} of the rollouts with this answer`);
  return line("", ...pieces, ".");
}

/** NLD by layer as bars, from 0 (nothing) to 1 (the clean answer is back). */
function patchedHere(one) {
  const made = line("", `${ROLES[one.role] ?? one.role} patched back, after ${quoted(one.old)} → ${quoted(one.new)}: NLD by layer, at most `, bold(most(one.nld)), ".");
  const n = one.nld.length, told = i => `layer ${one.layers[i]}: ${one.nld[i] === null ? "undefined" : digits(one.nld[i])}`;
  const svg = drawn("svg", { class: "layers", viewBox: `0 0 ${10 * n} 32`, preserveAspectRatio: "none", role: "img", "aria-label": one.nld.map((_, i) => told(i)).join(", ") });
  one.nld.forEach((value, i) => {
    const height = 30 * Math.min(1, Math.max(0, value ?? 0));
    const bar = drawn("rect", { x: 10 * i + 1, y: 31 - height, width: 8, height: height + 1, fill: colour("green") });
    bar.append(Object.assign(drawn("title", {}), { textContent: told(i) }));
    svg.append(bar);
  });
  made.append(svg);
  return made;
}
