// What was sent and what became of it: the open orders, each order's way to its end, and every execution.
import { get } from "../api.ts";
import { card, h, soon, swap } from "../dom.ts";
import { moment, num, price, quantity, span, words } from "../format.ts";
import { live } from "../live.ts";
import { action, openOrdersTable, state, symbol } from "../orders.ts";
import { pages } from "../paging.ts";
import type { View } from "../shell.ts";
import type { Fill, OrderEvent, Page } from "../types.ts";

interface Way extends OrderEvent { begun_ms?: number }
interface Execution extends Fill { order?: OrderEvent }

const EVENTS = 150; // an order has four or five
const MOST = 1_000; // what one answer may hold

// Events come newest first: the first of an order is its present state, the last one here its beginning.
function lives(events: Way[]): Way[] {
  const orders = new Map<string, Way>();
  for (const event of events) {
    const known = orders.get(event.client_order_id);
    if (known) known.begun_ms = event.time_ms;
    else orders.set(event.client_order_id, { ...event, begun_ms: event.time_ms });
  }
  return [...orders.values()];
}

// Why a fill was wanted is known to its order, whose event of the fill bears the fill's time.
async function explain(fills: Execution[]): Promise<void> {
  if (fills.length === 0) return;
  const times = fills.map((row) => row.time_ms);
  const found = await get<Page<OrderEvent>>("/api/orders", { from_ms: Math.min(...times), to_ms: Math.max(...times) + 1, limit: MOST });
  const known = new Map(found.items.map((event) => [event.client_order_id, event]));
  for (const row of fills) row.order = known.get(row.client_order_id);
}

// Day and time, one below the other where the page is narrow.
function when(ms: number): HTMLElement {
  const [day, clock] = moment(ms).split(" ");
  return h("span", { class: "held" }, h("span", {}, day), " ", h("span", {}, clock));
}

function took(row: Way): string {
  const ms = row.time_ms - (row.begun_ms ?? row.time_ms);
  return ms < 10_000 ? `${num(ms, 0)} ms` : span(ms);
}

export const orders: View = {
  id: "orders",
  name: "Orders",
  show(main) {
    const open = h("div", {}, h("p", { class: "empty" }, "No open orders known."));
    const sent = h("section", { class: "card" }, h("h2", {}, "Orders")), done = h("section", { class: "card" }, h("h2", {}, "Fills"));
    main.append(card("Open orders", open), sent, done);
    const list = pages<Way>(sent, "/api/orders", "Orders", [
      { name: "Last change, UTC", show: (row) => when(row.time_ms) },
      { name: "Symbol", key: true, show: (row) => symbol(row.symbol, action(row)) },
      { name: "Reason", wide: true, show: (row) => h("span", { class: "tag" }, words(row.reason)) },
      { name: "State", show: (row) => state(row.state, row.detail) },
      { name: "Quantity", number: true, wide: true, show: (row) => quantity(row.qty) },
      { name: "Filled", number: true, wide: true, show: (row) => quantity(row.filled_qty) },
      { name: "Limit", number: true, wide: true, show: (row) => (row.price ? price(row.price) : "market") },
      { name: "Average", title: "mean price of what was filled", number: true, show: (row) => (row.filled_qty ? price(row.average_price) : "–") },
      { name: "Took", title: "from the decision to the last change", number: true, wide: true, show: took },
      { name: "Told", title: "what the exchange or the simulated book said", mark: "why", wide: true, show: (row) => `${row.code ? `${row.code} ` : ""}${row.detail}` || "–" },
      { name: "Mode", wide: true, show: (row) => row.mode },
    ], [{ name: "symbol", label: "Symbol of orders" }], "No orders yet.", [], { limit: EVENTS, fold: lives });
    const fills = pages<Execution>(done, "/api/fills", "Fills", [
      { name: "Time, UTC", show: (row) => when(row.time_ms) },
      { name: "Symbol", key: true, show: (row) => symbol(row.symbol, action({ side: row.side, reduce_only: row.order?.reduce_only ?? false })) },
      { name: "Reason", show: (row) => (row.order ? h("span", { class: "tag" }, words(row.order.reason)) : "–") },
      { name: "Quantity", number: true, wide: true, show: (row) => quantity(row.qty) },
      { name: "Price", number: true, show: (row) => price(row.price) },
      { name: "Value, USDT", number: true, wide: true, show: (row) => num(row.qty * row.price) },
      { name: "Fee, USDT", number: true, show: (row) => num(row.fee_usdt, 4) },
      { name: "Slip, USDT", title: "against the best price of that moment; positive is a cost", number: true, wide: true, show: (row) => num(row.slip_usdt, 4) },
      { name: "Liquidity", title: "maker: our order stood in the book; taker: it met one that did", wide: true, show: (row) => (row.maker ? "maker" : "taker") },
      { name: "Mode", wide: true, show: (row) => row.mode },
    ], [{ name: "symbol", label: "Symbol of fills" }], "No fills yet.", [], { limit: 50, prepare: explain });
    const again = soon(() => { list.refresh(); fills.refresh(); });
    let shown = false; // an event of the past is in the lists already
    const leave = [live.on("open_orders", (items) => swap(open, openOrdersTable(items))), live.on("orders", () => { if (shown) again(); }), live.onGap(again)];
    shown = true;
    return () => leave.forEach((off) => off());
  },
};
