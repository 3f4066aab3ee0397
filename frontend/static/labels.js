// Adds and removes a feature's labels over REST, then shows the page again.

const section = document.querySelector("[data-labels]");
const form = section.querySelector("form");
const said = form.querySelector("[role=alert]");

async function send(path, options) {
  try {
    const answer = await fetch(section.dataset.labels + path, options);
    if (answer.ok) return location.reload();
    said.textContent = (await answer.json().catch(() => ({ detail: answer.statusText }))).detail;
  } catch (error) {
    said.textContent = `The server cannot be reached: ${error.message}. What you wrote is still here.`;
  }
  said.hidden = false;
}

/** The name that was given last; empty where the browser stores nothing. */
function lastAuthor() {
  try {
    return localStorage.getItem("author") ?? "";
  } catch {
    return "";
  }
}

form.author.value = lastAuthor();
form.hidden = false;
form.addEventListener("submit", (event) => {
  event.preventDefault();
  try {
    localStorage.setItem("author", form.author.value);
  } catch {
    /* the name is asked for again next time */
  }
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
