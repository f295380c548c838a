// Shows openapi.json: one box per operation, with the schemas of its bodies.

const element = (name, properties, ...children) => {
  const made = Object.assign(document.createElement(name), properties);
  made.append(...children);
  return made;
};

const specification = await (await fetch("/openapi.json")).json();
const pretty = (value) => element("pre", { className: "scroll", textContent: JSON.stringify(value, null, 2) });
const body = (content) => Object.entries(content ?? {}).map(([type, { schema }]) =>
  element("details", {}, element("summary", { textContent: type }), pretty(schema)));

for (const [path, operations] of Object.entries(specification.paths)) {
  for (const [method, operation] of Object.entries(operations)) {
    const box = element("section", { className: "candidate" },
      element("h2", { textContent: `${method.toUpperCase()} ${path}` }),
      element("p", { textContent: operation.description ?? operation.summary }));
    for (const parameter of operation.parameters ?? []) {
      box.append(element("p", { className: "note", textContent: `${parameter.in}: ${parameter.name}. ${parameter.description ?? ""}` }));
    }
    if (operation.requestBody) box.append(element("p", { className: "note", textContent: "body" }), ...body(operation.requestBody.content));
    for (const [status, answer] of Object.entries(operation.responses)) {
      box.append(element("p", { className: "note", textContent: `${status}: ${answer.description}` }), ...body(answer.content));
    }
    document.getElementById("operations").append(box);
  }
}
document.getElementById("operations").append(element("h2", { textContent: "Schemas" }), pretty(specification.components.schemas));
