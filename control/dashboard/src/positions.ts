// Open positions with a bar from stop loss to take profit that shows where the mark price stands.
import { h, table } from "./dom.ts";
import { count, percent, price, quantity, signed, span, tone } from "./format.ts";
import { live } from "./live.ts";
import { act, ask, may } from "./shell.ts";
import type { Position } from "./types.ts";

function guard(row: Position): HTMLElement | string {
  if (row.to_sl === null || row.to_tp === null) return "–";
  const share = Math.min(1, Math.max(0, row.to_sl / Math.max(1e-12, row.to_sl + row.to_tp)));
  const meter = h("meter", { min: 0, max: 1, low: 0.25, high: 0.6, optimum: 1, value: share, "aria-label": `mark price between stop loss and take profit of ${row.symbol}` });
  return h("div", { class: "guard" }, h("span", { class: "down", title: `stop loss ${price(row.sl_price)}` }, `SL ${percent(row.to_sl)}`), meter, h("span", { class: "up", title: `take profit ${price(row.tp_price)}` }, `TP ${percent(row.to_tp)}`));
}

function gain(row: Position): string {
  return row.mark_price === null ? "" : percent((row.side === "long" ? 1 : -1) * (row.mark_price / row.entry_price - 1));
}

async function close(symbol: string): Promise<void> {
  if (await ask(`Close the position in ${symbol} at the market?`, "Close position")) {
    await act(`/api/positions/${symbol}/close`, {}, `Close of ${symbol} acknowledged.`, "Close position");
  }
}

// `now` is the market's time: a simulated market runs at another speed than this clock.
export function positionsTable(rows: Position[]): HTMLElement {
  const now = live.last.status?.engine?.exchange_ms ?? Date.now();
  return table("Open positions", [
    { name: "Symbol", key: true, show: (row) => h("span", { class: "held" }, h("a", { href: `#/chart/${row.symbol}` }, row.symbol), " ", h("span", { class: row.side === "long" ? "up" : "down" }, row.side)) },
    { name: "Quantity", title: "and its value at the mark price", number: true, wide: true, show: (row) => h("span", { class: "stacked" }, quantity(row.qty), h("small", {}, `${count(row.notional_usdt)} USDT`)) },
    { name: "Entry", number: true, wide: true, show: (row) => price(row.entry_price) },
    { name: "Mark", number: true, wide: true, show: (row) => price(row.mark_price) },
    { name: "Result, USDT", title: "unrealised, at the mark price, before fees", number: true, show: (row) => h("span", { class: `stacked ${tone(row.unrealised_usdt)}` }, signed(row.unrealised_usdt), h("small", {}, gain(row))) },
    { name: "Stop – profit", title: "distance of the mark price from stop loss and take profit", show: guard },
    { name: "Liquidation", title: "distance of the mark price from an estimated liquidation price", number: true, wide: true, show: (row) => ((row.to_liquidation ?? 0) >= 1 ? "> 100 %" : percent(row.to_liquidation, 1)) },
    { name: "Stop order", title: "whether the protective order stands on the exchange", wide: true, show: (row) => (row.protected ? h("span", { class: "stacked" }, "stands", h("small", {}, row.protect_price === null ? "" : `at ${price(row.protect_price)}`)) : live.last.status?.mode === "live" ? h("span", { class: "down" }, "none") : "paper") },
    { name: "Held", number: true, wide: true, show: (row) => span(now - row.opened_ms) },
    { name: "", mark: "act", show: (row) => (may("trade") ? h("button", { class: "small", "aria-label": `Close ${row.symbol}`, onclick: () => void close(row.symbol) }, "Close") : "") },
  ], rows, "No open positions.");
}
