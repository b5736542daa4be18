// The cells of a grid, and how they are arranged: which axes are rows, columns and tabs.

const OF_MODELS = /checkpoint|ckpt|recipe/i;
const OF_PROMPTS = /prompt|text/i;

export class Grid {
  // `found` is what /cocktail/grids/NAME/states answers.
  constructor(found) {
    this.name = found.name;
    this.axes = found.axes;
    this.take(found);
  }

  take(found) {
    this.found = found;
    if (found.positions !== this.positions) this.at = new Map(found.positions.map((position, number) => [position.join(), number]));
    this.positions = found.positions;
    this.keys = found.keys;
    this.states = found.states;
    this.reasons = found.reasons ?? {};
    return this;
  }

  // The cell at a position: {key, state, position}, or null where rules leave it out.
  cell(position) {
    const number = this.at.get(position.join());
    return number === undefined ? null : { key: this.keys[number], state: this.states[number], position };
  }

  words(position) {
    return this.axes.map((axis, at) => `${axis.label}: ${axis.values[position[at]] || "empty"}`).join(", ");
  }

  count(state) {
    return [...this.states].filter((one) => one === state).length;
  }
}

// `rows` and `columns` are lists of axes, the outer one first; `tabs` holds the chosen value of every
// other axis; `away` holds the values of an axis that are not shown.
export class Arrangement {
  constructor(grid, { columns, rows, tabs = {}, away = {} } = {}) {
    this.grid = grid;
    const all = grid.axes.map((_, axis) => axis);
    const given = (list) => (list ?? []).filter((axis, at) => all.includes(axis) && list.indexOf(axis) === at);
    this.columns = columns ? given(columns) : all.slice(0, 1);
    this.rows = (rows ? given(rows) : all.slice(1, 3)).filter((axis) => !this.columns.includes(axis));
    this.away = all.map((axis) => new Set((away[axis] ?? []).filter((value) => value < grid.axes[axis].values.length)));
    this.tabs = all.map((axis) => this.kept(axis, tabs[axis]));
  }

  kept(axis, value) {
    const shown = this.values(axis);
    return shown.includes(value) ? value : (shown[0] ?? 0);
  }

  values(axis) {
    const all = this.grid.axes[axis].values.map((_, value) => value);
    const shown = all.filter((value) => !this.away[axis].has(value));
    return shown.length ? shown : all;
  }

  get rest() {
    return this.grid.axes.map((_, axis) => axis).filter((axis) => !this.rows.includes(axis) && !this.columns.includes(axis));
  }

  // The axes along which the large view goes, as on model sites, wherever they stand in the table:
  // prompts to the left and right, models or epochs up and down, and what is left besides.
  get ways() {
    const all = [...this.columns, ...this.rows, ...this.rest].filter((axis) => this.values(axis).length > 1);
    const named = (words, but) => all.find((axis) => axis !== but && words.test(this.grid.axes[axis].target));
    const models = named(OF_MODELS);
    const prompts = named(OF_PROMPTS, models) ?? all.find((axis) => axis !== models);
    const other = models ?? all.find((axis) => axis !== prompts);
    const list = (axis) => (axis === undefined ? [] : [axis]);
    return { across: list(prompts ?? other), down: list(other ?? prompts), besides: all.filter((axis) => axis !== prompts && axis !== other) };
  }

  // Every combination of the values of these axes, the last axis changing fastest.
  combinations(axes) {
    return axes.reduce((found, axis) => found.flatMap((one) => this.values(axis).map((value) => [...one, value])), [[]]);
  }

  position(row, column) {
    const position = [...this.tabs];
    this.rows.forEach((axis, at) => (position[axis] = row[at]));
    this.columns.forEach((axis, at) => (position[axis] = column[at]));
    return position;
  }

  move(axis, to, at = Infinity) {
    this.rows = this.rows.filter((one) => one !== axis);
    this.columns = this.columns.filter((one) => one !== axis);
    if (to !== "tabs") this[to].splice(Math.min(at, this[to].length), 0, axis);
    this.tabs[axis] = this.kept(axis, this.tabs[axis]);
  }

  toJson() {
    const away = Object.fromEntries(this.away.map((set, axis) => [axis, [...set]]).filter(([, list]) => list.length));
    return { columns: this.columns, rows: this.rows, tabs: this.tabs, away };
  }
}
