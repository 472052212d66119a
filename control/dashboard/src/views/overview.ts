// What an operator asks first: is it trading, what does it hold, how far are the guards, is everything healthy.
import { get } from "../api.ts";
import { areaChart } from "../charts.ts";
import { type Line, summary } from "../connections.ts";
import { showDecision } from "../decision.ts";
import { card, fill, h, put, swap, table } from "../dom.ts";
import { bytes, count, micros, num, percent, signed, span, time, tone } from "../format.ts";
import { live } from "../live.ts";
import { openOrdersTable } from "../orders.ts";
import { positionsTable } from "../positions.ts";
import { signalColumns } from "../signals.ts";
import { load, type View } from "../shell.ts";
import type { Connections, Signal, Stage, Status } from "../types.ts";

interface Equity { items: { time_ms: number; equity_usdt: number }[] }

function figure(name: string): { box: HTMLElement; value: HTMLElement; more: HTMLElement } {
  const value = h("div", { class: "value" }, "–"), more = h("div", { class: "more" });
  return { box: h("section", { class: "card figure-card" }, h("h2", {}, name), value, more), value, more };
}

function health(status: Status, links: Connections | undefined): HTMLElement {
  const engine = status.engine;
  const rows: Line[] = [
    ["Engine", Boolean(engine?.alive), engine ? (engine.alive ? `pid ${engine.pid}, up ${span(engine.exchange_ms - engine.started_ms)}` : `silent for ${span(engine.heartbeat_age_ms)}`) : "none has run"],
    ["Model", Boolean(engine?.model_id), engine?.model_id ? `${engine.model_id} (${engine.backend})` : "none is active"],
    ["Symbols", engine !== null && engine.symbols_ready === engine.symbols, engine ? `${engine.symbols_ready} of ${engine.symbols} ready, ${engine.symbols_halted} halted` : "–"],
    ["Store", status.store.ok, status.store.ok ? `${status.store.kind}, ${count(status.store.lag_records)} records behind` : status.store.detail],
    ["Journal", engine !== null && !engine.journal_full, engine ? (engine.journal_full ? "disk full: entries closed" : `record ${count(engine.journal_seq)}`) : "–"],
    ["Prices", engine !== null && engine.mark_age_ms <= 10_000 && engine.blind.length === 0, engine ? `newest mark price ${span(engine.mark_age_ms)} old${engine.blind.length ? `; none of ${count(engine.blind.length)} open positions` : ""}` : "–"],
    ...(engine && links?.items.length ? summary(links, engine) : [["Frames", (engine?.counters.malformed ?? 0) === 0, engine ? `${count(engine.counters.frames)}, ${count(engine.counters.malformed)} malformed` : "–"] as Line]),
    ["Memory", true, engine ? `${bytes(engine.rss_bytes)}, ${count(engine.counters.compilations)} compilations since ready` : "–"],
  ];
  return h("ul", { class: "health" }, rows.map(([name, ok, text]) => h("li", {}, h("span", { class: `dot ${ok ? "good" : "bad"}`, role: "img", "aria-label": ok ? "works" : "fault" }), h("span", { class: "name" }, name), h("span", {}, text))));
}

const STAGES: [string, string][] = [["frame_to_decision", "Frame to decision"], ["mark_to_exit", "Mark to exit"], ["loop_lag", "Loop lag"], ["predict", "Prediction"]];

function stages(items: Stage[]): HTMLElement {
  const known = new Map(items.map((item) => [item.stage, item]));
  const rows = STAGES.flatMap(([id, name]) => (known.has(id) ? [{ name, stage: known.get(id) as Stage }] : []));
  return table("Latency", [
    { name: "Stage", key: true, show: (row) => row.name },
    { name: "p50", number: true, show: (row) => micros(row.stage.p50_us) },
    { name: "p99", number: true, show: (row) => micros(row.stage.p99_us) },
    { name: "max", number: true, show: (row) => micros(row.stage.max_us) },
  ], rows, "Nothing measured yet.");
}

export const overview: View = {
  id: "overview",
  name: "Overview",
  show(main) {
    const equity = figure("Equity, USDT"), today = figure("Today, USDT"), drawdown = figure("Drawdown"), traded = figure("This run");
    const curve = h("div", { class: "chart small" }), held = h("div", {}, h("p", { class: "empty" }, "No open positions known.")), healthy = h("div"), quick = h("div", {}, h("p", { class: "empty" }, "Nothing measured yet.")), newest = h("div"), orders = h("div"), working = card("Open orders", orders);
    working.hidden = true;
    main.append(
      h("div", { class: "figures" }, equity.box, today.box, drawdown.box, traded.box),
      h("div", { class: "grid" },
        h("div", { class: "wide-cell" }, card("Open positions", held), working),
        card("Equity curve", curve), card("Health", healthy),
        card("Newest signals", newest), card("Latency", quick)),
    );
    let area: ReturnType<typeof areaChart> | null = null;
    let gone = false;
    void load(newest, async () => {
      const items = (await get<{ items: Signal[] }>("/api/signals/latest")).items.slice(0, 8);
      fill(newest, table("Newest signals", signalColumns(true), items, "No signal yet: the first comes with the next closed minute.", showDecision));
    });
    const curveNow = () => void load(curve, async () => {
      const found = await get<Equity>("/api/equity");
      if (gone) return;
      if (found.items.length === 0) return fill(curve, h("p", { class: "empty" }, "No equity recorded yet: the curve begins with the first session."));
      if (!area) { fill(curve); area = areaChart(curve); }
      area.set(found.items.map((item) => [item.time_ms, item.equity_usdt]));
    });
    curveNow();
    const again = window.setInterval(curveNow, 15_000);
    let recent: Signal[] = [];
    let pending = 0;
    const leave = [
      live.on("status", (status) => {
        const engine = status.engine;
        put(equity.value, num(engine?.equity_usdt));
        put(equity.more, `wallet ${num(engine?.wallet_usdt)}`);
        put(today.value, signed(engine?.day_pnl_usdt));
        today.value.className = `value ${tone(engine?.day_pnl_usdt)}`;
        put(today.more, engine?.session_ms ? `session since ${time(engine.session_ms)} UTC` : "no session");
        put(drawdown.value, percent(engine?.drawdown));
        put(drawdown.more, `peak ${num(engine?.peak_equity_usdt)}`);
        put(traded.value, `${count(engine?.counters.trades)} trades`);
        put(traded.more, `${count(engine?.counters.signals)} signals, ${count(engine?.counters.entries)} entries`);
        fill(healthy, health(status, live.last.connections));
      }),
      live.on("positions", (items) => swap(held, positionsTable(items))),
      live.on("open_orders", (items) => { working.hidden = items.length === 0; swap(orders, openOrdersTable(items)); }),
      live.on("latency", (items) => swap(quick, stages(items))),
      live.on("signals", (items) => {
        const fresh = items.toReversed().slice(0, 8), names = new Set(fresh.map((item) => item.symbol));
        recent = [...fresh, ...recent.filter((item) => !names.has(item.symbol))].slice(0, 8);
        cancelAnimationFrame(pending);
        pending = requestAnimationFrame(() => fill(newest, table("Newest signals", signalColumns(true), recent, "", showDecision)));
      }),
    ];
    return () => { leave.forEach((off) => off()); clearInterval(again); gone = true; area?.remove(); };
  },
};
