// Follows a build: the progress page renews its parts, and other pages with an element #building show one line.

const WAIT = 2000;
const part = (page, id) => page.getElementById(id);

async function renew() {
  const answer = await fetch("/progress", { headers: { accept: "text/html" } });
  if (!answer.ok) return true;
  const page = new DOMParser().parseFromString(await answer.text(), "text/html");
  for (const id of ["now", "build", "built"]) {
    const [now, next] = [part(document, id), part(page, id)];
    if (now.innerHTML !== next.innerHTML) now.replaceChildren(...next.childNodes);
  }
  document.querySelector("h1").textContent = page.querySelector("h1").textContent;
  return page.querySelector("[data-build]").dataset.build === "running";
}

async function tell(line) {
  const answer = await fetch("/progress.json");
  if (!answer.ok) return true;
  const found = await answer.json();
  const running = found.state === "running";
  const now = found.steps.find((step) => step.state === "running");
  line.hidden = !running;
  line.querySelector("span").textContent = now ? now.label : "";
  const there = Number(line.dataset.dictionaries);
  if (found.dictionaries.length > there) {
    line.hidden = false;
    line.querySelector("span").textContent = `${found.dictionaries.length - there} more can be read: reload this page.`;
  }
  return running;
}

async function follow(step) {
  try {
    if (!(await step())) return;
  } catch {
    /* the server is away for a moment */
  }
  setTimeout(() => follow(step), WAIT);
}

const line = document.getElementById("building");
if (line) follow(() => tell(line));
else if (document.querySelector("[data-build=running]")) follow(renew);
