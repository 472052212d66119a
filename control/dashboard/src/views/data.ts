// How the data comes, how complete the candles are, and what happened to the holes.
import { get } from "../api.ts";
import { connectionsTable, limits } from "../connections.ts";
import { card, fill, h, swap, table } from "../dom.ts";
import { count, moment, percent } from "../format.ts";
import { live } from "../live.ts";
import { pages } from "../paging.ts";
import { load, type View } from "../shell.ts";

interface Coverage { symbol: string; bars: number; first_ms: number; last_ms: number; missing: number }
interface Gap { seq: number; time_ms: number; symbol: string; timeframe: string; from_ms: number; to_ms: number; bars: number; detail: string }

export const data: View = {
  id: "data",
  name: "Data",
  show(main) {
    const list = h("div"), links = h("div", {}, h("p", { class: "empty" }, "Nothing known of the connections.")), used = h("div");
    main.append(card("Connections", links, used));
    const frame = h("select", { "aria-label": "Timeframe" }, ["1m", "15m", "1h"].map((name) => h("option", { value: name }, name))) as HTMLSelectElement;
    const refresh = () => load(list, async () => {
      const found = await get<{ items: Coverage[] }>("/api/data/coverage", { timeframe: frame.value });
      const rows = found.items.toSorted((a, b) => b.missing - a.missing || a.symbol.localeCompare(b.symbol));
      fill(list, table("Completeness", [
        { name: "Symbol", key: true, show: (row) => h("a", { href: `#/chart/${row.symbol}` }, row.symbol) },
        { name: "Candles", number: true, show: (row) => count(row.bars) },
        { name: "First", wide: true, show: (row) => moment(row.first_ms) },
        { name: "Last", show: (row) => moment(row.last_ms) },
        { name: "Missing", number: true, show: (row) => h("span", { class: row.missing ? "down" : "" }, count(row.missing)) },
        { name: "Complete", number: true, show: (row) => percent(row.bars / (row.bars + row.missing), 3) },
      ], rows, "No candles are stored yet."));
    });
    frame.addEventListener("change", () => void refresh());
    main.append(card("Completeness between first and last candle", h("div", { class: "row tools" }, frame), list));
    void refresh();
    const gaps = h("section", { class: "card" }, h("h2", {}, "Gaps, repairs, revisions"));
    main.append(gaps);
    pages<Gap>(gaps, "/api/data/gaps", "Gaps", [
      { name: "Recorded", show: (row) => moment(row.time_ms) },
      { name: "Symbol", key: true, show: (row) => row.symbol },
      { name: "Candles", show: (row) => `${count(row.bars)} × ${row.timeframe}` },
      { name: "From", wide: true, show: (row) => moment(row.from_ms) },
      { name: "To", wide: true, show: (row) => moment(row.to_ms) },
      { name: "What", show: (row) => row.detail },
    ], [{ name: "symbol", label: "Symbol" }], "No gap was recorded.");
    return live.on("connections", (found) => { swap(links, connectionsTable(found)); fill(used, limits(found)); });
  },
};
