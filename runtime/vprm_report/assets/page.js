"use strict";
(() => {
  const list = document.getElementById("list");
  const rows = [...list.children];
  const byId = (id) => document.getElementById(id);
  const text = new Map(rows.map((row) => [row, row.querySelector(".right").textContent.toLowerCase()]));
  const number = (row, key) => Number(row.dataset[key] || 0);
  const score = (row, missing) => (row.dataset.score === "" ? missing : Number(row.dataset.score));
  const orders = {
    wrong: (a, b) => number(b, "wrong") - number(a, "wrong") || number(b, "severity") - number(a, "severity"),
    low: (a, b) => score(a, 2) - score(b, 2),
    high: (a, b) => score(b, -1) - score(a, -1),
    id: () => 0,
  };
  function update() {
    const order = orders[byId("sort").value];
    const show = byId("show").value;
    const source = byId("source").value;
    const wanted = byId("find").value.trim().toLowerCase();
    const kept = rows.filter((row) =>
      (show === "all" || (show === "wrong") === number(row, "wrong") > 0) &&
      (!source || row.dataset.source === source) &&
      (!wanted || text.get(row).includes(wanted)));
    kept.sort((a, b) => order(a, b) || number(a, "order") - number(b, "order"));
    list.replaceChildren(...kept);
    byId("count").textContent = `${kept.length} shown`;
    byId("none").hidden = kept.length > 0;
  }
  for (const id of ["sort", "show", "source", "find"]) byId(id).addEventListener("input", update);
  byId("grid").addEventListener("input", () => document.body.classList.toggle("no-grid", !byId("grid").checked));
  const chosen = new URLSearchParams(location.hash.slice(1));
  for (const [id, value] of chosen) if (byId(id) && "value" in byId(id)) byId(id).value = value;
  update();
})();
