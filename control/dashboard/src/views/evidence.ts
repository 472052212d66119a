// What a model's validation found: errors against a constant, calibration by decile, drift of the inputs, the policy.
import { card, h, svg, table } from "../dom.ts";
import { count, moment, num, percent, tone, words } from "../format.ts";

interface Decile { predicted: number; actual: number; actual_q05: number }
interface Target { rank_ic: number; calibration: Decile[]; rmse?: number; rmse_constant?: number; pinball?: number; pinball_constant?: number; coverage?: number }
export interface Metrics {
  rows?: number; from_ms?: number; to_ms?: number; targets?: Record<string, Target>; drift?: Record<string, number>;
  importance?: Record<string, Record<string, number>>; policy?: { trades: number; days: number; net: number; net_q05: number; net_q95: number; won: number };
}

const STEADY = 0.1, MOVED = 0.25; // the usual marks of a population stability index
const MOST = 12;

// Deciles of the prediction against what happened; on the dashed line a prediction is as large as what it foretold.
function reliability(name: string, target: Target): SVGElement {
  const quantile = name.startsWith("q05"), seen = (item: Decile) => (quantile ? item.actual_q05 : item.actual);
  const values = target.calibration.flatMap((item) => [item.predicted, seen(item)]);
  const low = Math.min(...values), high = Math.max(...values), size = high - low || 1;
  const x = (value: number) => 34 + ((value - low) / size) * 150, y = (value: number) => 164 - ((value - low) / size) * 150;
  const unit = (value: number) => (name.startsWith("e_hold") ? num(value, 0) : percent(value, 2));
  const points = target.calibration.map((item) => `${x(item.predicted).toFixed(1)},${y(seen(item)).toFixed(1)}`);
  return svg("svg", { viewBox: "0 0 200 186", role: "img", class: "plot", "aria-label": `calibration of ${words(name)}: predicted ${unit(low)} to ${unit(high)}` },
    svg("rect", { x: 34, y: 14, width: 150, height: 150, class: "frame" }),
    svg("line", { x1: x(low), y1: y(low), x2: x(high), y2: y(high), class: "ideal" }),
    svg("polyline", { points: points.join(" "), class: "seen" }),
    ...points.map((point) => svg("circle", { cx: point.split(",")[0] as string, cy: point.split(",")[1] as string, r: 2.4, class: "dot" })),
    svg("text", { x: 34, y: 178 }, unit(low)), svg("text", { x: 184, y: 178, "text-anchor": "end" }, unit(high)),
    svg("text", { x: 109, y: 9, "text-anchor": "middle", class: "title" }, words(name)));
}

function errors(targets: Record<string, Target>): HTMLElement {
  const gain = (row: Target) => 1 - (row.rmse ?? row.pinball ?? 1) / (row.rmse_constant ?? row.pinball_constant ?? 1);
  return table("Errors out of sample", [
    { name: "Target", key: true, show: ([name]) => words(name) },
    { name: "Better than a constant", number: true, show: ([, row]) => h("span", { class: gain(row) > 0 ? "up" : "down" }, percent(gain(row), 2)) },
    { name: "Rank correlation", number: true, show: ([, row]) => num(row.rank_ic, 3) },
    { name: "Below the 5 % quantile", number: true, wide: true, show: ([, row]) => (row.coverage === undefined ? "" : percent(row.coverage, 1)) },
  ], Object.entries(targets), "No figures.");
}

function shares(title: string, hint: string, items: [string, number][], most: number, kind: (value: number) => string, text: (value: number) => string): HTMLElement {
  return card(title, h("p", { class: "hint" }, hint), h("ul", { class: "bars" }, items.slice(0, MOST).map(([name, value]) =>
    h("li", {}, h("span", {}, name), h("meter", { min: 0, max: most, value: Math.min(value, most), "aria-label": `${name} ${text(value)}` }), h("span", { class: `num ${kind(value)}` }, text(value))))));
}

interface Outcome { side: string; decile: number; signals: number; predicted_return: number | null; realised_return: number | null; below_q05: number | null }

// Where it counts: decisions made while trading, against what the labels say came afterwards.
export function outcome(items: Outcome[]): HTMLElement {
  return card("Since it decides: predicted and what came", h("p", { class: "hint" }, "Every decision that is labelled by now, by side and decile of the expected return. ", h("code", {}, "ta label"), " brings the labels up to date."),
    table("Decisions against outcomes", [
      { name: "Side", key: true, show: (row) => `${row.side} ${row.decile}` },
      { name: "Decisions", number: true, show: (row) => count(row.signals) },
      { name: "Predicted", number: true, show: (row) => percent(row.predicted_return, 3) },
      { name: "Came", number: true, show: (row) => h("span", { class: tone(row.realised_return) }, percent(row.realised_return, 3)) },
      { name: "Below the 5 % quantile", number: true, wide: true, show: (row) => percent(row.below_q05, 1) },
    ], items, "No decision of this model is labelled yet."));
}

export function evidence(metrics: Metrics): HTMLElement[] {
  if (!metrics.targets) return [card("Evidence", h("p", { class: "empty" }, "Trained without validation: nothing is known about this model out of sample. ", h("code", {}, "ta train --folds 3 --holdout-days 15"), " makes a model that the gate can judge."))];
  const { policy, drift = {}, importance = {} } = metrics, out: HTMLElement[] = [];
  if (policy) {
    const sure = policy.net_q05 > 0 ? "up" : policy.net_q95 < 0 ? "down" : "";
    out.push(card("The policy on rows it was not trained on", h("p", { class: `value ${sure}` }, percent(policy.net, 2), h("span", { class: "more" }, ` of the first equity, 90 % interval ${percent(policy.net_q05, 2)} to ${percent(policy.net_q95, 2)}`)),
      h("p", { class: "hint" }, `${count(policy.trades)} trades on ${count(policy.days)} days, ${percent(policy.trades ? policy.won / policy.trades : null, 0)} won; ${count(metrics.rows)} rows, ${moment(metrics.from_ms)} to ${moment(metrics.to_ms)} UTC.`)));
  }
  out.push(card("Errors out of sample", errors(metrics.targets)));
  out.push(card("Calibration", h("p", { class: "hint" }, "Deciles of the prediction (across) against what happened (up). On the dashed line they agree; a flat line has nothing to say."), h("div", { class: "plots" }, Object.entries(metrics.targets).map(([name, target]) => reliability(name, target)))));
  const drifts = Object.entries(drift).toSorted((a, b) => b[1] - a[1]);
  const far = drifts.filter(([, value]) => value > MOVED).length;
  out.push(shares("Drift of the inputs", `Population stability index of the tested rows against the first training window: ${far} of ${drifts.length} features above ${MOVED}, where a feature counts as another one.`, drifts, 0.5, (value) => (value > MOVED ? "down" : value > STEADY ? "" : "up"), (value) => num(value, 3)));
  const used = Object.entries(importance.er_long ?? {});
  if (used.length) out.push(shares("What the long side looks at", "Share of the gain in the expected return of a long entry.", used, used[0]?.[1] ?? 1, () => "", (value) => percent(value, 1)));
  return out;
}
