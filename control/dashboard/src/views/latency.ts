// Where the time goes, stage by stage, over this engine run.
import { card, fill, h, table } from "../dom.ts";
import { count, micros, words } from "../format.ts";
import { live } from "../live.ts";
import type { View } from "../shell.ts";

export const latency: View = {
  id: "latency",
  name: "Latency",
  show(main) {
    const list = h("div");
    main.append(card("Stages of this run", list, h("p", { class: "hint" }, "late 1m, 15m and 1h are exchange time from a candle's close to its closing frame; all others are monotonic time inside the engine process.")));
    return live.on("latency", (items) => fill(list, table("Latency", [
      { name: "Stage", key: true, show: (row) => words(row.stage) },
      { name: "Count", number: true, show: (row) => count(row.count) },
      { name: "Mean", number: true, wide: true, show: (row) => micros(row.mean_us) },
      { name: "p50", number: true, show: (row) => micros(row.p50_us) },
      { name: "p99", number: true, show: (row) => micros(row.p99_us) },
      { name: "p99.9", number: true, wide: true, show: (row) => micros(row.p999_us) },
      { name: "Max", number: true, show: (row) => micros(row.max_us) },
    ], items, "Nothing measured yet.")));
  },
};
