// Candles of one symbol with its entries, exits and guards, and one feature below; any of 600 symbols by typing.
import { get } from "../api.ts";
import { type Line, type Mark, priceChart } from "../charts.ts";
import { fill, h, put } from "../dom.ts";
import { price, signed, time } from "../format.ts";
import { live } from "../live.ts";
import { why } from "../signals.ts";
import { load, type View } from "../shell.ts";
import type { Candle, Page, Position, Signal, Trade } from "../types.ts";

const FRAMES = ["1m", "15m", "1h"] as const;
const FRAME_MS = { "1m": 60_000, "15m": 900_000, "1h": 3_600_000 };

function tradeMarks(trades: Trade[], frame: number): Mark[] {
  const bar = (ms: number) => Math.floor(ms / frame) * frame;
  return trades.flatMap((trade): Mark[] => [
    { ms: bar(trade.opened_ms), side: trade.side === "long" ? "buy" : "sell", text: "" },
    { ms: bar(trade.closed_ms), side: trade.side === "long" ? "sell" : "buy", text: `${trade.reason} ${signed(trade.net_usdt)}` },
  ]);
}

function guards(position: Position | undefined): Line[] {
  if (!position) return [];
  return [
    { price: position.tp_price, title: "take profit", kind: "up" },
    { price: position.entry_price, title: `${position.side} entry`, kind: "accent" },
    { price: position.sl_price, title: "stop loss", kind: "down" },
  ];
}

export const chart: View = {
  id: "chart",
  name: "Chart",
  show(main, argument) {
    let symbol = argument || sessionStorage.getItem("symbol") || live.last.marks?.[0]?.[0] || "BTCUSDT";
    let frame: (typeof FRAMES)[number] = (sessionStorage.getItem("frame") as "1m") || "1m";
    let feature = sessionStorage.getItem("feature") ?? "";
    const list = h("datalist", { id: "symbols" });
    const input = h("input", { id: "symbol", list: "symbols", value: symbol, autocomplete: "off", spellcheck: "false", "aria-label": "Symbol", size: 14 }) as HTMLInputElement;
    const select = h("select", { "aria-label": "Feature" }, h("option", { value: "" }, "no feature pane")) as HTMLSelectElement;
    const mark = h("span", { class: "mark" }), said = h("p", { class: "hint" }), place = h("div", { class: "chart large" }), last = h("div", { class: "row last" });
    const frames = FRAMES.map((name) => h("button", { class: "small", "aria-pressed": String(name === frame), onclick: () => { frame = name; sessionStorage.setItem("frame", name); frames.forEach((b) => b.setAttribute("aria-pressed", String(b.textContent === name))); void refresh(); } }, name));
    main.append(h("div", { class: "row tools" }, input, list, h("div", { class: "group", role: "group", "aria-label": "Timeframe" }, frames), select, mark), last, place, said);
    const view = priceChart(place);
    let gone = false;

    const refresh = () => load(said, async () => {
      const wanted = symbol, wantedFrame = frame;
      const [candles, trades, features] = await Promise.all([
        get<{ items: Candle[] }>("/api/candles", { symbol, timeframe: frame, limit: 1_000 }),
        get<Page<Trade>>("/api/trades", { symbol, limit: 200 }),
        get<{ items: { timeframe: string; values: Record<string, number | null> }[] }>(`/api/features/${symbol}`),
      ]);
      if (gone || wanted !== symbol || wantedFrame !== frame) return;
      view.candles(candles.items);
      const first = candles.items[0]?.open_ms ?? 0;
      view.marks(tradeMarks(trades.items.filter((trade) => trade.opened_ms >= first), FRAME_MS[frame]));
      drawGuards();
      const names = Object.keys(features.items.find((item) => item.timeframe === frame)?.values ?? {});
      fill(select, h("option", { value: "" }, names.length ? "no feature pane" : "no stored features"), names.map((name) => h("option", { value: name }, name)));
      select.value = names.includes(feature) ? feature : "";
      select.disabled = names.length === 0;
      await drawFeature();
      fill(said, candles.items.length ? `${candles.items.length} closed candles, the newest opened ${time(candles.items.at(-1)?.open_ms)} UTC. Times are UTC.` : `No stored ${frame} candles of ${symbol}.`);
    });
    const drawFeature = async () => {
      if (!select.value) return view.pane("", []);
      const series = await get<{ items: [number, number | null][] }>(`/api/features/${symbol}/${select.value}`, { timeframe: frame, limit: 1_000 });
      view.pane(select.value, series.items.map(([ms, value]) => [ms - FRAME_MS[frame], value]));
    };
    const drawGuards = () => view.lines(guards(live.last.positions?.find((item) => item.symbol === symbol)));
    const drawSignal = (signal: Signal | undefined) => fill(last, signal ? [h("span", { class: "dim" }, `Decision of ${time(signal.decision_ms)}: ${signal.side} `), why(signal)] : null);
    const choose = (name: string) => {
      symbol = name;
      sessionStorage.setItem("symbol", name);
      input.value = name;
      history.replaceState(null, "", `#/chart/${name}`);
      fill(last);
      void get<{ items: Signal[] }>("/api/signals/latest", { symbol }).then((found) => drawSignal(found.items[0]), () => {});
      void refresh();
    };
    input.addEventListener("change", () => { const name = input.value.trim().toUpperCase(); if (/^[A-Z0-9_]{1,24}$/.test(name)) choose(name); });
    input.addEventListener("focus", () => input.select());
    select.addEventListener("change", () => { feature = select.value; sessionStorage.setItem("feature", feature); void drawFeature(); });
    const leave = [
      live.on("marks", (marks) => {
        if (list.childElementCount !== marks.length) fill(list, marks.map(([name]) => h("option", { value: name })));
        const row = marks.find(([name]) => name === symbol);
        put(mark, row ? `mark ${price(row[1])}  bid ${price(row[2])}  ask ${price(row[3])}${row[6] ? "  HALTED" : row[5] ? "" : "  not ready"}` : "");
      }),
      live.on("positions", drawGuards),
      live.on("signals", (items) => { const mine = items.findLast((item) => item.symbol === symbol); if (mine) drawSignal(mine); }),
      live.on("candles", (closed) => { if (closed.some((item) => item.symbol === symbol)) window.setTimeout(() => gone || void refresh(), 2_000); }),
      live.on("trades", (trade) => { if (trade.symbol === symbol) void refresh(); }),
    ];
    choose(symbol);
    return () => { gone = true; leave.forEach((off) => off()); view.remove(); };
  },
};
