// How the panel writes numbers, sizes, times and states.

export const ACTIVE = ["preparing", "running", "paused", "stopping"];
export const BUSY = ["preparing", "running", "stopping"];

// A run that a person has paused has no process. Other pauses, for a prompt or a full disk, end by
// themselves: the run is at work.
export const rests = (run) => run.status === "paused" && run.at_rest === true;
export const atWork = (run) => ACTIVE.includes(run.status) && !rests(run);
export const canGoOn = (run) => ["stopped", "interrupted", "failed"].includes(run.status) || rests(run);

// Between a number and its unit no line ends.
const SPACE = "\u00a0";
const UNITS = [[86400, "d"], [3600, "h"], [60, "min"], [1, "s"]];

// 4210 -> "1 h 10 min"
export function duration(seconds) {
  if (!Number.isFinite(seconds) || seconds < 0) return "";
  if (seconds < 1) return "0 s";
  const at = UNITS.findIndex(([size]) => seconds >= size);
  const [size, unit] = UNITS[at];
  const whole = Math.floor(seconds / size);
  const next = UNITS[at + 1];
  const rest = next ? Math.floor((seconds % size) / next[0]) : 0;
  return rest ? `${whole} ${unit} ${rest} ${next[1]}` : `${whole} ${unit}`;
}

export function size(bytes) {
  if (!Number.isFinite(bytes)) return "";
  const at = Math.min(4, Math.floor(Math.log10(Math.max(1, bytes)) / 3));
  const value = bytes / 1000 ** at;
  return `${value.toFixed(at && value < 100 ? 1 : 0)}${SPACE}${["bytes", "kB", "MB", "GB", "TB"][at]}`;
}

// A loss or a rate, short enough for a table: 0.1384, 1.5e-6.
export function number(value, digits = 4) {
  if (value === null || value === undefined || !Number.isFinite(value)) return "–";
  if (value !== 0 && Math.abs(value) < 1e-3) return String(Number(value.toPrecision(digits)).toExponential()).replace("e+", "e");
  return Math.abs(value) >= 1e4 ? String(Math.round(value)) : String(Number(value.toPrecision(digits)));
}

export function percent(share) {
  if (!Number.isFinite(share)) return "";
  return `${share > 0 ? "+" : ""}${(100 * share).toFixed(1)}${SPACE}%`;
}

export function count(many, one, more = `${one}s`) {
  return `${many} ${many === 1 ? one : more}`;
}

// What changes when a run has validated: until then its figures are the same.
export function validated({ name, status, epoch, epochs, first_validation, last_validation, best }) {
  return JSON.stringify([name, status, epoch, epochs, first_validation, last_validation, best]);
}

// A GPU by its name: what tells it from others is a number of 36 characters.
export function deviceOf(run) {
  return run.device_title || run.device;
}

export function titleOf(run) {
  return run.title || run.name;
}

export function date(seconds) {
  return seconds ? new Date(1000 * seconds).toLocaleString() : "";
}
