// The page: reads an image, a question and responses, shows steps as the server scores them. No library, no build step.

const $ = (id) => document.getElementById(id);
const state = { images: [], rows: [], files: new Map(), candidates: [], grids: [], controller: null };

// ---- small helpers

function element(name, properties = {}, ...children) {
  const made = Object.assign(document.createElement(name), properties);
  made.append(...children);
  return made;
}

function showError(text) {
  $("error").textContent = text;
  $("error").hidden = !text;
}

function headers() {
  const key = $("key").value;
  return key ? { authorization: `Bearer ${key}` } : {};
}

function readAsDataUrl(file) {
  return new Promise((resolve, reject) => {
    const reader = new FileReader();
    reader.onload = () => resolve(reader.result);
    reader.onerror = () => reject(new Error(`${file.name} cannot be read`));
    reader.readAsDataURL(file);
  });
}

// ---- the form

function addResponse(text = "") {
  const number = $("responses").children.length + 1;
  const area = element("textarea", { rows: 4, value: text, id: `response-${number}` });
  const remove = element("button", { type: "button", textContent: "Remove" });
  const box = element("div", { className: "response" });
  remove.setAttribute("aria-label", `Remove response ${number}`);
  remove.onclick = () => {
    box.remove();
    renumber();
  };
  box.append(element("label", { htmlFor: area.id, textContent: `Response ${number}` }), remove, area);
  $("responses").append(box);
  return area;
}

function renumber() {
  [...$("responses").children].forEach((box, index) => {
    const [label, remove, area] = box.children;
    area.id = label.htmlFor = `response-${index + 1}`;
    label.textContent = `Response ${index + 1}`;
    remove.setAttribute("aria-label", `Remove response ${index + 1}`);
  });
  if (!$("responses").children.length) addResponse();
}

function responses() {
  return [...$("responses").querySelectorAll("textarea")].map((area) => area.steps ?? area.value).filter((r) => r.length);
}

function setResponses(given) {
  $("responses").replaceChildren();
  for (const response of given) {
    const area = addResponse(Array.isArray(response) ? response.join("\n\n") : response);
    if (Array.isArray(response)) {
      area.steps = response; // a list of steps stays one, whatever blank lines are in it, until it is edited
      area.oninput = () => delete area.steps;
    }
  }
  if (!given.length) addResponse();
}

function setImages(images) {
  state.images = images; // [{name, source: what is sent, url: what is shown or ""}]
  state.grids = [];
  drawImages();
}

function drawImages() {
  $("images").replaceChildren(
    ...state.images.map((image, index) => {
      const frame = element("div", { className: "frame" });
      if (image.url) frame.append(element("img", { src: image.url, alt: image.name }));
      const grid = state.grids[index];
      if (grid && image.url) frame.append(gridOf(grid));
      const remove = element("button", { type: "button", textContent: "Remove" });
      remove.setAttribute("aria-label", `Remove image ${image.name}`);
      remove.onclick = () => setImages(state.images.filter((_, other) => other !== index));
      const tiles = grid ? (grid[0] * grid[1] === 1 ? ", 1 tile" : `, ${grid[0]} × ${grid[1]} tiles`) : "";
      return element("figure", {}, frame, element("figcaption", { textContent: image.name + tiles }), remove);
    }),
  );
}

function gridOf([columns, rows]) {
  const svg = document.createElementNS("http://www.w3.org/2000/svg", "svg");
  svg.setAttribute("viewBox", "0 0 1 1");
  svg.setAttribute("preserveAspectRatio", "none");
  svg.dataset.grid = `${columns}x${rows}`;
  const line = (x1, y1, x2, y2) => {
    const made = document.createElementNS("http://www.w3.org/2000/svg", "line");
    for (const [name, value] of Object.entries({ x1, y1, x2, y2 })) made.setAttribute(name, value);
    svg.append(made);
  };
  for (let column = 0; column <= columns; column++) line(column / columns, 0, column / columns, 1);
  for (let row = 0; row <= rows; row++) line(0, row / rows, 1, row / rows);
  return svg;
}

