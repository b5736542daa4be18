// The loss curve of one run as the chart draws it: read from the server in a reduced form, then
// followed line by line. The arrays never grow beyond twice the points that were asked for.

const POINTS = 1000;
export const MOST = 2 * POINTS;

export class Curve {
  constructor(routes, name) {
    this.routes = routes;
    this.name = name;
    this.value = null;
    this.stale = true;
    this.loading = null;
  }

  // The whole curve, or its part from `from` to `to`, in the units of `x` (step, epoch or time).
  load(x, from, to) {
    const key = [x, from, to].join();
    if (this.loading?.key === key) return this.loading.done;
    const asked = (this.loading = { key });
    asked.done = this.fetch(asked, x, from, to).finally(() => {
      if (this.loading === asked) this.loading = null;
    });
    return asked.done;
  }

  async fetch(asked, x, from, to) {
    const value = await this.routes.get(this.name, "curve", { points: POINTS, x, from, to });
    if (value === null) return null;
    // Something else has been asked for since: this answer comes too late.
    if (this.loading !== asked) return this.value;
    this.value = whole(value);
    this.x = x;
    this.zoomed = from !== undefined;
    this.stale = false;
    this.read = Date.now();
    return this.value;
  }

  // Brings the curve up to date; answers whether it has changed.
  async follow() {
    if (!this.value || this.loading) return false;
    if (this.zoomed) return false;
    if (this.stale || this.x !== "step" || !Number.isFinite(this.value.next)) {
      if (Date.now() - this.read < 3000) return false;
      return Boolean(await this.load(this.x));
    }
    const value = this.value;
    const read = await this.routes.get(this.name, "metrics", { after: value.next });
    if (!read || this.value !== value) return false;
    value.next = read.next;
    const before = read.lines.length > 0;
    for (const line of read.lines) this.add(line);
    if (this.value.train.x.length > MOST) this.stale = true;
    if (this.stale) await this.load(this.x);
    return before;
  }

  add(line) {
    if (!line || !Number.isFinite(line.step)) return;
    const { train } = this.value;
    if (line.kind === "step") {
      if (!Number.isFinite(line.loss)) return;
      // A run that was resumed goes over steps again: the server knows which of them hold.
      if (train.x.length && line.step <= train.x.at(-1)) {
        this.stale = true;
        return;
      }
      train.x.push(line.step);
      for (const name of ["min", "max", "mean"]) train[name].push(line.loss);
      this.value.last_step = line.step;
    } else if (line.kind === "validation" || line.kind === "checkpoint") this.stale = true;
  }
}

// The answer with every part there, so that the chart need not ask.
function whole(value) {
  const train = { x: [], min: [], max: [], mean: [], ...value.train };
  return {
    ...value,
    train,
    rate: { x: [], unet: [], text_encoder: [], ...value.rate },
    validation: value.validation ?? {},
    checkpoints: value.checkpoints ?? [],
    restarts: value.restarts ?? [],
    best: value.best ?? null,
    voted: value.voted ?? null,
  };
}

// The moving average with the weight `share` on what was before, corrected for its beginning.
export function smoothed(values, share) {
  let sum = 0;
  let weight = 0;
  return values.map((value) => {
    if (!Number.isFinite(value)) return null;
    sum = share * sum + (1 - share) * value;
    weight = share * weight + (1 - share);
    return sum / weight;
  });
}
