// The button on a node that needs votes: it opens the page where they are cast.
const PROPERTY = "cocktail_vote";
const HEIGHT = 52;
const PAGE = "/cocktail/view#";

export function attach(node, api, listeners) {
  const link = document.createElement("a");
  link.target = "_blank";
  link.rel = "noopener";
  link.hidden = true;
  Object.assign(link.style, { boxSizing: "border-box", width: "100%", padding: "3px 8px", lineHeight: "18px", textAlign: "center", color: "inherit", border: "1px solid currentColor", borderRadius: "6px", textDecoration: "none" });
  const hint = document.createElement("span");
  hint.textContent = "a link to the vote appears here when the graph stops";
  const element = document.createElement("div");
  Object.assign(element.style, { display: "flex", alignItems: "center", fontSize: "12px", overflow: "hidden" });
  element.append(hint, link);
  const widget = node.addDOMWidget("vote", "cocktail_vote", element, {
    serialize: false,
    hideOnZoom: false,
    getValue: () => "",
    setValue: () => {},
    getMinHeight: () => HEIGHT,
    getMaxHeight: () => HEIGHT,
  });
  widget.serialize = false;

  function show(name, page) {
    if (typeof page !== "string" || !page.startsWith(PAGE)) return;
    node.properties ??= {};
    node.properties[PROPERTY] = { name, page };
    link.href = api.fileURL("/cocktail/view") + page.slice(page.indexOf("#"));
    link.textContent = `Vote on ${name}`;
    link.hidden = false;
    hint.hidden = true;
    node.setDirtyCanvas?.(true, true);
  }

  const listen = (event) => {
    if (event.vote !== undefined && String(event.node) === String(node.id)) show(event.name, event.vote);
  };
  listeners.add(listen);
  const removed = node.onRemoved;
  node.onRemoved = function (...given) {
    listeners.delete(listen);
    return removed?.apply(this, given);
  };
  // A saved graph brings its properties along after the node is there.
  const known = () => node.properties?.[PROPERTY] && show(String(node.properties[PROPERTY].name), node.properties[PROPERTY].page);
  const configured = node.onConfigure;
  node.onConfigure = function (...given) {
    known();
    return configured?.apply(this, given);
  };
  known();
}
