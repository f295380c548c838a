// The form: images, question, responses, and the files of rows that fill it.

import { $, element, state } from "./elements.js";

function readAsDataUrl(file) {
  return new Promise((resolve, reject) => {
    const reader = new FileReader();
    reader.onload = () => resolve(reader.result);
    reader.onerror = () => reject(new Error(`${file.name} cannot be read`));
    reader.readAsDataURL(file);
  });
}

// ---- the form

export function addResponse(text = "") {
  const number = $("responses").children.length + 1;
  const area = element("textarea", { rows: 4, value: text, id: `response-${number}` });
  const remove = element("button", { type: "button", textContent: "Remove" });
  const box = element("div", { className: "response" });
  remove.setAttribute("aria-label", `Remove response ${number}`);
  remove.onclick = () => {
    box.remove();
    renumber();
    state.labels = {};
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

export function responses() {
  return [...$("responses").querySelectorAll("textarea")].map((area) => area.steps ?? area.value).filter((r) => r.length);
}

export function setResponses(given) {
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

export function setImages(images) {
  state.images = images; // [{name, source: what is sent, url: what is shown or ""}]
  state.grids = [];
  drawImages();
}

export function drawImages() {
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

export async function takeFiles(files) {
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

export function parseRows(text) {
  const trimmed = text.trim();
  if (trimmed.startsWith("[")) return JSON.parse(trimmed);
  try {
    return [JSON.parse(trimmed)];
  } catch {
    return trimmed.split("\n").filter((line) => line.trim()).map((line) => JSON.parse(line));
  }
}

export function showRow(index) {
  const row = state.rows[index];
  if (!row) return;
  const response = row.response;
  const given = row.responses ?? (response === undefined ? [] : [response?.steps ?? response]);
  const isText = (value) => typeof value === "string";
  if (!Array.isArray(given) || !given.every((one) => isText(one) || (Array.isArray(one) && one.every(isText))))
    throw new Error("The row's responses are no list of texts or lists of texts.");
  $("row").value = index + 1;
  $("question").value = row.question ?? "";
  setResponses(given);
  const images = row.image ?? row.images ?? [];
  setImages((Array.isArray(images) ? images : [images]).filter(Boolean).map(imageOfRow));
  $("max-tiles").value = row.max_tiles ?? "";
  $("max-steps").value = row.max_steps ?? "";
  state.labels = labelsOf(row);
}

function labelsOf(row) {
  const own = row.process_correctness;
  const ofResponse = typeof row.response === "object" ? row.response?.process_correctness : undefined;
  const { id, answer, data_source, policy_model } = row;
  const given = { id, answer, data_source, policy_model, process_correctness: own ?? (ofResponse && [ofResponse]) };
  return Object.fromEntries(Object.entries(given).filter(([, value]) => value !== undefined && value !== null));
}

function imageOfRow(source) {
  if (typeof source !== "string") return { name: "image", source, url: "" };
  if (source.startsWith("data:")) return { name: "image", source, url: source };
  const name = source.split("/").pop();
  const url = state.files.get(name); // dropped beside the file of rows; else a path under the server's image root
  return url ? { name, source: url, url } : { name: source.slice(0, 80), source, url: "" };
}
