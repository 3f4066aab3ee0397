// The reading page works without scripts. With this one, selecting a token does not reload the page, and a status
// line shows that the model is reading.

const form = document.getElementById("reader");
const setStatus = (text) => {
  document.getElementById("status").textContent = text;
};

form?.addEventListener("submit", () => setStatus("Reading …"));
form?.elements.model.addEventListener("change", () => {
  for (const box of form.querySelectorAll("[name=source]")) box.checked = false; // they belong to another model
});

const k = form?.querySelector("[name=k][type=range]");
k?.addEventListener("input", () => {
  k.nextElementSibling.value = k.value === "0" ? "as trained" : k.value;
});
k?.addEventListener("change", () => {
  if (new URLSearchParams(location.search).get("text")) form.requestSubmit(); // the text that is read already
});

let asked = null;
let shown = location.search;

async function show(link) {
  asked?.abort(); // the answer to an earlier click may come later than this one's
  asked = new AbortController();
  setStatus("Reading …");
  const response = await fetch(link.href, { signal: asked.signal });
  const page = new DOMParser().parseFromString(await response.text(), "text/html");
  const section = page.getElementById("token");
  if (!response.ok || !section) {
    location.assign(link.href);
    return;
  }
  document.getElementById("token").replaceWith(section);
  for (const other of document.querySelectorAll(".grid thead a")) other.removeAttribute("aria-current");
  link.setAttribute("aria-current", "true");
  history.pushState(null, "", link.href);
  shown = location.search;
  setStatus("");
  section.scrollIntoView({ block: "nearest" });
}

document.querySelector(".grid thead")?.addEventListener("click", (event) => {
  const link = event.target.closest("a");
  if (!link || event.ctrlKey || event.metaKey || event.shiftKey) return;
  event.preventDefault();
  show(link).catch((error) => error.name === "AbortError" || location.assign(link.href));
});
addEventListener("popstate", () => location.search === shown || location.reload()); // not for a fragment alone
