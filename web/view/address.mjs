// What is shown, in the page's address: #grid=NAME, #vote=NAME&axis=TARGET&count=4&method=rounds&votes=480, or
// all of it as JSON.

export function address(state) {
  return `#${encodeURIComponent(JSON.stringify(state))}`;
}

export function asked() {
  const hash = location.hash.slice(1);
  const words = new URLSearchParams(hash);
  if (words.has("vote")) {
    const asked = { grid: words.get("vote"), vote: true, axis: words.get("axis") ?? "", count: Number(words.get("count")) };
    return words.has("method") ? { ...asked, method: words.get("method"), votes: words.get("votes") ?? undefined } : asked;
  }
  if (words.has("grid")) return { grid: words.get("grid") };
  const text = decodeURIComponent(hash);
  const found = JSON.parse(text || "{}");
  return found && typeof found === "object" ? found : {};
}
