// JSON whose whole numbers keep all their digits: seeds go up to 2^64, which the numbers of a page do
// not. Browsers that cannot do that (before 2025) round them, as ComfyUI's own page does.

const LONG = /[[:,\s]-?\d{16}/;

export function parse(text) {
  if (!LONG.test(text)) return JSON.parse(text);
  return JSON.parse(text, (_, value, context) => {
    const source = typeof value === "number" && !Number.isSafeInteger(value) ? (context?.source ?? "") : "";
    return /^-?\d+$/.test(source) ? BigInt(source) : value;
  });
}

export function write(value, indent) {
  return JSON.stringify(value, (_, one) => (typeof one === "bigint" ? (JSON.rawJSON?.(String(one)) ?? Number(one)) : one), indent);
}
