// What can be done with a run. Each button is a route; where something would be lost it asks first.
import { ask } from "./dialog.mjs";
import { button, changed, make } from "./dom.mjs";
import { atWork, canGoOn, count, rests, titleOf } from "./words.mjs";

const ACTIONS = [
  {
    what: "resume",
    text: (run) => (run.step ? "Resume" : "Start"),
    when: canGoOn,
    press: (panel, run) => panel.act(run, "resume", {}, "It waits for its turn."),
    kind: "primary",
  },
  {
    what: "pause",
    text: () => "Pause",
    title: "saves, and frees the device",
    when: (run) => atWork(run) && run.status !== "stopping",
    press: (panel, run) => panel.act(run, "pause", {}, "It saves and then frees the device."),
  },
  {
    what: "stop",
    text: () => "Stop",
    title: "saves, and ends; it can be resumed",
    when: (run) => run.status === "queued" || rests(run) || (atWork(run) && run.status !== "stopping"),
    press: (panel, run) => panel.act(run, "stop", {}, run.status === "queued" ? "It leaves the queue." : "It stops after the step it is in."),
  },
  {
    what: "save",
    text: () => "Save now",
    title: "writes a checkpoint after this step",
    when: (run) => run.status === "running",
    press: (panel, run) => panel.act(run, "save", {}, "A checkpoint is written after this step."),
  },
  {
    what: "sample",
    text: () => "Sample now…",
    title: "draws pictures after this step",
    when: (run) => run.status === "running",
    press: sample,
  },
  {
    what: "extend",
    text: () => "Extend…",
    title: "more epochs",
    when: (run) => run.status === "finished" || canGoOn(run),
    press: extend,
    kind: "quiet",
  },
  {
    what: "fork",
    text: () => "Fork…",
    title: "a new run that starts from one of its checkpoints",
    when: (run) => run.status !== "unreadable" && run.step > 0,
    press: async (panel, run) => {
      const answer = await panel.routes.get(run.name);
      await fork(panel, run, answer?.checkpoints ?? []);
    },
    kind: "quiet",
  },
  { what: "rename", text: () => "Rename…", when: (run) => run.status !== "unreadable", press: rename, kind: "quiet" },
  { what: "delete", text: () => "Delete…", when: (run) => run.status !== "queued" && !atWork(run), press: remove, kind: "quiet" },
];

// Fills `row` with the buttons that fit the run's state.
export function showButtons(row, panel, run) {
  const shown = ACTIONS.filter((action) => panel.routes.has(action.what) && action.when(run));
  if (!changed(row, [run.name, shown.map((action) => action.text(run))])) return;
  const focused = row.contains(document.activeElement) ? document.activeElement.dataset.what : null;
  const made = (actions) =>
    actions.map((action) =>
      button(action.text(run), () => panel.does(() => action.press(panel, panel.current(run))), {
        class: action.kind,
        title: action.title,
        "data-what": action.what,
      }),
    );
  row.replaceChildren(
    make("div", { class: "row" }, ...made(shown.filter(({ kind }) => kind !== "quiet"))),
    make("div", { class: "row tight" }, ...made(shown.filter(({ kind }) => kind === "quiet"))),
  );
  if (focused) (row.querySelector(`[data-what="${focused}"]`) ?? row.querySelector("button"))?.focus();
}

async function sample(panel, run) {
  const given = await ask(panel.root, {
    title: "Sample now",
    text: "Pictures are drawn after the step the run is in.",
    fields: [{ name: "prompts", label: "Prompts, one per line; empty: those of the run", type: "textarea" }],
    confirm: "Draw",
  });
  if (!given) return "";
  const prompts = given.prompts.split("\n").map((prompt) => prompt.trim()).filter(Boolean);
  return panel.act(run, "sample", prompts.length ? { prompts } : {}, "Pictures are drawn after this step.");
}

async function extend(panel, run) {
  const given = await ask(panel.root, {
    title: `Extend ${titleOf(run)}`,
    text: `It has ${count(run.epochs, "epoch")}. It goes on where it ended.`,
    fields: [
      { name: "epochs", label: "Epochs in all", type: "number", value: run.epochs + Math.max(1, Math.round(run.epochs / 2)), min: run.epochs + 1, max: 10000, required: true },
      { name: "start", label: "Go on at once", type: "checkbox", value: true },
    ],
    confirm: "Extend",
  });
  return given ? panel.act(run, "extend", given, `It now has ${count(given.epochs, "epoch")}.`) : "";
}

// `step` is that of the checkpoint to begin with; without it the best is offered.
export async function fork(panel, run, checkpoints, step) {
  if (!checkpoints.length) throw new Error("There is no checkpoint to fork from. Save one first.");
  const taken = new Set(panel.runs.map((one) => one.name));
  let number = 2;
  while (taken.has(`${run.name.slice(0, 58)}-${number}`)) number += 1;
  const saved = [...checkpoints].reverse();
  const best = saved.find((checkpoint) => checkpoint.best);
  const words = (one) => `epoch ${one.epoch}, step ${one.step}`;
  const given = await ask(panel.root, {
    title: `Fork ${titleOf(run)}`,
    text: "A new run with the same data and settings; its base is a checkpoint of this one.",
    fields: [
      { name: "name", label: "Name", value: `${run.name.slice(0, 58)}-${number}`, required: true, maxlength: 64, pattern: "[a-zA-Z0-9][a-zA-Z0-9._\\-]*", hint: "letters, digits, - _ ." },
      {
        name: "step", label: "From", type: "select", value: step ?? (best ?? saved[0]).step,
        options: saved.map((one) => [one.step, `${words(one)}${one.best ? " (best)" : ""}`]),
      },
      { name: "start", label: "Start it at once", type: "checkbox", value: true },
    ],
    confirm: "Fork",
  });
  if (!given) return "";
  const from = saved.find((one) => one.step === Number(given.step));
  const body = { name: given.name, step: from.step, start: given.start };
  const made = await panel.routes.post(run.name, "fork", body);
  panel.merge([made]);
  await panel.open(made.name ?? given.name);
  return `Made ${given.name} from ${words(from)} of ${titleOf(run)}. ${made.note ?? ""}`.trim();
}

async function rename(panel, run) {
  const given = await ask(panel.root, {
    title: "Rename",
    text: `Only what is shown changes. Its folder and its checkpoints keep the name ${run.name}.`,
    fields: [{ name: "title", label: "Title", value: titleOf(run), maxlength: 200 }],
    confirm: "Rename",
  });
  return given ? panel.act(run, "rename", { title: given.title.trim() }) : "";
}

async function remove(panel, run) {
  const answer = await panel.routes.get(run.name);
  const many = answer?.checkpoints?.length ?? 0;
  const given = await ask(panel.root, {
    title: `Delete ${titleOf(run)}?`,
    text: "It goes to the bin in the output folder. The bin at the end of the list of runs brings it back.",
    fields: many ? [{ name: "checkpoints", label: `Its ${count(many, "checkpoint")} too. Graphs that load them stop working.`, type: "checkbox" }] : [],
    confirm: "Delete",
    danger: true,
  });
  if (!given) return "";
  await panel.routes.post(run.name, "delete", { checkpoints: Boolean(given.checkpoints) });
  panel.leave(run.name);
  return `${titleOf(run)} is in the bin.`;
}
