// Where each axis is: a chip that is dragged between columns, rows and tabs, or moved by its menu.
import { button, make, refill } from "../runs/dom.mjs";

const DRAGGED = "text/x-cocktail-axis";
const PLACES = [["columns", "Columns"], ["rows", "Rows"], ["tabs", "Tabs"]];

export class Axes {
  constructor(page) {
    this.page = page;
    this.element = make("nav", { class: "axes", "aria-label": "where the axes are" });
  }

  show() {
    const { arrangement } = this.page;
    const open = this.element.querySelector("details[open]")?.dataset.axis;
    const lists = { columns: arrangement.columns, rows: arrangement.rows, tabs: arrangement.rest };
    refill(this.element, ...PLACES.map(([place, title]) => this.zone(place, title, lists[place], open)));
  }

  zone(place, title, axes, open) {
    const allow = (event) => event.preventDefault();
    const drop = (event) => {
      event.preventDefault();
      const axis = Number(event.dataTransfer.getData(DRAGGED) || NaN);
      if (!(axis in this.page.grid.axes)) return;
      const before = event.target.closest("details")?.dataset.axis;
      const at = before === undefined ? Infinity : axes.indexOf(Number(before));
      this.move(axis, place, at < 0 ? Infinity : at);
    };
    return make("div", { class: "zone", on: { dragover: allow, drop } }, make("span", { class: "quiet", text: title }), ...axes.map((axis, at) => this.chip(axis, at, axes, place, String(axis) === open)));
  }

  chip(axis, at, axes, place, open) {
    const { grid, arrangement } = this.page;
    const { label, values } = grid.axes[axis];
    const summary = make("summary", { text: label, draggable: "true", "data-key": `${axis} chip`, on: { dragstart: (event) => event.dataTransfer.setData(DRAGGED, String(axis)) } });
    const move = make(
      "select",
      { "aria-label": `where ${label} is`, "data-key": `${axis} place`, on: { change: (event) => this.move(axis, event.target.value) } },
      ...PLACES.map(([value, text]) => make("option", { value, text, selected: value === place })),
    );
    const outer = button("Further out", () => this.move(axis, place, at - 1), { "data-key": `${axis} outer`, disabled: at === 0 || place === "tabs" });
    const inner = button("Further in", () => this.move(axis, place, at + 1), { "data-key": `${axis} inner`, disabled: at === axes.length - 1 || place === "tabs" });
    const shown = values.map((text, value) => {
      const box = make("input", { type: "checkbox", "data-key": `${axis} value ${value}`, checked: !arrangement.away[axis].has(value), on: { change: () => this.hide(axis, value, !box.checked) } });
      return make("label", { class: "check" }, box, make("span", { text: text || "empty" }));
    });
    const menu = make("div", { class: "menu" }, make("div", { class: "row" }, move, outer, inner), make("div", { class: "values" }, ...shown));
    const chip = make("details", { class: "chip", open, "data-axis": String(axis) }, summary, menu);
    if (place !== "tabs" || values.length < 2) return chip;
    const tabs = arrangement.values(axis).map((value) =>
      button(values[value] || "empty", () => this.choose(axis, value), { class: "tab", "data-key": `${axis} tab ${value}`, "aria-pressed": String(arrangement.tabs[axis] === value) }),
    );
    return make("span", { class: "tabbed" }, chip, make("span", { class: "tabs", role: "group", "aria-label": label }, ...tabs));
  }

  move(axis, place, at) {
    this.page.arrangement.move(axis, place, at);
    this.page.arranged();
  }

  choose(axis, value) {
    this.page.arrangement.tabs[axis] = value;
    this.page.arranged();
  }

  hide(axis, value, away) {
    const { arrangement } = this.page;
    if (away) arrangement.away[axis].add(value);
    else arrangement.away[axis].delete(value);
    arrangement.tabs[axis] = arrangement.kept(axis, arrangement.tabs[axis]);
    this.page.arranged();
  }
}
