// Every decision, and over the newest ten thousand: which gates kept the system from trading.
import { get } from "../api.ts";
import { showDecision } from "../decision.ts";
import { add, card, fill, h } from "../dom.ts";
import { loadGates, meaning } from "../gates.ts";
import { count, percent, words } from "../format.ts";
import { pages } from "../paging.ts";
import { signalColumns } from "../signals.ts";
import { load, type View } from "../shell.ts";

interface WhyNot { signals: number; entered: number; gates: { gate: string; count: number }[] }

export const signals: View = {
  id: "signals",
  name: "Signals",
  show(main) {
    const summary = h("div");
    add(main, [card("Why no trade?", summary)]);
    void load(summary, async () => {
      const [found] = await Promise.all([get<WhyNot>("/api/signals/why-not"), loadGates()]);
      fill(
        summary,
        h("p", { class: "hint" }, `Of the newest ${count(found.signals)} signals ${count(found.entered)} entered. A refused signal counts at every gate that refused it.`),
        h("ul", { class: "bars told" }, found.gates.map((row) => h("li", {}, h("span", {}, words(row.gate), h("small", { class: "dim" }, ` ${meaning(row.gate)}`)), h("meter", { min: 0, max: found.signals || 1, value: row.count, "aria-label": `${words(row.gate)}: ${row.count}` }), h("span", { class: "num" }, `${count(row.count)} (${percent(row.count / (found.signals || 1), 0)})`)))),
      );
    });
    const list = pages(main, "/api/signals", "Signals", signalColumns(false), [
      { name: "symbol", label: "Symbol" },
      { name: "gate", label: "Refused by (gate)" },
      { name: "model_id", label: "Model" },
      { name: "entered", label: "Entered or not", options: [["true", "entered"], ["false", "refused"]] },
    ], "No signals of this kind.", [], { open: showDecision });
    void list;
    return () => {};
  },
};
