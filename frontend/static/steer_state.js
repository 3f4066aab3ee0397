// The state of /steer in its address: the request in the query, and what was generated in the fragment, so that a link
// shows a finished steer without a run of the model. Nothing is stored on the server.

import { FEATURE_ID } from "./collection.js";

const MOST = 100_000; // characters of an address that browsers take

/** The address of a request (a SteerRequest), without the fields that are as by default. */
export function addressOf(request, defaults) {
  const given = Object.entries(request).filter(
    ([name, value]) => JSON.stringify(value) !== JSON.stringify(defaults[name]),
  );
  return `/steer?${new URLSearchParams({ state: JSON.stringify(Object.fromEntries(given)) })}`;
}

const throughStream = async (bytes, stream) =>
  new Uint8Array(await new Response(new Blob([bytes]).stream().pipeThrough(stream)).arrayBuffer());

/** Events as the fragment of an address; null where they are too long for one. */
export async function packed(events) {
  const kept = events.map((event) =>
    event.event === "step"
      ? { event: "step", default: withoutTop(event.default), steered: withoutTop(event.steered) }
      : event,
  );
  const bytes = new TextEncoder().encode(JSON.stringify(kept));
  const small = await throughStream(bytes, new CompressionStream("deflate-raw"));
  let text = "";
  for (const byte of small) text += String.fromCharCode(byte);
  const hash = `#result=${btoa(text).replaceAll("+", "-").replaceAll("/", "_").replaceAll("=", "")}`;
  return hash.length > MOST ? null : hash;
}

const withoutTop = (token) => (token ? { ...token, top: [] } : token);

/** The events in a fragment; null where there are none. Throws where it is damaged. */
export async function unpacked(hash) {
  const given = hash.match(/^#result=([\w-]+)$/)?.[1];
  if (!given) return null;
  const text = atob(given.replaceAll("-", "+").replaceAll("_", "/"));
  const bytes = Uint8Array.from(text, (char) => char.charCodeAt(0));
  const plain = await throughStream(bytes, new DecompressionStream("deflate-raw"));
  const events = JSON.parse(new TextDecoder().decode(plain));
  if (!Array.isArray(events) || !idsAreFeatures(events)) throw new Error("it holds no events of a steer");
  return events;
}

/** Whether every `id` that is a text is a feature's: they become links. */
function idsAreFeatures(value) {
  if (value === null || typeof value !== "object") return true;
  return Object.entries(value).every(([name, one]) =>
    name === "id" && typeof one === "string" ? FEATURE_ID.test(one) : idsAreFeatures(one),
  );
}