// ---- files, rows, pasting

async function takeFiles(files) {
  const images = [];
  let rows = null;
  for (const file of files) {
    if (/\.jsonl?$/i.test(file.name)) rows = parseRows(await file.text());
    else if (file.type.startsWith("image/")) {
      const url = await readAsDataUrl(file);
      images.push({ name: file.name || "pasted image", source: url, url });
      state.files.set(file.name, url);
    } else throw new Error(`${file.name} is neither an image nor a JSON file`);
  }
  if (rows) {
    state.rows = rows;
    $("rows").hidden = rows.length < 2;
    $("row-count").value = rows.length;
    $("row").max = rows.length;
    showRow(0);
  } else if (images.length) setImages([...state.images, ...images]);
}

function parseRows(text) {
  const trimmed = text.trim();
  if (trimmed.startsWith("[")) return JSON.parse(trimmed);
  try {
    return [JSON.parse(trimmed)];
  } catch {
    return trimmed.split("\n").filter((line) => line.trim()).map((line) => JSON.parse(line));
  }
}

function showRow(index) {
  const row = state.rows[index];
  if (!row) return;
  $("row").value = index + 1;
  $("question").value = row.question ?? "";
  const response = row.response;
  setResponses(row.responses ?? (response === undefined ? [] : [response.steps ?? response]));
  const given = row.image ?? row.images ?? [];
  setImages((Array.isArray(given) ? given : [given]).filter(Boolean).map(imageOfRow));
  $("max-tiles").value = row.max_tiles ?? "";
  $("max-steps").value = row.max_steps ?? "";
}

function imageOfRow(source) {
  if (typeof source !== "string") return { name: "image", source, url: "" };
  if (source.startsWith("data:")) return { name: "image", source, url: source };
  const name = source.split("/").pop();
  const url = state.files.get(name); // dropped beside the file of rows; else a path under the server's image root
  return url ? { name, source: url, url } : { name: source.slice(0, 80), source, url: "" };
}

// ---- scoring

