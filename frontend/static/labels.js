// Adds and removes a feature's labels over REST, then shows the page again.

const section = document.querySelector("[data-labels]");
const form = section.querySelector("form");
const said = form.querySelector("[role=alert]");

async function send(path, options) {
  const answer = await fetch(section.dataset.labels + path, options);
  if (answer.ok) {
    location.reload();
    return;
  }
  const problem = await answer.json().catch(() => ({ detail: answer.statusText }));
  said.textContent = problem.detail;
  said.hidden = false;
}

form.hidden = false;
form.author.value = localStorage.getItem("author") ?? "";
form.addEventListener("submit", (event) => {
  event.preventDefault();
  localStorage.setItem("author", form.author.value);
  send("", {
    method: "POST",
    headers: { "content-type": "application/json" },
    body: JSON.stringify(Object.fromEntries(new FormData(form))),
  });
});
for (const button of section.querySelectorAll("[data-remove]")) {
  button.hidden = false;
  button.addEventListener("click", () => send(`/${button.dataset.remove}`, { method: "DELETE" }));
}
