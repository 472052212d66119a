// Who did what: every command as the engine journalled it, and the parity of live features with their fold.
import { get } from "../api.ts";
import { card, fill, h, table } from "../dom.ts";
import { count, moment, words } from "../format.ts";
import { pages } from "../paging.ts";
import { load, type View } from "../shell.ts";
import type { Command } from "../types.ts";

interface Parity { audit_id: string; time_ms: number; symbol: string; timeframe: string; feature: string; compared: number; differing: number; detail: string }

export const audit: View = {
  id: "audit",
  name: "Audit",
  show(main) {
    const log = h("section", { class: "card" }, h("h2", {}, "Commands"));
    const parity = h("div");
    main.append(log, card("Feature parity", parity));
    pages<Command>(log, "/api/commands", "Commands", [
      { name: "Time", show: (row) => moment(row.time_ms) },
      { name: "Command", key: true, show: (row) => words(row.verb) },
      { name: "By", show: (row) => row.actor },
      { name: "Argument", wide: true, show: (row) => row.argument },
      { name: "Phase", show: (row) => (row.phase === 0 ? "received" : h("span", { class: row.code === 0 ? "up" : "down" }, row.code === 0 ? "done" : "refused")) },
      { name: "Result", wide: true, show: (row) => row.result },
    ], [{ name: "verb", label: "Command" }], "No command was given yet.");
    void load(parity, async () => {
      const found = await get<{ items: Parity[] }>("/api/audit");
      fill(parity, table("Feature parity", [
        { name: "Time", show: (row) => moment(row.time_ms) },
        { name: "Symbol", key: true, show: (row) => row.symbol },
        { name: "Feature", show: (row) => `${row.feature} ${row.timeframe}` },
        { name: "Compared", number: true, show: (row) => count(row.compared) },
        { name: "Differing", number: true, show: (row) => h("span", { class: row.differing ? "down" : "up" }, count(row.differing)) },
        { name: "Detail", wide: true, show: (row) => row.detail },
      ], found.items, "No audit has run: ta audit compares live vectors with their fold, bit for bit."));
    });
    return () => {};
  },
};
