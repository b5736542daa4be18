// Elements made by code. Text goes in as text, never as HTML.

const AS_PROPERTY = new Set(["value", "checked", "disabled", "hidden", "open", "selected", "tabIndex"]);

// make("button", { class: "run", text: "Stop", "aria-label": "…", on: { click } }, child, …)
export function make(tag, given = {}, ...children) {
  const element = document.createElement(tag);
  for (const [name, value] of Object.entries(given)) {
    if (value === undefined || value === null) continue;
    if (name === "text") element.textContent = value;
    else if (name === "on") for (const [kind, listen] of Object.entries(value)) element.addEventListener(kind, listen);
    else if (AS_PROPERTY.has(name)) element[name] = value;
    else element.setAttribute(name, value);
  }
  element.append(...children.filter((child) => child !== null && child !== undefined));
  return element;
}

export function button(text, press, given = {}) {
  return make("button", { type: "button", text, ...given, on: { click: press } });
}

let made = 0;
export function newId(kind) {
  made += 1;
  return `cocktail-${kind}-${made}`;
}

// Writes only what differs: a text that is set again would be read aloud again.
export function setText(element, text) {
  if (element.textContent !== text) element.textContent = text;
}

// Replaces the children of an element, and keeps the focus: it goes to the new child with the same
// data-key, or to the first that can have it.
export function refill(element, ...children) {
  const focused = element.contains(document.activeElement) && element !== document.activeElement ? document.activeElement : null;
  const key = focused?.dataset.key;
  element.replaceChildren(...children);
  if (!focused) return;
  const all = [...element.querySelectorAll("button, input, select, summary, [tabindex]")];
  (all.find((one) => key !== undefined && one.dataset.key === key) ?? all[0])?.focus();
}

// Replaces children only when `state` differs from that of the last call for this element.
const states = new WeakMap();
export function changed(element, state) {
  const text = JSON.stringify(state);
  if (states.get(element) === text) return false;
  states.set(element, text);
  return true;
}
