// The page: reads an image, a question and responses, shows steps as the server scores them. No library, no build step.

import { $, element, headers, showError, state } from "./elements.js";
import { addResponse, parseRows, responses, setImages, setResponses, showRow, takeFiles } from "./form.js";
import { draw, errorText, score } from "./results.js";

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
  const results = state.candidates.map(({ index, steps, error, done }) => {
    if (!done) throw new Error("Not all responses are scored yet.");
    return { index, error, steps: error === null ? steps : [] };
  });
  const settings = { aggregate: $("aggregate").value, threshold: Number($("threshold").value) };
  const body = JSON.stringify({ row: state.scored, results, ...settings });
  const answer = await fetch("/v1/report", { method: "POST", body, headers: headers() });
  if (!answer.ok) throw new Error(await errorText(answer));
  const url = URL.createObjectURL(await answer.blob());
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
for (const id of ["question", "responses"]) {
  $(id).addEventListener("input", () => (state.labels = {})); // they are about the row as it was
}
$("add").onclick = () => addResponse().focus();
$("stop").onclick = () => state.controller?.abort();
$("previous").onclick = guarded(async () => showRow(Number($("row").value) - 2));
$("next").onclick = guarded(async () => showRow(Number($("row").value)));
$("row").onchange = guarded(async () => showRow(Number($("row").value) - 1));
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
