// The feature page: tests a text of the reader's own on the feature, in place; copies the feature's id. Without
// scripts the form opens the reading page.

import { heat } from "./heat.js";

const form = document.querySelector("form.own-text");
const result = document.getElementById("own-result");
const words = document.getElementById("own-words");

function colour(token, value, top) {
  const span = document.createElement("span");
  span.textContent = token.shown.replaceAll("␣", " ");
  span.title = `${token.shown} · token ${token.id} · ${value ? value.toFixed(4).replace("-", "−") : "silent"}`;
  if (value) {
    span.classList.add(...heat(value / top));
  }
  return span;
}

async function test() {
  words.textContent = "Reading …";
  result.hidden = true;
  const response = await fetch("/api/v1/read", {
    method: "POST",
    headers: { "content-type": "application/json" },
    body: JSON.stringify({
      model: form.dataset.model,
      text: form.elements.text.value,
      sources: [form.dataset.source],
      feature: form.dataset.feature,
      positions: [],
    }),
  });
  const answer = await response.json();
  if (!response.ok) {
    words.textContent = answer.detail;
    return;
  }
  const values = answer.followed.values[0];
  const highest = values.reduce((far, value) => (Math.abs(value) > Math.abs(far) ? value : far), 0);
  const top = Math.max(Number(form.dataset.max), Math.abs(highest), 1e-6);
  result.replaceChildren(...answer.texts[0].tokens.map((token, place) => colour(token, values[place], top)));
  result.hidden = false;
  const n = values.filter((value) => value !== 0).length;
  const share = Math.abs(highest) / Math.max(Number(form.dataset.max), 1e-6);
  words.textContent = n
    ? `Fires on ${n} of ${values.length} tokens, at most ${highest.toFixed(3).replace("-", "−")}: ${Math.round(100 * share)} % of its maximum on the indexed text.`
    : `Silent on all ${values.length} tokens.`;
}

form?.addEventListener("submit", (event) => {
  event.preventDefault();
  test().catch(() => {
    words.textContent = "The server did not respond. The text is still in the field.";
  });
});

for (const button of document.querySelectorAll("button.copy")) {
  button.hidden = !navigator.clipboard;
  button.addEventListener("click", async () => {
    await navigator.clipboard.writeText(button.dataset.copy);
    const label = button.textContent;
    button.textContent = "Copied";
    setTimeout(() => {
      button.textContent = label;
    }, 1500);
  });
}
