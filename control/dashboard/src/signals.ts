// How a decision is shown, wherever it is shown: the prediction that counted and why there was no trade.
import { showDecision } from "./decision.ts";
import { type Column, h } from "./dom.ts";
import { count, micros, moment, percent, time, words } from "./format.ts";
import { meaning } from "./gates.ts";
import type { Signal } from "./types.ts";

// The reasons in short, as a button that shows everything about the decision.
export function why(row: Signal, most = 3): HTMLElement {
  return h("button", { class: "plain", onclick: () => showDecision(row) }, reasons(row, most));
}

function reasons(row: Signal, most: number): HTMLElement {
  if (row.entered) return h("span", { class: "tag good" }, "entered");
  const shown = row.refused_by.slice(0, most).map((gate) => h("span", { class: "tag", title: meaning(gate) || undefined }, words(gate)));
  const more = row.refused_by.length - shown.length;
  return h("span", { title: row.refused_by.map((gate) => `${words(gate)}: ${meaning(gate)}`).join("\n") }, shown, more > 0 ? h("span", { class: "tag" }, `+${more}`) : null);
}

function side(row: Signal): HTMLElement {
  return h("span", { class: row.side === "long" ? "up" : row.side === "short" ? "down" : "" }, row.side);
}

export function signalColumns(short: boolean): Column<Signal>[] {
  const best = (row: Signal, kind: string) => row.predictions[`${kind}_${(row.predictions.er_long ?? -9) >= (row.predictions.er_short ?? -9) ? "long" : "short"}`] ?? null;
  const columns: Column<Signal>[] = [
    { name: "Decided, UTC", wide: short, show: (row) => (short ? time(row.decision_ms) : moment(row.decision_ms)) },
    { name: "Symbol", key: true, show: (row) => h("span", {}, h("a", { href: `#/chart/${row.symbol}` }, row.symbol), short ? [" ", side(row)] : null) },
    ...(short ? [] : [{ name: "Side", show: side }]),
    { name: "Exp. return", number: true, show: (row) => percent(best(row, "er"), 3) },
  ];
  if (!short) {
    columns.push(
      { name: "5 % tail", number: true, wide: true, show: (row) => percent(best(row, "q05"), 2) },
      { name: "Adverse", number: true, wide: true, show: (row) => percent(best(row, "e_mae"), 2) },
      { name: "Hold, min", number: true, wide: true, show: (row) => count(best(row, "e_hold")) },
      { name: "Took", number: true, wide: true, show: (row) => micros(row.frame_to_decision_us) },
    );
  }
  columns.push({ name: "Why no trade?", mark: "why", show: (row) => why(row, short ? 2 : 4) });
  return columns;
}
