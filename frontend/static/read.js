// The reading page works as links and a form; this saves the page's reload when a token is chosen, and says that the model is at work.

const form = document.getElementById("reader");
const say = (words) => { document.getElementById("status").textContent = words; };

form?.addEventListener("submit", () => say("Reading …"));
form?.elements.model.addEventListener("change", () => {
  for (const box of form.querySelectorAll("[name=source]")) box.checked = false; // another model's dictionaries
});

async function show(link, push) {
  say("Reading …");
  const answer = await fetch(link.href);
  const page = new DOMParser().parseFromString(await answer.text(), "text/html");
  const section = page.getElementById("token");
  if (!answer.ok || !section) { location.assign(link.href); return; }
  document.getElementById("token").replaceWith(section);
  for (const other of document.querySelectorAll(".grid thead a")) other.removeAttribute("aria-current");
  link.setAttribute("aria-current", "true");
  if (push) history.pushState(null, "", link.href);
  say("");
  section.scrollIntoView({ block: "nearest" });
}

document.querySelector(".grid thead")?.addEventListener("click", (event) => {
  const link = event.target.closest("a");
  if (!link || event.ctrlKey || event.metaKey || event.shiftKey) return;
  event.preventDefault();
  show(link, true).catch(() => location.assign(link.href));
});
addEventListener("popstate", () => location.reload());
