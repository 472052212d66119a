// Closed trades with filters, results by reason, symbol, day and more, and the whole selection as CSV.
import { get } from "../api.ts";
import { card, fill, h, table } from "../dom.ts";
import { moment, num, percent, price, quantity, signed, span, tone, words } from "../format.ts";
import { live } from "../live.ts";
import { pages } from "../paging.ts";
import { load, say, type View } from "../shell.ts";
import type { Page, Trade } from "../types.ts";

const REASONS = ["tp", "sl", "time", "manual", "flatten", "risk", "liquidation", "adl", "settlement", "blind", "unprotected", "exchange_stop"];
const BY: Record<string, string> = { reason: "Exit reason", symbol: "Symbol", day: "Day (UTC, of the exit)", side: "Side", mode: "Mode", model: "Model" };
const MOST_PAGES = 100; // of 1,000 rows: larger exports are SQL's work
const FIELDS: (keyof Trade)[] = ["closed_ms", "opened_ms", "symbol", "side", "mode", "reason", "qty", "entry_price", "exit_price", "gross_usdt", "fees_usdt", "funding_usdt", "net_usdt", "mae", "mfe", "model_id", "run_id", "position_id", "seq"];

interface Result { group: string; trades: number; wins: number; net_usdt: number; fees_usdt: number; funding_usdt: number; profit_factor: number | null; mean_hold_minutes: number }

// A field that begins like a formula is prefixed, so that a spreadsheet shows it instead of running it.
const cell = (value: unknown) => {
  const text = value === null || value === undefined ? "" : String(value);
  const safe = typeof value === "string" && /^[=+\-@\t\r]/.test(text) ? `'${text}` : text;
  return /[",\n]/.test(safe) ? `"${safe.replaceAll('"', '""')}"` : safe;
};

async function exportCsv(query: Record<string, string>): Promise<void> {
  const lines = [FIELDS.join(",")];
  let before: string | undefined;
  for (let page = 0; page < MOST_PAGES; page++) {
    const found = await get<Page<Trade>>("/api/trades", { ...query, limit: 1_000, before });
    lines.push(...found.items.map((row) => FIELDS.map((field) => cell(row[field])).join(",")));
    if (!found.next) break;
    before = found.next;
    if (page === MOST_PAGES - 1) say("Only the newest 100,000 trades were exported; use ta sql for more.", "bad");
  }
  const link = h("a", { href: URL.createObjectURL(new Blob([`${lines.join("\n")}\n`], { type: "text/csv" })), download: "trades.csv" }) as HTMLAnchorElement;
  link.click();
  URL.revokeObjectURL(link.href);
}

export const trades: View = {
  id: "trades",
  name: "Trades",
  show(main) {
    const summary = h("div");
    const by = h("select", { "aria-label": "Results by" }, Object.entries(BY).map(([value, name]) => h("option", { value }, name))) as HTMLSelectElement;
    by.value = sessionStorage.getItem("results") ?? "reason";
    main.append(card("Results", h("div", { class: "row tools" }, h("label", {}, "by ", by)), summary));
    const sums = () => load(summary, async () => {
      const wanted = by.value, found = await get<{ items: Result[] }>("/api/trades/summary", { by: wanted });
      if (wanted !== by.value) return;
      const sum = (of: (row: Result) => number) => found.items.reduce((all, row) => all + of(row), 0);
      const trades = sum((row) => row.trades);
      const total: Result = { group: "all", trades, wins: sum((row) => row.wins), net_usdt: sum((row) => row.net_usdt), fees_usdt: sum((row) => row.fees_usdt), funding_usdt: sum((row) => row.funding_usdt), profit_factor: null, mean_hold_minutes: sum((row) => row.mean_hold_minutes * row.trades) / trades };
      const rows = wanted === "symbol" ? found.items.toSorted((a, b) => b.net_usdt - a.net_usdt) : found.items;
      fill(summary, table("Results", [
        { name: BY[wanted] ?? "", key: true, show: (row) => (wanted === "symbol" && row !== total ? h("a", { href: `#/chart/${row.group}` }, row.group) : words(row.group) || "–") },
        { name: "Trades", number: true, show: (row) => num(row.trades, 0) },
        { name: "Won", number: true, show: (row) => percent(row.wins / row.trades, 0) },
        { name: "Net, USDT", number: true, show: (row) => h("span", { class: tone(row.net_usdt) }, signed(row.net_usdt)) },
        { name: "Per trade", number: true, wide: true, show: (row) => signed(row.net_usdt / row.trades) },
        { name: "Won per lost", number: true, wide: true, show: (row) => num(row.profit_factor) },
        { name: "Fees, USDT", number: true, wide: true, show: (row) => num(row.fees_usdt) },
        { name: "Funding, USDT", number: true, wide: true, show: (row) => signed(row.funding_usdt) },
        { name: "Mean hold", number: true, wide: true, show: (row) => span(row.mean_hold_minutes * 60_000) },
      ], rows.length ? [total, ...rows] : [], "No closed trades yet."));
    });
    by.addEventListener("change", () => { sessionStorage.setItem("results", by.value); void sums(); });
    void sums();
    const button = h("button", {}, "Export CSV");
    const list = pages<Trade>(main, "/api/trades", "Trades", [
      { name: "Closed, UTC", show: (row) => moment(row.closed_ms) },
      { name: "Symbol", key: true, show: (row) => h("a", { href: `#/chart/${row.symbol}` }, row.symbol) },
      { name: "Side", show: (row) => h("span", { class: row.side === "long" ? "up" : "down" }, row.side) },
      { name: "Reason", show: (row) => h("span", { class: "tag" }, words(row.reason)) },
      { name: "Quantity", number: true, wide: true, show: (row) => quantity(row.qty) },
      { name: "Entry", number: true, wide: true, show: (row) => price(row.entry_price) },
      { name: "Exit", number: true, wide: true, show: (row) => price(row.exit_price) },
      { name: "Held", number: true, wide: true, show: (row) => span(row.closed_ms - row.opened_ms) },
      { name: "Net, USDT", number: true, show: (row) => h("span", { class: tone(row.net_usdt) }, signed(row.net_usdt)) },
      { name: "Fees, USDT", number: true, wide: true, show: (row) => num(row.fees_usdt) },
      { name: "Worst", title: "largest move against the position", number: true, wide: true, show: (row) => percent(row.mae === null ? null : -row.mae) },
      { name: "Best", title: "largest move in its favour", number: true, wide: true, show: (row) => percent(row.mfe) },
      { name: "Mode", wide: true, show: (row) => row.mode },
    ], [
      { name: "symbol", label: "Symbol" },
      { name: "reason", label: "Reason", options: REASONS.map((reason) => [reason, words(reason)]) },
      { name: "side", label: "Side", options: [["long", "long"], ["short", "short"]] },
      { name: "model_id", label: "Model" },
    ], "No closed trades of this kind.", [button]);
    button.addEventListener("click", () => void exportCsv(list.query()).catch((error: Error) => say(error.message, "bad")));
    return live.on("trades", () => { list.refresh(); void sums(); });
  },
};
