// Live steering: the form becomes a records.SteerRequest, the answer is an event stream read as it arrives.

import { events } from "./stream.js";

const form = document.getElementById("steer");
const at = (id) => document.getElementById(id);
const FEATURE_ID = /^[^/\s]+\/\d+-[^/\s]+\/\d+$/;
let running = null;

const typed = (text) => text.replaceAll("␣", " ").replaceAll("↵", "\n").replaceAll("⇥", "\t");
const marked = (text) => text.replaceAll(" ", "␣").replaceAll("\n", "↵").replaceAll("\t", "⇥");

function layersOf(model) {
  const known = JSON.parse(at("layers").textContent)[model] ?? [];
  return [...new Set(known.map((l) => l.layer))].sort((a, b) => a - b);
}

function fillLayers(select) {
  const layers = layersOf(form.elements.model.value);
  const wanted = Number(select.value || select.dataset.layer || layers[Math.floor(layers.length / 2)]);
  select.replaceChildren(...layers.map((l) => new Option(l, l, false, l === wanted)));
}

function refresh(item) {
  const strength = Number(item.querySelector(".slider").value);
  const removing = item.querySelector(".mode").value === "ablate";
  item.querySelector(".where").hidden = FEATURE_ID.test(item.querySelector(".target").value.trim());
  item.querySelector(".how").hidden = removing;
  const output = item.querySelector(".strength");
  output.textContent = `${strength.toFixed(2)}×${Math.abs(strength) > 1 ? " off-manifold" : ""}`;
  output.classList.toggle("far", Math.abs(strength) > 1);
}

function refreshAll() {
  const items = [...at("interventions").children];
  for (const item of items) refresh(item);
  for (const item of items) item.querySelector(".remove").disabled = items.length === 1;
}

function request() {
  const features = [...at("interventions").children].map((item) => {
    const text = item.querySelector(".target").value;
    const who = FEATURE_ID.test(text.trim())
      ? { id: text.trim() }
      : { token: typed(text), layer: Number(item.querySelector(".layer").value) };
    return { ...who, mode: item.querySelector(".mode").value, strength: Number(item.querySelector(".slider").value) };
  });
  const { model, prompt, max_tokens, temperature, seed } = form.elements;
  return {
    model: model.value, prompt: prompt.value, features,
    max_tokens: Number(max_tokens.value), temperature: Number(temperature.value), seed: Number(seed.value),
  };
}

function say(words) { at("status").textContent = words; }

function fail(words) {
  at("failure").textContent = words;
  at("failure").hidden = false;
  say("");
}

function begin(prompt) {
  at("failure").hidden = true;
  at("effect").hidden = true;
  at("outcome").hidden = false;
  for (const id of ["default-text", "steered-text"]) {
    const start = Object.assign(document.createElement("span"), { className: "prompt", textContent: prompt });
    at(id).replaceChildren(start);
  }
}

function write(id, generated) {
  if (!generated) return;
  const piece = document.createElement("span");
  piece.textContent = generated.text;
  piece.title = `${generated.token.shown} · token ${generated.token.id} · p ${Math.exp(generated.logprob).toPrecision(3)}`;
  at(id).append(piece);
}

function cell(content, numeric = false) {
  const td = document.createElement("td");
  if (numeric) td.className = "num";
  td.append(content);
  return td;
}

function chip(feature) {
  const a = Object.assign(document.createElement("a"), { className: "chip", href: `/${feature.id}`, textContent: feature.name.shown });
  a.title = `token ${feature.name.id}`;
  return a;
}

function report({ kl_first, effects }) {
  const share = (p) => `${(100 * p).toPrecision(3)} %`;
  at("effect").querySelector("tbody").replaceChildren(...effects.map((e) => {
    const row = document.createElement("tr");
    row.append(
      cell(chip(e.feature)), cell(`${e.feature.source} · ${e.feature.index}`),
      cell(e.mode === "ablate" ? "ablated" : `${e.strength > 0 ? "+" : ""}${e.strength.toFixed(2)}×`),
      cell(share(e.probability_default), true), cell(share(e.probability_steered), true),
      cell(e.rank_default.toLocaleString("en"), true), cell(e.rank_steered.toLocaleString("en"), true),
    );
    return row;
  }));
  at("kl").textContent = `KL(steered ‖ default) there: ${kl_first.toFixed(3)} nats.`;
  at("effect").hidden = false;
}

const on = {
  resolved({ features }) { say(`Writing with ${features.map((f) => `${f.name.shown} (layer ${f.layer})`).join(", ")} …`); },
  step(event) { write("default-text", event.default); write("steered-text", event.steered); },
  effect: report,
  done({ tokens_per_second }) { say(`Done, ${tokens_per_second.toFixed(1)} tokens a second.`); },
  error({ error }) { fail(error); },
};

/** The words for an answer that is no stream: our own ErrorRecord, or the status alone. */
async function refusal(response) {
  try {
    const { error, kept } = await response.json();
    if (error) return kept ? `${error} ${kept}` : error;
  } catch { /* the answer is not JSON */ }
  return `The server answered ${response.status} ${response.statusText}.`;
}

async function steer() {
  running?.abort();
  const mine = (running = new AbortController());
  const body = request();
  begin(body.prompt);
  say("Waiting for the model …");
  at("stop").disabled = false;
  try {
    const response = await fetch("/api/v1/steer", {
      method: "POST", signal: mine.signal, body: JSON.stringify(body),
      headers: { "content-type": "application/json", accept: "text/event-stream" },
    });
    if (!response.ok) { at("outcome").hidden = true; fail(await refusal(response)); return; }
    let last = "";
    for await (const event of events(response.body)) { last = event.event; on[event.event]?.(event); }
    if (last !== "done" && last !== "error") fail("The stream ended early: the model worker stopped. What was written is kept above.");
  } catch (error) {
    if (mine.signal.aborted) { if (running === mine) say("Stopped."); }
    else fail(`The server cannot be reached: ${error.message}.`);
  } finally {
    if (running === mine) { running = null; at("stop").disabled = true; }
  }
}

if (form) {
  for (const select of form.querySelectorAll(".layer")) fillLayers(select);
  for (const target of form.querySelectorAll(".target")) if (!FEATURE_ID.test(target.value)) target.value = marked(target.value);
  refreshAll();
  form.addEventListener("input", (event) => { const item = event.target.closest(".intervention"); if (item) refresh(item); });
  form.elements.model.addEventListener("change", () => form.querySelectorAll(".layer").forEach(fillLayers));
  form.addEventListener("click", (event) => {
    if (!event.target.matches(".remove")) return;
    event.target.closest(".intervention").remove();
    refreshAll();
  });
  at("another").addEventListener("click", () => {
    at("interventions").append(at("intervention").content.cloneNode(true));
    const item = at("interventions").lastElementChild;
    fillLayers(item.querySelector(".layer"));
    refreshAll();
    item.querySelector(".target").focus();
  });
  form.addEventListener("submit", (event) => { event.preventDefault(); steer(); });
  at("stop").addEventListener("click", () => running?.abort());
  addEventListener("pagehide", () => running?.abort());
}
