// Questions. Esc and a click beside the dialog are "no".
import { button, make, newId } from "./dom.mjs";

// Answers the values of `fields` by name, or null. A field is {name, label, type, value, min, max, maxlength, hint}.
export function ask(root, { title, text = "", fields = [], confirm, danger = false }) {
  return new Promise((answer) => {
    const heading = newId("question");
    const inputs = fields.map((field) => [field, inputOf(field)]);
    const yes = make("button", { type: "submit", class: danger ? "danger" : "primary", text: confirm });
    const dialog = make(
      "dialog",
      { class: "cocktail-dialog", "aria-labelledby": heading },
      make(
        "form",
        { method: "dialog" },
        make("h3", { id: heading, text: title }),
        text ? make("p", { text }) : null,
        ...inputs.map(([field, input]) => labelled(field, input)),
        make("div", { class: "row end" }, button("Cancel", () => dialog.close()), yes),
      ),
    );
    let given = null;
    dialog.querySelector("form").addEventListener("submit", () => {
      given = Object.fromEntries(inputs.map(([field, input]) => [field.name, valueOf(field, input)]));
    });
    dialog.addEventListener("click", (event) => {
      if (event.target === dialog) dialog.close();
    });
    dialog.addEventListener("keydown", (event) => event.stopPropagation());
    dialog.addEventListener("close", () => {
      dialog.remove();
      answer(given);
    });
    root.append(dialog);
    dialog.showModal();
    const first = inputs.find(([field]) => field.type !== "checkbox")?.[1];
    if (first) {
      first.focus();
      first.select?.();
    } else if (danger) dialog.querySelector(".end button").focus();
  });
}

function inputOf(field) {
  if (field.type === "select")
    return make(
      "select",
      {},
      ...field.options.map(([value, text]) => make("option", { value, text, selected: value === field.value })),
    );
  if (field.type === "textarea") return make("textarea", { rows: 4, value: field.value ?? "", placeholder: field.placeholder });
  const given = { type: field.type ?? "text", min: field.min, max: field.max, step: field.step, maxlength: field.maxlength };
  if (field.type === "checkbox") return make("input", { ...given, checked: Boolean(field.value) });
  return make("input", { ...given, value: field.value ?? "", required: field.required ? "" : undefined, pattern: field.pattern, title: field.hint });
}

function labelled(field, input) {
  const text = make("span", { text: field.label });
  if (field.type === "checkbox") return make("label", { class: "check" }, input, text);
  return make("label", { class: "field" }, text, input, field.hint ? make("small", { text: field.hint }) : null);
}

function valueOf(field, input) {
  if (field.type === "checkbox") return input.checked;
  return field.type === "number" ? Number(input.value) : input.value;
}
