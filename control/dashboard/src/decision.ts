// Everything about one decision: what the model predicted, which gates refused, and what it saw.
import { get } from "./api.ts";
import { type Child, fill, h, table } from "./dom.ts";
import { count, micros, moment, percent, price, quantity, words } from "./format.ts";
import { gates, loadGates } from "./gates.ts";
import { inline } from "./markdown.ts";
import { load, tell } from "./shell.ts";
import type { Signal } from "./types.ts";

interface Vector { timeframe: string; close_ms: number; values: Record<string, number | null> }
type Values = Record<string, unknown>;

const PREDICTIONS: [kind: string, name: string, means: string, show: (value: number | null) => string][] = [
  ["er", "Expected return", "after fees and half a spread, of the entry price", (value) => percent(value, 3)],
  ["q05", "5 % tail", "one in twenty ends below", (value) => percent(value, 3)],
  ["e_mae", "Adverse move", "the largest move against the position, expected", (value) => percent(value, 3)],
  ["e_hold", "Holding time, min", "until stop loss, take profit or time limit, expected", count],
];

function predictions(row: Signal): HTMLElement {
  const cell = (kind: string, side: string, show: (value: number | null) => string) => h("span", { class: row.side === side ? "strong" : "" }, show(row.predictions[`${kind}_${side}`] ?? null));
  return table("Predictions", [
    { name: "Prediction", key: true, show: ([, name]) => name },
    { name: "Long", number: true, show: ([kind, , , show]) => cell(kind, "long", show) },
    { name: "Short", number: true, show: ([kind, , , show]) => cell(kind, "short", show) },
    { name: "Meaning", wide: true, mark: "why", show: ([, , means]) => means },
  ], PREDICTIONS, "");
}

function facts(row: Signal): HTMLElement {
  const known = (value: number | null) => price(value || null); // 0: a decision that came to no price
  const pairs: [string, string][] = [
    ["Close", known(row.close)], ["Mark price", known(row.mark_price)], ["Best bid, ask", `${known(row.bid)}, ${known(row.ask)}`], ["ATR, 15m", known(row.atr_15m)],
    ["Quantity", quantity(row.qty || null)], ["Take profit, stop loss", `${known(row.tp_price)}, ${known(row.sl_price)}`],
    ["Model", row.model_id || "none"], ["Frame to decision", micros(row.frame_to_decision_us)], ["Record, vector", `${row.seq}, ${row.vector_hash}`],
  ];
  return h("dl", { class: "pairs" }, pairs.flatMap(([name, value]) => [h("dt", {}, name), h("dd", {}, value)]));
}

function setting(values: Values | null, key: string): Child {
  const [section = "", name = ""] = key.split(".");
  const value = (values?.[section] as Values | undefined)?.[name];
  return h("code", {}, value === undefined ? key : `${key} = ${String(value)}`);
}

function gateList(names: string[], values: Values | null, refused: boolean): HTMLElement {
  return h("ul", { class: "gates" }, names.map((name) => {
    const gate = gates.get(name);
    return h("li", {}, h("span", { class: `tag ${refused ? "bad" : "good"}` }, words(name)), " ", inline(`${refused ? "" : "not so: "}${gate?.meaning ?? ""}`), gate?.settings.map((key) => [" ", setting(values, key)]).flat());
  }));
}

// Refused, and those that let it pass: every gate is asked, whether or not one has refused before.
async function judged(row: Signal): Promise<HTMLElement[]> {
  const [settings] = await Promise.all([get<{ values: Values }>("/api/settings").catch(() => null), loadGates()]);
  const passed = [...gates.keys()].filter((name) => !row.refused_by.includes(name)), values = settings?.values ?? null;
  return [
    row.refused_by.length ? gateList(row.refused_by, values, true) : h("p", {}, "No gate refused it."),
    h("details", {}, h("summary", {}, `${passed.length} gates did not refuse`), h("p", { class: "hint" }, "Those of the exchange (margin, order budget, an open doubt) are asked in live mode alone, “correlation” only when no other refuses. Values are those in force now."), gateList(passed, values, false)),
  ];
}

// The newest stored vectors up to the decision: with every timeframe's close not after it, they are what the model saw.
async function seen(row: Signal): Promise<HTMLElement> {
  const found = (await get<{ items: Vector[] }>(`/api/features/${row.symbol}`, { to_ms: row.decision_ms + 1 })).items;
  const newest = found.find((item) => item.timeframe === "1m");
  if (!newest) return h("p", { class: "hint" }, `The features of ${row.symbol} are not stored: `, h("code", {}, "market.store_features"), " names the symbols whose are.");
  const show = (value: number | null | undefined) => (value === null || value === undefined ? "–" : String(Number(value.toPrecision(6))));
  return h("details", {},
    h("summary", {}, `${Object.keys(newest.values).length} features of ${found.length} timeframes, closed ${found.map((item) => `${item.timeframe} ${moment(item.close_ms).slice(11)}`).join(", ")} UTC`),
    newest.close_ms === row.decision_ms ? null : h("p", { class: "hint" }, "None is stored for the minute of this decision: these are the newest before it."),
    table("Features", [
      { name: "Feature", key: true, show: (name: string) => name },
      ...found.map((item) => ({ name: item.timeframe, number: true, show: (name: string) => show(item.values[name]) })),
    ], Object.keys(newest.values), ""));
}

export function showDecision(row: Signal): void {
  const why = h("div", {}, h("p", { class: "empty" }, "…")), saw = h("div");
  const outcome = row.entered ? h("span", { class: "tag good" }, "entered") : h("span", { class: "tag bad" }, `refused by ${row.refused_by.length} ${row.refused_by.length === 1 ? "gate" : "gates"}`);
  const side = h("span", { class: row.side === "long" ? "up" : row.side === "short" ? "down" : "" }, row.side === "none" ? "no side" : row.side);
  tell(`Decision of ${row.symbol}`,
    h("h2", {}, h("a", { href: `#/chart/${row.symbol}` }, row.symbol), ", ", side), h("p", {}, `${moment(row.decision_ms)} UTC${row.late ? ", late" : ""} `, outcome),
    h("h3", {}, "Predictions"), predictions(row), h("h3", {}, "Gates"), why, h("h3", {}, "Features"), saw, h("h3", {}, "The moment"), facts(row));
  void load(why, async () => fill(why, await judged(row)));
  void load(saw, async () => fill(saw, await seen(row)));
}
