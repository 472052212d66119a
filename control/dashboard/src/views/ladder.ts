// The kill ladder: each rung says exactly what it does and what it leaves alone, gentlest first, and when it held.
import { get } from "../api.ts";
import { card, fill, h, put, swap } from "../dom.ts";
import { moment, words } from "../format.ts";
import { live } from "../live.ts";
import { openOrdersTable } from "../orders.ts";
import { positionsTable } from "../positions.ts";
import { act, ask, may, type View } from "../shell.ts";

type Step = "pause" | "reduce_only" | "cancel" | "flatten";
interface Rung { name: string; until?: Step; does: string; keeps: string; done: string; question?: string; danger?: boolean }
interface Report { until: Step | null; begun_ms: number | null; running: boolean; took_ms: Partial<Record<Step, number>> }

const RUNGS: Rung[] = [
  { name: "Stop entries", until: "pause", does: "Closes the session: no new positions.", keeps: "Open positions keep stop loss, take profit and time limit.", done: "Entries are stopped." },
  { name: "Reduce only", until: "reduce_only", does: "As above, and nothing but exits is accepted until a start.", keeps: "Open positions keep their guards.", done: "Reduce only.", question: "Allow only exits from now on?" },
  { name: "Cancel entries", until: "cancel", does: "As above, and every open entry of this system is cancelled by its id.", keeps: "Open positions keep their guards, on the exchange too.", done: "Cancelling open entries.", danger: true },
  { name: "Flatten", until: "flatten", does: "As above, and everything this system opened is closed at the market.", keeps: "Positions opened elsewhere are not touched.", done: "Flatten acknowledged: exits are on their way.", danger: true },
  { name: "Halt", does: "Stops entries until a start that clears the halt: for when something is not understood.", keeps: "Stops and exits of open positions still work.", done: "Halted.", question: "Halt? Starting again then needs the halt to be cleared.", danger: true },
];
const HELD: Record<Step, string> = { pause: "Entries stopped", reduce_only: "Reduce only", cancel: "Open entries cancelled", flatten: "Flat" };
const LOOK_MS = 300;

function steps(report: Report): HTMLElement {
  if (!report.until) return h("p", { class: "empty" }, "Not used since this engine started. A drill on paper: flatten in shadow mode.");
  const wanted = (Object.keys(HELD) as Step[]).slice(0, (Object.keys(HELD) as Step[]).indexOf(report.until) + 1);
  return h("div", {}, h("p", { class: "hint" }, `Down to “${words(report.until)}”, begun ${moment(report.begun_ms)} UTC${report.running ? "; not all of it holds yet" : ""}.`),
    h("ol", { class: "steps" }, wanted.map((step) => {
      const took = report.took_ms[step];
      return h("li", { class: took === undefined ? "warn" : "good" }, h("b", {}, HELD[step]), " ", took === undefined ? "not yet" : took === 0 ? "at once" : `after ${took} ms`);
    })));
}

export const ladder: View = {
  id: "control",
  name: "Control",
  show(main) {
    const state = h("b"), held = h("div"), orders = h("div"), newest = h("div", { "aria-live": "polite" });
    const start = h("button", { class: "primary" }, "Start session");
    let gone = false;
    const look = async () => {
      const report = await get<Report>("/api/trading/kill").catch(() => null);
      if (gone) return;
      fill(newest, report ? steps(report) : h("p", { class: "empty" }, "The engine does not answer."));
      if (report?.running) window.setTimeout(() => void look(), LOOK_MS);
    };
    const go = async () => {
      const halted = live.last.status?.engine?.state === "halted";
      if (halted && !(await ask("The engine is halted. Has the cause been looked at, and may the halt be cleared?", "Clear the halt and start"))) return;
      await act("/api/trading/start", halted ? { clear_halt: true } : {}, "Session open: entries are allowed.", "Start live trading");
    };
    start.addEventListener("click", () => void go());
    const press = async (rung: Rung) => {
      if (rung.question && !(await ask(rung.question, rung.name, rung.danger))) return;
      if (await act(rung.until ? "/api/trading/kill" : "/api/trading/halt", rung.until ? { until: rung.until } : {}, rung.done, rung.name)) void look();
    };
    main.append(
      card("Session", h("p", {}, "The engine is ", state, ". The mode (shadow or live) is fixed when the engine starts."), may("trade") ? start : h("p", { class: "hint" }, "This token may only read.")),
      h("div", { class: "grid" },
        card("Kill ladder", h("ol", { class: "ladder" }, RUNGS.map((rung) => h("li", {}, h("div", {}, h("b", {}, rung.name), h("p", {}, rung.does), h("p", { class: "hint" }, rung.keeps)), may("trade") ? h("button", { class: rung.danger ? "danger" : "", onclick: () => void press(rung) }, rung.name) : null)))),
        h("div", {}, card("The newest kill, step by step", newest),
          card("When this page does not answer", h("p", {}, "On the machine, without the control process: ", h("code", {}, "ta kill --until flatten"), ", ", h("code", {}, "ta stop"), ", ", h("code", {}, "ta status"), ".")))),
      card("Open positions", held), card("Open orders", orders),
    );
    void look();
    const leave = [
      live.on("status", (status) => { put(state, words(status.engine?.state ?? "not there")); start.toggleAttribute("disabled", status.trading || !status.engine?.alive); }),
      live.on("positions", (items) => swap(held, positionsTable(items))),
      live.on("open_orders", (items) => swap(orders, openOrdersTable(items))),
    ];
    return () => { gone = true; leave.forEach((off) => off()); };
  },
};
