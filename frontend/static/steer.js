// Live steering: sends the form as a SteerRequest or a SweepRequest (lexiscope/records/requests.py) and shows the events.

import { FEATURE_ID } from "./collection.js";
import { events } from "./stream.js";
import { addressOf, packed, unpacked } from "./steer_state.js";
import { addToken, showEffect, showMeasured, showResolved } from "./steer_report.js";
import { showSweep } from "./sweep.js";

const form = document.getElementById("steer");
const at = (id) => document.getElementById(id);
const MODES = {
  // slider minimum and maximum, initial strength, unit
  add: [-2, 2, 0.5, "of the mean residual norm"],
  orthogonal: [-2, 2, 0.5, "of the mean residual norm"],
  clamp: [-2, 4, 1, "of the feature's maximum"],
  scale: [0, 8, 2, "of its activation"],
  swap: [0, 4, 1, "of the activation that is moved"],
  ablate: [0, 1, 0, ""],
};
const DEFAULTS = {
  ...{ chat: false, max_tokens: 48, temperature: 0.8, seed: 0, top_k: 0, top_p: 1, frequency_penalty: 0 },
  ...{ stop: [], controls: true, k: null },
};
let running = null;

const typed = (text) => text.replaceAll("␣", " ").replaceAll("↵", "\n").replaceAll("⇥", "\t");
const marked = (text) => text.replaceAll(" ", "␣").replaceAll("\n", "↵").replaceAll("\t", "⇥");

function layersOf(model) {
  const layers = JSON.parse(at("layers").textContent)[model] ?? [];
  return [...new Set(layers.map((l) => l.layer))].sort((a, b) => a - b);
}

/** The slider of k, for a model with dictionaries that serve every k, or where a k is given. */
function fillK(wanted = 0) {
  const { model, k } = form.elements;
  const layers = JSON.parse(at("layers").textContent)[model.value] ?? [];
  k.max = Math.max(wanted, ...layers.map((l) => l.k));
  k.value = wanted;
  k.nextElementSibling.value = wanted || "as trained";
  at("every-k").hidden = k.max === "0";
}

function fillLayers(select) {
  const layers = layersOf(form.elements.model.value);
  const wanted = Number(select.value || select.dataset.layer || layers[Math.floor(layers.length / 2)]);
  select.replaceChildren(...layers.map((l) => new Option(l, l, false, l === wanted)));
}

function setMode(item) {
  const [min, max, initial, unit] = MODES[item.querySelector(".mode").value];
  const slider = item.querySelector(".slider");
  Object.assign(slider, { min, max });
  slider.value = initial;
  item.querySelector(".unit").textContent = unit;
  item.querySelector(".scale").replaceChildren(
    ...[0, 1, 2, 3, 4].map((i) => {
      const mark = min + (i * (max - min)) / 4;
      return Object.assign(document.createElement("span"), {
        textContent: `${mark < 0 ? "−" : ""}${Math.abs(mark)}${i === 4 ? "×" : ""}`,
      });
    }),
  );
}

function refresh(item) {
  const mode = item.querySelector(".mode").value;
  const strength = Number(item.querySelector(".slider").value);
  const additive = mode === "add" || mode === "orthogonal";
  const byId = [".target", ".to input", ".when"]
    .map((name) => item.querySelector(name).value.trim())
    .filter(Boolean)
    .every((v) => FEATURE_ID.test(v));
  item.querySelector(".where").hidden = byId && FEATURE_ID.test(item.querySelector(".target").value.trim());
  item.querySelector(".how").hidden = mode === "ablate";
  item.querySelector(".to").hidden = mode !== "swap";
  item.querySelector(".to input").required = mode === "swap";
  item.querySelector(".zones").hidden = !additive;
  const modes = [...form.querySelectorAll("#interventions .mode")].map((one) => one.value);
  at("sweep").hidden = new Set(modes).size > 1 || modes[0] === "ablate"; // these cannot be swept
  const output = item.querySelector(".strength");
  const far = additive && Math.abs(strength) > 1;
  output.textContent = `${strength.toFixed(2)}×${far ? " off-manifold" : ""}`;
  output.classList.toggle("far", far);
}

function refreshAll() {
  const items = [...at("interventions").children];
  for (const item of items) refresh(item);
  for (const item of items) item.querySelector(".remove").disabled = items.length === 1;
}

function choice(item, text) {
  return FEATURE_ID.test(text.trim())
    ? { id: text.trim() }
    : { token: typed(text), layer: Number(item.querySelector(".layer").value) };
}

function feature(item) {
  const mode = item.querySelector(".mode").value;
  const given = { ...choice(item, item.querySelector(".target").value), mode };
  if (mode !== "ablate") given.strength = Number(item.querySelector(".slider").value);
  if (mode === "swap") given.to = choice(item, item.querySelector(".to input").value);
  const part = item.querySelector(".part").value;
  if (part !== "all") given.where = part;
  const positions = item
    .querySelector(".positions")
    .value.split(/[\s,]+/)
    .filter(Boolean)
    .map(Number);
  if (positions.length) given.positions = positions;
  if (item.querySelector(".when").value.trim()) given.when = choice(item, item.querySelector(".when").value);
  return given;
}

