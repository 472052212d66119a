// Orders as they are shown wherever they are shown: what is open now, and how an order is named.
import { type Child, h, table } from "./dom.ts";
import { price, quantity, span, words } from "./format.ts";
import { live } from "./live.ts";
import type { OpenOrder, Side } from "./types.ts";

const ENDED_WELL = new Set(["filled", "standing", "live"]);
const NOT_WELL = new Set(["rejected", "expired", "absent", "unknown", "lost", "down", "waiting", "stopped"]);

export function action(row: { side: Side; reduce_only: boolean }): HTMLElement {
  return h("span", { class: row.side === "long" ? "up" : "down", title: row.reduce_only ? "reduce only: makes a position smaller, never larger" : undefined }, `${row.side === "long" ? "buy" : "sell"}${row.reduce_only ? ", reduce" : ""}`);
}

export function state(name: string, title = ""): HTMLElement {
  return h("span", { class: `tag ${ENDED_WELL.has(name) ? "good" : NOT_WELL.has(name) ? "bad" : ""}`, title: title || undefined }, words(name));
}

export function symbol(name: string, more: Child = null): HTMLElement {
  return h("span", { class: "held" }, h("a", { href: `#/chart/${name}` }, name), more ? [" ", more] : null);
}

// Ages are in the market's time, as the orders' own stamps are.
export function openOrdersTable(rows: OpenOrder[]): HTMLElement {
  const now = live.last.status?.engine?.exchange_ms ?? Date.now();
  return table("Open orders", [
    { name: "Symbol", key: true, show: (row) => symbol(row.symbol, action(row)) },
    { name: "Type", wide: true, show: (row) => words(row.type) },
    { name: "Reason", wide: true, show: (row) => h("span", { class: "tag" }, words(row.reason)) },
    { name: "State", show: (row) => state(row.state) },
    { name: "Route", title: "the connection that took it: a WebSocket API lane or REST", wide: true, show: (row) => row.route || (live.last.status?.mode === "shadow" ? "paper" : "–") },
    { name: "Quantity", number: true, show: (row) => (row.qty === null ? "all" : h("span", { class: "stacked" }, quantity(row.qty), h("small", {}, row.filled_qty ? `${quantity(row.filled_qty)} filled` : ""))) },
    { name: "Price", title: "limit or trigger", number: true, show: (row) => (row.price === null ? "market" : price(row.price)) },
    { name: "Age", number: true, show: (row) => span(row.created_ms === null ? null : Math.max(0, now - row.created_ms)) },
  ], rows, "No open orders.");
}
