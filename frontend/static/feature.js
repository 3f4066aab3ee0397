// The feature page: tests a text of the reader's own on the feature, in place; copies the feature's id. Without
// scripts the form opens the reading page.

import { heat } from "./heat.js";

const form = document.querySelector("form.own-text");
const result = document.getElementById("own-result");
const words = document.getElementById("own-words");

const JOINER = "\u200d"; // joins emoji
const said = (value) => (value ? value.toFixed(4).replace("-", "−") : "silent");

/** The characters that tokens stand for together; null where the last is cut, or bytes belong to none. */
function joined(tokens) {
  const bytes = tokens.flatMap(({ raw = "" }) => (raw.match(/../g) ?? []).map((pair) => parseInt(pair, 16)));
  try {
    return new TextDecoder("utf-8", { fatal: true, ignoreBOM: true }).decode(Uint8Array.from(bytes));
  } catch {
    return null;
  }
}

/** The places of tokens, those of one character (or one joined emoji) together: at most four bytes a character. */
function runs(tokens) {
  const found = [];
  for (let first = 0; first < tokens.length; ) {
    const ends = [1, 2, 3, 4].map((n) => first + n);
    const end = ends.find((one) => one <= tokens.length && joined(tokens.slice(first, one)) !== null) ?? first + 1;
    const text = joined(tokens.slice(first, end));
    const goesOn = found.length && (text?.startsWith(JOINER) || found.at(-1).text?.endsWith(JOINER));
    const run = goesOn ? found.pop() : { first, text: "" };
    found.push({ first: run.first, end, text: text === null ? null : run.text + text });
    first = end;
  }
  return found;
}

function colour({ first, end, text }, tokens, values, top) {
  const own = tokens.slice(first, end);
  const value = highest(values.slice(first, end));
  const span = document.createElement("span");
  span.textContent = own.length > 1 && text !== null ? text : own[0].shown.replaceAll("␣", " ");
  span.title = own.map((token, n) => `${token.shown} · token ${token.id} · ${said(values[first + n])}`).join("\n");
  if (value) {
    span.classList.add(...heat(value / top));
  }
  return span;
}

const highest = (values) => values.reduce((far, value) => (Math.abs(value) > Math.abs(far) ? value : far), 0);
let asked = null;

async function test() {
  asked?.abort(); // the answer on an earlier text may come later than this one's
  asked = new AbortController();
  words.textContent = "Reading …";
  result.hidden = true;
  const response = await fetch("/api/v1/read", {
    method: "POST",
    signal: asked.signal,
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
  const most = highest(values);
  const top = Math.max(Number(form.dataset.max), Math.abs(most), 1e-6);
  const { tokens } = answer.texts[0];
  result.replaceChildren(...runs(tokens).map((run) => colour(run, tokens, values, top)));
  result.hidden = false;
  const n = values.filter((value) => value !== 0).length;
  const share = Math.abs(most) / Math.max(Number(form.dataset.max), 1e-6);
  words.textContent = n
    ? `Fires on ${n} of ${values.length} tokens, at most ${most.toFixed(3).replace("-", "−")}: ${Math.round(100 * share)} % of its maximum on the indexed text.`
    : `Silent on all ${values.length} tokens.`;
}

form?.addEventListener("submit", (event) => {
  event.preventDefault();
  test().catch((error) => {
    if (error.name === "AbortError") return;
    words.textContent = `The text could not be read: ${error.message}. It is still in the field.`;
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
