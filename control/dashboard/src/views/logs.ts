// The end of a process's log, as `ta up` keeps it.
import { get } from "../api.ts";
import { card, fill, h } from "../dom.ts";
import { load, type View } from "../shell.ts";

interface Tail { name: string; path: string; lines: string[] }
const NAMES = ["engine", "control", "watchdog"];
const LINES = 500;
const LOUD = /\b(WARNING|ERROR|CRITICAL|Traceback)\b|"level": ?"(warning|error|critical)"/;

export const logs: View = {
  id: "logs",
  name: "Logs",
  show(main) {
    const name = h("select", { "aria-label": "Process" }, NAMES.map((item) => h("option", { value: item }, item))) as HTMLSelectElement;
    const words = h("input", { type: "search", placeholder: "Only lines with…", "aria-label": "Only lines with" }) as HTMLInputElement;
    const place = h("div");
    let newest: Tail | null = null;
    const draw = () => {
      if (!newest) return;
      const wanted = words.value.toLowerCase(), lines = newest.lines.filter((line) => line.toLowerCase().includes(wanted));
      if (newest.lines.length === 0) return fill(place, h("p", { class: "empty" }, `Nothing in ${newest.path}: ta up writes it. A service's log is with its supervisor (journalctl, docker logs).`));
      const text = h("pre", { class: "log tall", tabindex: 0, role: "region", "aria-label": `Log of ${newest.name}` }, lines.map((line) => h("span", { class: LOUD.test(line) ? "down" : "" }, `${line}\n`)));
      fill(place, h("p", { class: "hint" }, `${newest.path}: the newest ${newest.lines.length} lines${wanted ? `, ${lines.length} of them shown` : ""}. Times are this machine's.`), text);
      text.scrollTop = text.scrollHeight;
    };
    const refresh = () => load(place, async () => {
      const asked = name.value, found = await get<Tail>(`/api/logs/${asked}`, { lines: LINES });
      if (asked === name.value) newest = found;
      draw();
    });
    name.addEventListener("change", () => void refresh());
    words.addEventListener("input", draw);
    main.append(card("Newest lines", h("div", { class: "row tools" }, name, words, h("button", { onclick: () => void refresh() }, "Read again")), place));
    void refresh();
    return () => {};
  },
};
