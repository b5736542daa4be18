// How a run shares its device with ComfyUI's prompts, and who has the devices.
import { button, changed, make, newId, refill } from "./dom.mjs";
import { size } from "./words.mjs";

const POLICIES = [
  ["exclusive", "exclusive: keeps its device"],
  ["share", "share: leaves memory free"],
  ["polite", "polite: gives way to prompts"],
];

export class Sharing {
  static title = "Device";
  static route = "policy";

  constructor(panel) {
    this.panel = panel;
    this.form = make("div", {});
    this.list = make("ul", { class: "checkpoints" });
    this.element = make("div", { class: "sharing" }, this.form, this.list);
  }

  async load(run) {
    const { routes } = this.panel;
    const asked = Promise.all([routes.get(run.name), routes.fetch("/cocktail/devices", "devices", {})]);
    const [answer, devices] = (await this.panel.newest(this, run, asked)) ?? [];
    if (!answer) return;
    this.run = run;
    this.showForm(run, answer.sharing);
    this.showDevices(devices?.devices ?? []);
  }

  // Only what has changed is drawn anew: somebody may be typing.
  showForm(run, sharing) {
    const done = run.status === "finished";
    if (!changed(this.form, [run.name, done, sharing])) return;
    if (!sharing || done) {
      this.form.replaceChildren(make("p", { class: "quiet", text: done ? "It has finished: it uses no device." : "How it shares its device cannot be read." }));
      return;
    }
    const policy = make(
      "select",
      { id: newId("policy"), on: { change: () => fit() } },
      ...POLICIES.map(([value, text]) => make("option", { value, text, selected: value === sharing.policy })),
    );
    const number = (text, value) => make("input", { type: "number", min: 0, step: "any", value, "aria-label": text });
    const leave = number("gigabytes to leave", sharing.leave_gb);
    const idle = number("seconds without a prompt", sharing.idle_s);
    const leaves = make("label", { class: "field" }, make("span", { text: "Gigabytes to leave to others" }), leave);
    const idles = make("label", { class: "field" }, make("span", { text: "Goes on when no prompt has run for so many seconds" }), idle);
    const fit = () => {
      leaves.hidden = policy.value !== "share";
      idles.hidden = policy.value !== "polite";
    };
    const apply = () => {
      const value = { policy: policy.value };
      if (policy.value === "share") value.leave_gb = leave.valueAsNumber;
      if (policy.value === "polite") value.idle_s = idle.valueAsNumber;
      return this.panel.act(this.run, "policy", value, "It shares its device like this from its next step on.");
    };
    fit();
    refill(
      this.form,
      make("label", { class: "field" }, make("span", { text: "While prompts use its device" }), policy),
      leaves,
      idles,
      make("div", { class: "row" }, button("Apply", () => this.panel.does(apply), { class: "primary", "data-key": "apply" })),
    );
  }

  showDevices(devices) {
    if (!changed(this.list, devices)) return;
    refill(
      this.list,
      ...devices.map((device) => {
        const runs = (device.runs ?? []).map((one) => `${one.run} (${one.policy})`).join(", ");
        return make(
          "li",
          {},
          make(
            "div",
            { class: "grow" },
            make("div", { class: "name", title: device.name }, make("b", { text: device.title || device.name })),
            make("div", { class: "quiet", text: `${size(device.free)} of ${size(device.total)} free · ${runs || "no run at work"}` }),
          ),
        );
      }),
    );
  }
}
