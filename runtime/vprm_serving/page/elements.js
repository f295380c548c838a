// What the parts of the page share: its elements, its state, its error line.

export const $ = (id) => document.getElementById(id);
export const state = { images: [], rows: [], files: new Map(), candidates: [], grids: [], labels: {}, scored: null, controller: null };

export function element(name, properties = {}, ...children) {
  const made = Object.assign(document.createElement(name), properties);
  made.append(...children);
  return made;
}

export function showError(text) {
  $("error").textContent = text;
  $("error").hidden = !text;
}

export function headers() {
  const key = $("key").value;
  return key ? { authorization: `Bearer ${key}` } : {};
}
