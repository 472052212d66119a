// The configuration in force, read only: it is changed in the file and takes effect with a restart.
import { get, who } from "../api.ts";
import { card, fill, h } from "../dom.ts";
import { load, type View } from "../shell.ts";

export const settings: View = {
  id: "settings",
  name: "Settings",
  show(main) {
    const list = h("div");
    main.append(card("Session", h("p", {}, `Token “${who()?.name ?? ""}”, scope ${who()?.scope ?? ""}.`)), list,
      card("About", h("p", {}, "API description: ", h("a", { href: "/schema" }, "/schema"), ". Charts: ", h("a", { href: "https://www.tradingview.com/", rel: "noreferrer" }, "Lightweight Charts by TradingView"), ", Apache 2.0.")));
    void load(list, async () => {
      const found = await get<{ config_hash: string; values: Record<string, unknown>; meanings: Record<string, string> }>("/api/settings");
      const text = (value: unknown) => (Array.isArray(value) ? (value.length > 20 ? `${value.length} values` : value.join(", ")) : String(value));
      const sections = Object.entries(found.values).filter(([, value]) => typeof value === "object" && value !== null && !Array.isArray(value)) as [string, Record<string, unknown>][];
      const plain = Object.entries(found.values).filter(([, value]) => typeof value !== "object" || value === null);
      const pairs = (items: [string, unknown][], section = "") => h("dl", { class: "pairs" }, items.flatMap(([name, value]) => [h("dt", {}, name), h("dd", { class: "stacked" }, text(value) || "–", h("small", { class: "dim" }, found.meanings[section + name] ?? ""))]));
      fill(list, h("div", { class: "grid" }, card("General", pairs([...plain, ["config hash", found.config_hash.slice(0, 16)]])), sections.map(([name, values]) => card(name, pairs(Object.entries(values), `${name}.`)))));
    });
    return () => {};
  },
};
