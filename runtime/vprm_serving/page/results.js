// Scoring, and the responses with their steps as the server scores them.

import { $, element, headers, showError, state } from "./elements.js";
import { drawImages, responses } from "./form.js";

export async function score() {
  if (state.controller) return;
  showError("");
  const texts = responses();
  if (!$("question").value.trim()) return showError("Give a question.");
  if (!texts.length) return showError("Give at least one response.");
  const row = { image: state.images.map((image) => image.source), question: $("question").value, responses: texts };
  if ($("max-tiles").value) row.max_tiles = Number($("max-tiles").value);
  if ($("max-steps").value) row.max_steps = Number($("max-steps").value);
  state.scored = { ...state.labels, ...row };
  state.controller = new AbortController();
  $("score").disabled = true;
  $("stop").hidden = false;
  $("progress").value = "waiting";
  try {
    const answer = await fetch("/v1/score/stream", {
      method: "POST",
      body: JSON.stringify(row),
      headers: headers(),
      signal: state.controller.signal,
    });
    if (!answer.ok) throw new Error(await errorText(answer));
    for await (const [name, data] of events(answer.body)) onEvent(name, data);
  } catch (error) {
    $("progress").value = "";
    showError(error.name === "AbortError" ? "Stopped." : error.message);
  } finally {
    state.controller = null;
    $("score").disabled = false;
    $("stop").hidden = true;
  }
}

export async function errorText(answer) {
  const body = await answer.json().catch(() => ({}));
  if (answer.status === 401) $("key-box").open = true;
  const wait = answer.headers.get("retry-after");
  return (body.error ?? `The server answered with status ${answer.status}.`) + (wait ? ` (Retry after ${wait} s.)` : "");
}

async function* events(stream) {
  const reader = stream.pipeThrough(new TextDecoderStream()).getReader();
  let text = "";
  for (;;) {
    const { value, done } = await reader.read();
    if (done) return;
    text += value;
    let end;
    while ((end = text.indexOf("\n\n")) >= 0) {
      const [name, data] = text.slice(0, end).split("\ndata: ");
      text = text.slice(end + 2);
      yield [name.replace("event: ", ""), JSON.parse(data)];
    }
  }
}

function onEvent(name, data) {
  if (name === "prepared") {
    state.grids = data.grids;
    drawImages();
    state.candidates = data.steps.map((steps, index) => ({
      index, error: null, done: false, steps: steps.map((text) => ({ text, score: null })),
    }));
    $("results").hidden = false;
  } else if (name === "steps") {
    data.steps.forEach((step, number) => (state.candidates[data.index].steps[number] = step));
  } else if (name === "result") {
    Object.assign(state.candidates[data.index], { error: data.error, done: true });
    if (data.score !== null) state.candidates[data.index].steps = data.steps;
  } else if (name === "error") {
    throw new Error(data.error);
  }
  draw();
}

// ---- results

const AGGREGATES = {
  mean: (scores) => scores.reduce((a, b) => a + b, 0) / scores.length,
  min: (scores) => Math.min(...scores),
  max: (scores) => Math.max(...scores),
  last: (scores) => scores[scores.length - 1],
  product: (scores) => scores.reduce((a, b) => a * b, 1),
};

export function draw() {
  const aggregate = AGGREGATES[$("aggregate").value];
  const threshold = Number($("threshold").value);
  $("threshold-value").value = threshold.toFixed(2);
  const shown = state.candidates.map((candidate) => {
    const isScored = candidate.done && candidate.error === null;
    return { ...candidate, total: isScored ? aggregate(candidate.steps.map((step) => step.score)) : null };
  });
  const done = shown.filter((candidate) => candidate.done).length;
  $("progress").value = done < shown.length ? `${done} of ${shown.length} scored` : `${done} scored`;
  shown.sort((a, b) => (b.total ?? -1) - (a.total ?? -1) || a.index - b.index);
  const best = done === shown.length && shown[0].total !== null ? shown[0].index : null;
  $("candidates").replaceChildren(...shown.map((candidate) => candidateOf(candidate, candidate.index === best, threshold)));
}

function candidateOf(candidate, isBest, threshold) {
  const head = element("h2", {}, `Response ${candidate.index + 1}`);
  if (isBest) head.append(element("span", { className: "star", textContent: "★ best" }));
  const total = candidate.total === null ? (candidate.error === null ? "…" : "not scored") : candidate.total.toFixed(3);
  head.append(element("span", { className: "total", textContent: total }));
  const box = element("li", { className: `candidate${isBest ? " best" : ""}` }, head);
  if (candidate.error !== null) {
    box.append(element("p", { className: "error", textContent: candidate.error }));
    return box;
  }
  const firstBelow = candidate.steps.findIndex((step) => step.score !== null && step.score < threshold);
  box.append(element("ol", { className: "steps" }, ...candidate.steps.map((step, n) => stepOf(step, n === firstBelow))));
  return box;
}

function stepOf(step, isFirstBelow) {
  const text = step.score === null ? "…" : step.score.toFixed(3);
  const row = element(
    "li", {},
    element("span", { className: "step-score", textContent: text }),
    element("span", { className: "step-text", textContent: step.text }),
  );
  if (step.score === null) row.className = "waiting";
  else {
    row.style.setProperty("--hue", Math.round(130 * step.score));
    row.style.setProperty("--part", `${100 * step.score}%`);
  }
  if (isFirstBelow) {
    row.classList.add("first-below");
    row.append(element("span", { className: "flag", textContent: "first below" }));
  }
  return row;
}
