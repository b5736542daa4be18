// What is shown, in the page's address: #grid=NAME, #vote=NAME&axis=TARGET&count=4&method=rounds&votes=480&where=size = 512,
// or all of it as JSON.

export function address(state) {
  return `#${encodeURIComponent(JSON.stringify(state))}`;
}

export function asked() {
  const hash = location.hash.slice(1);
  const words = new URLSearchParams(hash);
  if (words.has("vote")) {
    const rules = ["method", "votes", "where"].filter((name) => words.has(name)).map((name) => [name, words.get(name)]);
    return { grid: words.get("vote"), vote: true, axis: words.get("axis") ?? "", count: Number(words.get("count")), ...Object.fromEntries(rules) };
  }
  if (words.has("grid")) return { grid: words.get("grid") };
  const text = decodeURIComponent(hash);
  const found = JSON.parse(text || "{}");
  return found && typeof found === "object" ? found : {};
}