async function score() {
  if (state.controller) return;
  showError("");
  const texts = responses();
  if (!$("question").value.trim()) return showError("Give a question.");
  if (!texts.length) return showError("Give at least one response.");
  const row = { image: state.images.map((image) => image.source), question: $("question").value, responses: texts };
  const query = new URLSearchParams();
  if ($("max-tiles").value) query.set("max_tiles", $("max-tiles").value);
  if ($("max-steps").value) query.set("max_steps", $("max-steps").value);
  state.controller = new AbortController();
  $("score").disabled = true;
  $("stop").hidden = false;
  $("progress").value = "waiting";
  try {
    const answer = await fetch(`/v1/score/stream?${query}`, {
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

async function errorText(answer) {
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

function draw() {
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

// ---- link and report

const MOST_LINK_CHARACTERS = 200_000;

function linkOf() {
  const images = state.images.map((image) => ({ name: image.name, source: image.source }));
  const content = { question: $("question").value, responses: responses(), images, aggregate: $("aggregate").value };
  const bytes = new TextEncoder().encode(JSON.stringify(content));
  let text = "";
  for (const byte of bytes) text += String.fromCharCode(byte);
  const link = `${location.origin}/#${btoa(text).replaceAll("+", "-").replaceAll("/", "_").replaceAll("=", "")}`;
  if (link.length > MOST_LINK_CHARACTERS) throw new Error("The image is too large for a link: save a report instead.");
  return link;
}

function readLink() {
  if (location.hash.length < 2) return;
  try {
    const text = atob(location.hash.slice(1).replaceAll("-", "+").replaceAll("_", "/"));
    const content = JSON.parse(new TextDecoder().decode(Uint8Array.from(text, (c) => c.charCodeAt(0))));
    $("question").value = content.question;
    setResponses(content.responses);
    setImages(content.images.map((image) => ({ ...image, url: image.source.startsWith?.("data:image/") ? image.source : "" })));
    $("aggregate").value = content.aggregate;
  } catch {
    showError("The link is damaged.");
  }
}

async function copyLink() {
  try {
    const link = linkOf();
    history.replaceState(null, "", link);
    await navigator.clipboard?.writeText(link).catch(() => {});
    $("progress").value = "The address bar has the link.";
  } catch (error) {
    showError(error.message);
  }
}

async function saveReport() {
  const css = await (await fetch("/page/page.css")).text();
  const main = element("main", {},
    element("h1", { textContent: $("question").value }),
    element("p", { className: "subtitle", textContent: `${$("model").textContent} · response score: ${$("aggregate").value}` }),
    $("images").cloneNode(true),
    $("candidates").cloneNode(true),
  );
  main.querySelectorAll("button").forEach((button) => button.remove());
  const text = `<!doctype html>
<html lang="en"><head><meta charset="utf-8"><meta name="viewport" content="width=device-width, initial-scale=1">
<title>vprm: step scores</title><style>${css}</style></head><body>${main.outerHTML}</body></html>`;
  const url = URL.createObjectURL(new Blob([text], { type: "text/html" }));
  element("a", { href: url, download: "vprm-report.html" }).click();
  setTimeout(() => URL.revokeObjectURL(url), 10_000);
}

// ---- what the server says of itself

async function poll() {
  try {
    const answer = await fetch("/v1/model", { headers: headers() });
    if (answer.status === 401) {
      $("load").textContent = "This server wants an API key: see Options.";
      $("key-box").open = true;
      return;
    }
    const facts = await answer.json();
    $("model").textContent = `${facts.model} · ${facts.engine}`;
    const mebibytes = (bytes) => `${Math.round(bytes / 2 ** 20)} MiB`;
    const { queue, cache } = facts;
    $("load").textContent =
      `${queue.running} running, ${queue.waiting} waiting · ${queue.tokens} tokens queued · ` +
      `cache ${mebibytes(cache.bytes + cache.upload_bytes)} of ${mebibytes(cache.budget_bytes)}`;
  } catch {
    $("load").textContent = "The server cannot be reached.";
  }
}

// ---- wiring

const guarded = (action) => (...given) => Promise.resolve(action(...given)).catch((error) => showError(error.message));
$("form").onsubmit = (event) => {
  event.preventDefault();
  score();
};
document.addEventListener("keydown", (event) => {
  if (event.key === "Enter" && (event.ctrlKey || event.metaKey)) score();
});
$("files").onchange = guarded(async () => {
  await takeFiles([...$("files").files]);
  $("files").value = "";
});
document.addEventListener("dragover", (event) => {
  event.preventDefault();
  $("drop").classList.add("over");
});
document.addEventListener("dragleave", () => $("drop").classList.remove("over"));
document.addEventListener("drop", guarded(async (event) => {
  event.preventDefault();
  $("drop").classList.remove("over");
  await takeFiles([...event.dataTransfer.files]);
}));
document.addEventListener("paste", guarded(async (event) => {
  const files = [...event.clipboardData.files];
  if (files.length) {
    event.preventDefault();
    await takeFiles(files);
  }
}));
$("add").onclick = () => addResponse().focus();
$("stop").onclick = () => state.controller?.abort();
$("previous").onclick = () => showRow(Number($("row").value) - 2);
$("next").onclick = () => showRow(Number($("row").value));
$("row").onchange = () => showRow(Number($("row").value) - 1);
$("read-json").onclick = guarded(async () => {
  state.rows = parseRows($("json").value);
  showRow(0);
});
$("aggregate").onchange = draw;
$("threshold").oninput = draw;
$("link").onclick = copyLink;
$("export").onclick = guarded(saveReport);
$("key").value = sessionStorage.getItem("vprm-key") ?? "";
$("key").onchange = () => {
  sessionStorage.setItem("vprm-key", $("key").value);
  poll();
};
addResponse();
readLink();
poll();
setInterval(poll, 2000);
