// The kill ladder: each rung says exactly what it does and what it leaves alone, gentlest first.
import { card, fill, h, put } from "../dom.ts";
import { words } from "../format.ts";
import { live } from "../live.ts";
import { positionsTable } from "../positions.ts";
import { act, ask, may, type View } from "../shell.ts";

interface Rung { name: string; path: string; does: string; keeps: string; done: string; question?: string; danger?: boolean }

const RUNGS: Rung[] = [
  { name: "Stop entries", path: "/api/trading/stop", does: "Closes the session: no new positions.", keeps: "Open positions keep stop loss, take profit and time limit.", done: "Entries are stopped." },
  { name: "Reduce only", path: "/api/trading/reduce-only", does: "As stop, and nothing but exits is accepted until a start.", keeps: "Open positions keep their guards.", done: "Reduce only.", question: "Allow only exits from now on?" },
  { name: "Flatten", path: "/api/trading/flatten", does: "Closes everything this system opened, at the market, and stops entries.", keeps: "Positions opened elsewhere are not touched.", done: "Flatten acknowledged: exits are on their way.", danger: true },
  { name: "Halt", path: "/api/trading/halt", does: "Stops entries until a start that clears the halt.", keeps: "Stops and exits of open positions still work.", done: "Halted.", question: "Halt? Starting again then needs the halt to be cleared.", danger: true },
];

export const ladder: View = {
  id: "control",
  name: "Control",
  show(main) {
    const state = h("b"), held = h("div");
    const start = h("button", { class: "primary" }, "Start session");
    const go = async () => {
      const halted = live.last.status?.engine?.state === "halted";
      if (halted && !(await ask("The engine is halted. Has the cause been looked at, and may the halt be cleared?", "Clear the halt and start"))) return;
      await act("/api/trading/start", halted ? { clear_halt: true } : {}, "Session open: entries are allowed.", "Start live trading");
    };
    start.addEventListener("click", () => void go());
    const press = async (rung: Rung) => {
      if (rung.question && !(await ask(rung.question, rung.name, rung.danger))) return;
      await act(rung.path, {}, rung.done, rung.name);
    };
    main.append(
      card("Session", h("p", {}, "The engine is ", state, ". The mode (shadow or live) is fixed when the engine starts."), may("trade") ? start : h("p", { class: "hint" }, "This token may only read.")),
      card("Kill ladder", h("ol", { class: "ladder" }, RUNGS.map((rung) => h("li", {}, h("div", {}, h("b", {}, rung.name), h("p", {}, rung.does), h("p", { class: "hint" }, rung.keeps)), may("trade") ? h("button", { class: rung.danger ? "danger" : "", onclick: () => void press(rung) }, rung.name) : null)))),
      card("Open positions", held),
      card("When this page does not answer", h("p", {}, "On the machine: ", h("code", {}, "ta stop"), ", ", h("code", {}, "ta flatten"), " and ", h("code", {}, "ta status"), " talk to the engine directly, without the control process.")),
    );
    const leave = [
      live.on("status", (status) => { put(state, words(status.engine?.state ?? "not there")); start.toggleAttribute("disabled", status.trading || !status.engine?.alive); }),
      live.on("positions", (items) => fill(held, positionsTable(items))),
    ];
    return () => leave.forEach((off) => off());
  },
};
