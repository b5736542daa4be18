// Learning rates and other fine numbers are read and typed as 1.5e-6 or 0.99995. ComfyUI's number
// widget shows them as 0, 0.0000015 or 1.000, so that on the pack's own nodes each of them becomes a
// text widget. The input stays a FLOAT: a link fits as before, and prompts and saved workflows hold
// the number.

const FINE_STEP = 1e-3;
const SMALL = 1e-3;

// Called while the node is made, before its saved values are put in.
export function readFineNumbers(node) {
  const texts = [];
  for (const [at, widget] of (node.widgets ?? []).entries()) {
    const step = widget.options?.step2 ?? widget.options?.step / 10;
    if (widget.type === "number" && step <= FINE_STEP) texts.push(replace(node, at, widget));
  }
  if (!texts.length) return;
  const configured = node.onConfigure;
  node.onConfigure = function (...given) {
    const answer = configured?.apply(this, given);
    for (const text of texts) text.value = written(text.value);
    return answer;
  };
  const serialized = node.onSerialize;
  node.onSerialize = function (saved, ...given) {
    const answer = serialized?.call(this, saved, ...given);
    for (const text of texts) {
      const at = this.widgets.indexOf(text);
      if (saved.widgets_values?.[at] !== undefined) saved.widgets_values[at] = numberOf(text.value);
      if (saved.widgets_values_named?.[text.name] !== undefined) saved.widgets_values_named[text.name] = numberOf(text.value);
    }
    return answer;
  };
}

function replace(node, at, widget) {
  const size = [...node.size];
  const options = Object.fromEntries(["advanced", "hidden"].filter((name) => widget.options[name] !== undefined).map((name) => [name, widget.options[name]]));
  const typed = (value) => {
    // In Nodes 2.0 this is called with every key: what is being typed stays as it is.
    if (!globalThis.LiteGraph?.vueNodesMode) text.value = written(value);
  };
  const text = node.addWidget("text", widget.name, written(widget.value), typed, options);
  node.widgets.splice(node.widgets.indexOf(text), 1);
  node.widgets[at] = text;
  // Newer pages know by the options alone where an advanced widget is seen; told like this, they would
  // leave it out of the classic canvas too.
  const kept = text.visibility ? ["label", "tooltip"] : ["label", "tooltip", "hidden", "advanced"];
  for (const name of kept) if (widget[name] !== undefined) text[name] = widget[name];
  text.serializeValue = () => numberOf(text.value);
  node.setSize(size);
  return text;
}

// 0.0000015 -> "1.5e-6"; what is no number stays as it is.
export function written(value) {
  const number = numberOf(value);
  if (typeof number !== "number") return String(value);
  return number !== 0 && Math.abs(number) < SMALL ? number.toExponential() : String(number);
}

// The number that a text says. Any other text stays: the server refuses it and names the input.
export function numberOf(value) {
  if (typeof value !== "string" || value.trim() === "") return value;
  const number = Number(value);
  return Number.isFinite(number) ? number : value;
}
