// How the engine is connected: market streams, order lanes, private streams, and how much of the limits is used.
import { h, table } from "./dom.ts";
import { count, span } from "./format.ts";
import { state } from "./orders.ts";
import type { Connection, Connections, Engine } from "./types.ts";

const CARRIES: Record<Connection["kind"], string> = { public: "best bid and ask", market: "candles, mark prices", ws_api: "orders", private: "what became of orders" };
const NEARLY = 0.7; // of the request weight: what neither exits nor protects stops here

export type Line = [name: string | HTMLElement, ok: boolean, text: string];

function up(items: Connection[], what: string): string {
  return `${items.filter((item) => item.ok).length} of ${items.length} ${what}`;
}

// A line for the market data, one for the way of orders (live mode has one), one for the limits; their names lead to the list.
export function summary(found: Connections, engine: Engine): Line[] {
  const all = (name: string) => h("a", { href: "#/data", title: "every connection" }, name), { frames = 0, malformed = 0 } = engine.counters;
  const of = (...kinds: string[]) => found.items.filter((item) => kinds.includes(item.kind));
  const streams = of("public", "market"), lanes = of("ws_api"), heard = of("private"), { used, limit, banned_ms } = found.weight;
  const newest = Math.min(...streams.map((item) => item.silent_ms ?? Infinity));
  return [
    [all("Streams"), malformed === 0 && streams.every((item) => item.ok), `${up(streams, "live")}, newest ${Number.isFinite(newest) ? `${span(newest)} old` : "not there yet"}; ${count(malformed)} of ${count(frames)} malformed`],
    ...(lanes.length ? [[all("Orders"), [...lanes, ...heard].every((item) => item.ok), `${up(lanes, "lanes")}, ${up(heard, "private streams")}`] as Line] : []),
    [all("Weight"), banned_ms === 0 && used < NEARLY * limit, banned_ms ? `the exchange wants silence for ${span(banned_ms)}` : `${count(used)} of ${count(limit)} this minute`],
  ];
}

export function connectionsTable(found: Connections): HTMLElement {
  return table("Connections", [
    { name: "Connection", key: true, show: (row) => row.name },
    { name: "Carries", wide: true, show: (row) => CARRIES[row.kind] ?? row.kind },
    { name: "State", show: (row) => state(row.state) },
    { name: "Silent for", title: "since its newest message, right to a second", number: true, show: (row) => span(row.silent_ms) },
    { name: "Streams", number: true, wide: true, show: (row) => (row.streams ? count(row.streams) : "–") },
    { name: "Messages", title: "since the engine's start", number: true, wide: true, show: (row) => count(row.frames) },
    { name: "Unanswered", title: "requests without an answer yet", number: true, wide: true, show: (row) => (row.kind === "ws_api" ? count(row.pending) : "–") },
    { name: "Faults", title: "messages dropped for what they said", number: true, wide: true, show: (row) => count(row.faults) },
    { name: "Reconnects", number: true, show: (row) => count(row.reconnects) },
  ], found.items, "No engine has run.");
}

export function limits(found: Connections): HTMLElement {
  const orders = found.orders.map((row) => `${count(row.used)} of ${count(row.limit)} orders in ${span(row.window_ms)}`);
  return h("p", { class: "hint" }, [`${count(found.weight.used)} of ${count(found.weight.limit)} request weight this minute, by every process of this machine`, ...orders].join("; ") + ".");
}