function request() {
  const { model, prompt, chat, max_tokens, temperature, seed, top_k, top_p, frequency_penalty, stop_text } =
    form.elements;
  return {
    model: model.value,
    prompt: prompt.value,
    chat: chat.checked,
    features: [...at("interventions").children].map(feature),
    max_tokens: Number(max_tokens.value),
    temperature: Number(temperature.value),
    seed: Number(seed.value),
    top_k: Number(top_k.value),
    top_p: Number(top_p.value),
    frequency_penalty: Number(frequency_penalty.value),
    stop: stop_text.value ? [typed(stop_text.value)] : [],
    controls: form.elements.controls.checked,
    k: Number(form.elements.k.value) || null,
  };
}

const shown = (choice) => choice.id ?? marked(String(choice.token));

/** Fills in one intervention from a SteerFeature. */
function fill(item, given) {
  item.querySelector(".target").value = shown(given);
  item.querySelector(".layer").dataset.layer = given.layer ?? "";
  fillLayers(item.querySelector(".layer"));
  item.querySelector(".mode").value = given.mode ?? "add";
  setMode(item);
  if (given.strength !== undefined) item.querySelector(".slider").value = given.strength;
  if (given.to) item.querySelector(".to input").value = shown(given.to);
  item.querySelector(".part").value = given.where ?? "all";
  item.querySelector(".positions").value = (given.positions ?? []).join(", ");
  if (given.when) item.querySelector(".when").value = shown(given.when);
  item.querySelector(".conditions").open = Boolean(given.where || given.positions || given.when);
}

/** Fills in the form from the request in the address. */
function restore(state) {
  const { features, stop, k, ...rest } = { ...DEFAULTS, ...state };
  for (const [name, value] of Object.entries(rest)) {
    const field = form.elements[name];
    if (field?.type === "checkbox") field.checked = value;
    else if (field) field.value = value;
  }
  fillK(k ?? 0);
  form.elements.stop_text.value = marked(stop[0] ?? "");
  at("interventions").replaceChildren(
    ...features.map(() => at("intervention").content.firstElementChild.cloneNode(true)),
  );
  features.forEach((one, place) => fill(at("interventions").children[place], one));
}

/** Puts a request, and what was generated by it, into the address. */
async function remember(sent, events) {
  clearTimeout(form.saving); // a change of the form: its address is this one, or has no result
  const hash = events ? await packed(events) : "";
  history.replaceState(null, "", addressOf(sent, DEFAULTS) + (hash ?? ""));
  at("share").hidden = !hash;
}

function setStatus(text) {
  at("status").textContent = text;
}

function fail(error) {
  at("failure").textContent = error;
  at("failure").hidden = false;
  setStatus("");
}

/** How the prompt was read, where that may surprise. */
function showNotes(notes) {
  at("notes").textContent = notes.join(" ");
  at("notes").hidden = notes.length === 0;
}

/** Clears the results; shows the two texts if there is a prompt. */
function clearResults(prompt) {
  for (const id of ["failure", "effect", "measured", "swept", "meant", "notes", "kl-legend", "beats", "share"]) {
    at(id).hidden = true;
  }
  at("outcome").hidden = prompt === null;
  if (prompt === null) return;
  for (const id of ["default-text", "steered-text"]) {
    const start = Object.assign(document.createElement("span"), { className: "prompt", textContent: prompt });
    at(id).replaceChildren(start);
  }
}

const handlers = {
  resolved(event) {
    setStatus(
      `Generating with ${event.features.map((f) => `${f.source} · ${f.index}`).join(", ")} …`,
    );
    showResolved(event.meant ?? []);
    showNotes(event.notes ?? []);
  },
  step(event) {
    addToken("default-text", event.default);
    addToken("steered-text", event.steered);
  },
  effect: showEffect,
  measured: showMeasured,
  done({ tokens_per_second, default_end, steered_end }) {
    const ends = { length: "", stop: " before a stop text", end: " at the end-of-text token" };
    const early = [
      ["default", default_end],
      ["steered", steered_end],
    ].filter(([, end]) => ends[end]);
    setStatus(
      `Done, ${tokens_per_second.toFixed(1)} tokens a second.` +
        early.map(([row, end]) => ` The ${row} text ended${ends[end]}.`).join(""),
    );
  },
  error({ detail }) {
    fail(detail);
  },
};

/** The message of a response that is not a stream: problem details (an ErrorRecord), or only a status. */
async function errorOf(response) {
  try {
    const { detail, kept } = await response.json();
    const again = response.headers.get("retry-after");
    if (detail)
      return [detail, kept, again && !/second/.test(detail) && `Try again in ${again} seconds.`]
        .filter(Boolean)
        .join(" ");
  } catch {
    /* the response is not JSON */
  }
  return `The server responded with ${response.status} ${response.statusText}.`;
}

