// Closed trades with filters, results by reason, and the whole selection as CSV.
import { get } from "../api.ts";
import { card, fill, h, table } from "../dom.ts";
import { moment, num, percent, price, signed, span, tone, words } from "../format.ts";
import { live } from "../live.ts";
import { pages } from "../paging.ts";
import { load, say, type View } from "../shell.ts";
import type { Page, Trade } from "../types.ts";

const REASONS = ["tp", "sl", "time", "manual", "flatten", "risk", "liquidation", "adl", "settlement", "blind", "unprotected", "exchange_stop"];
const MOST_PAGES = 100; // of 1,000 rows: larger exports are SQL's work
const FIELDS: (keyof Trade)[] = ["closed_ms", "opened_ms", "symbol", "side", "mode", "reason", "qty", "entry_price", "exit_price", "gross_usdt", "fees_usdt", "funding_usdt", "net_usdt", "mae", "mfe", "model_id", "run_id", "position_id", "seq"];

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
    main.append(card("By exit reason", summary));
    const sums = () => load(summary, async () => {
      const found = await get<{ items: { reason: string; trades: number; wins: number; net_usdt: number; fees_usdt: number }[] }>("/api/trades/summary");
      const total = found.items.reduce((all, row) => ({ reason: "all", trades: all.trades + row.trades, wins: all.wins + row.wins, net_usdt: all.net_usdt + row.net_usdt, fees_usdt: all.fees_usdt + row.fees_usdt }), { reason: "all", trades: 0, wins: 0, net_usdt: 0, fees_usdt: 0 });
      fill(summary, table("Results by exit reason", [
        { name: "Reason", key: true, show: (row) => words(row.reason) },
        { name: "Trades", number: true, show: (row) => num(row.trades, 0) },
        { name: "Won", number: true, show: (row) => percent(row.wins / row.trades, 0) },
        { name: "Net, USDT", number: true, show: (row) => h("span", { class: tone(row.net_usdt) }, signed(row.net_usdt)) },
        { name: "Fees, USDT", number: true, show: (row) => num(row.fees_usdt) },
      ], found.items.length ? [...found.items, total] : [], "No closed trades yet."));
    });
    void sums();
    const button = h("button", {}, "Export CSV");
    const list = pages<Trade>(main, "/api/trades", "Trades", [
      { name: "Closed", show: (row) => moment(row.closed_ms) },
      { name: "Symbol", key: true, show: (row) => h("a", { href: `#/chart/${row.symbol}` }, row.symbol) },
      { name: "Side", show: (row) => h("span", { class: row.side === "long" ? "up" : "down" }, row.side) },
      { name: "Reason", show: (row) => h("span", { class: "tag" }, words(row.reason)) },
      { name: "Entry", number: true, wide: true, show: (row) => price(row.entry_price) },
      { name: "Exit", number: true, wide: true, show: (row) => price(row.exit_price) },
      { name: "Held", number: true, wide: true, show: (row) => span(row.closed_ms - row.opened_ms) },
      { name: "Net, USDT", number: true, show: (row) => h("span", { class: tone(row.net_usdt) }, signed(row.net_usdt)) },
      { name: "Fees", number: true, wide: true, show: (row) => num(row.fees_usdt) },
      { name: "Worst", number: true, wide: true, show: (row) => percent(row.mae === null ? null : -row.mae) },
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
