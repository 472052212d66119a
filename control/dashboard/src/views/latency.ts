// Where the time goes, stage by stage, over this engine run.
import { card, fill, h, table } from "../dom.ts";
import { count, micros, words } from "../format.ts";
import { live } from "../live.ts";
import type { View } from "../shell.ts";

export const latency: View = {
  id: "latency",
  name: "Latency",
  show(main) {
    const list = h("div"), process = h("p", {}, "–");
    const stop = live.on("status", ({ engine }) => fill(process, engine === null ? "–" : `${count(engine.counters.compilations)} compilations, ${count(engine.counters.gc_pauses)} garbage collections; the loop's thread waited ${count(engine.counters.voluntary_switches)} times and was interrupted ${count(engine.counters.involuntary_switches)} times.`));
    main.append(card("Since ready", process, h("p", { class: "hint" }, "How long they took: stages loop lag, gc pause, compilation. There must be no compilation.")), card("Stages of this run", list, h("p", { class: "hint" }, "late 1m, 15m and 1h are exchange time from a candle's close to its closing frame; all others are monotonic time inside the engine process.")));
    const end = live.on("latency", (items) => fill(list, table("Latency", [
      { name: "Stage", key: true, show: (row) => words(row.stage) },
      { name: "Count", number: true, show: (row) => count(row.count) },
      { name: "Mean", number: true, wide: true, show: (row) => micros(row.mean_us) },
      { name: "p50", number: true, show: (row) => micros(row.p50_us) },
      { name: "p99", number: true, show: (row) => micros(row.p99_us) },
      { name: "p99.9", number: true, wide: true, show: (row) => micros(row.p999_us) },
      { name: "Max", number: true, show: (row) => micros(row.max_us) },
    ], items, "Nothing measured yet.")));
    return () => { stop(); end(); };
  },
};