/** POSTs `body`, one request at a time, and passes the response to `read`. */
async function post(path, body, read) {
  running?.abort();
  const own = (running = new AbortController());
  setStatus("Waiting for the model …");
  at("stop").disabled = false;
  let response = null;
  try {
    response = await fetch(path, {
      method: "POST",
      signal: own.signal,
      body: JSON.stringify(body),
      headers: { "content-type": "application/json", accept: "text/event-stream" },
    });
    if (!response.ok) {
      at("outcome").hidden = true;
      fail(await errorOf(response));
      return;
    }
    await read(response);
  } catch (error) {
    if (own.signal.aborted) {
      if (running === own) setStatus("Stopped.");
    } else {
      const what = response ? "The response cannot be shown to its end" : "The server cannot be reached";
      fail(`${what}: ${error.message}.`);
    }
  } finally {
    if (running === own) {
      running = null;
      at("stop").disabled = true;
    }
  }
}

function steer() {
  const body = request();
  const kept = [];
  clearResults(body.prompt);
  remember(body);
  return post("/api/v1/steer", body, async (response) => {
    let last = "";
    for await (const event of events(response.body)) {
      last = event.event;
      kept.push(event);
      handlers[event.event]?.(event);
    }
    if (last === "done") await remember(body, kept);
    if (last !== "done" && last !== "error")
      fail("The stream ended early because the model worker stopped. The text above is kept.");
  });
}

function sweep() {
  const sent = request();
  const body = { ...structuredClone(sent), max_tokens: Math.min(sent.max_tokens, 48) };
  const { min, max } = at("interventions").querySelector(".slider");
  const mode = body.features[0].mode;
  for (const one of body.features) delete one.strength; // `strengths` are those of every intervention
  if (mode !== "add" && mode !== "orthogonal")
    body.strengths = [1, 2, 3, 4, 5, 6, 7, 8].map((i) => Number(min) + (i * (max - min)) / 8);
  clearResults(null);
  remember(sent);
  return post("/api/v1/steer/sweep", body, async (response) => {
    const { resolved, swept } = await response.json();
    showResolved(resolved.meant);
    showNotes(resolved.notes ?? []);
    showSweep(swept);
    setStatus("Done.");
    await remember(sent, [{ event: "resolved", ...resolved }, swept]);
  });
}

/** Shows what a link holds in its fragment. */
async function replay() {
  try {
    const events = await unpacked(location.hash);
    if (!events) return;
    const swept = events.find((event) => event.event === "swept");
    clearResults(swept ? null : form.elements.prompt.value);
    for (const event of events) handlers[event.event]?.(event);
    if (swept) showSweep(swept);
    at("share").hidden = false;
    setStatus("This result comes with the address and was not run here. Steer again to check it.");
  } catch (error) {
    fail(`The result in this address cannot be read: ${error.message}. Steer again to make it.`);
  }
}

if (form) {
  for (const select of form.querySelectorAll(".layer")) fillLayers(select);
  for (const target of form.querySelectorAll(".target"))
    if (!FEATURE_ID.test(target.value)) target.value = marked(target.value);
  for (const item of at("interventions").children) setMode(item);
  const state = JSON.parse(at("state").textContent);
  fillK();
  if (state) restore(state);
  refreshAll();
  replay();
  form.addEventListener("change", () => {
    clearTimeout(form.saving);
    form.saving = setTimeout(() => form.checkValidity() && remember(request()), 300);
  });
  at("copy-link").hidden = !navigator.clipboard;
  at("copy-link").addEventListener("click", async () => {
    await navigator.clipboard.writeText(location.href);
    setStatus("The link is copied. It shows this result without running the model.");
  });
  form.addEventListener("input", (event) => {
    const item = event.target.closest(".intervention");
    if (item && event.target.matches(".mode")) setMode(item);
    if (item) refresh(item);
  });
  form.elements.model.addEventListener("change", () => {
    form.querySelectorAll(".layer").forEach(fillLayers);
    fillK();
  });
  form.elements.k.addEventListener("input", () => fillK(Number(form.elements.k.value)));
  form.addEventListener("click", (event) => {
    if (!event.target.matches(".remove")) return;
    event.target.closest(".intervention").remove();
    refreshAll();
  });
  at("another").addEventListener("click", () => {
    at("interventions").append(at("intervention").content.cloneNode(true));
    const item = at("interventions").lastElementChild;
    fillLayers(item.querySelector(".layer"));
    setMode(item);
    refreshAll();
    item.querySelector(".target").focus();
  });
  form.addEventListener("submit", (event) => {
    event.preventDefault();
    steer();
  });
  form.addEventListener("invalid", (event) => event.target.closest("details")?.setAttribute("open", ""), true);
  at("sweep").addEventListener("click", () => {
    if (form.reportValidity()) sweep();
  });
  at("stop").addEventListener("click", () => running?.abort());
  addEventListener("pagehide", () => running?.abort());
}
