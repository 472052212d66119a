// The frame around every view: navigation, the status strip, notices, dialogs, keys, light and dark.
import { command, get, logOut, may, Problem, who } from "./api.ts";
import { type Child, fill, h, put } from "./dom.ts";
import { num, signed, span, tone, words } from "./format.ts";
import { loadGates } from "./gates.ts";
import { live } from "./live.ts";
import { markdown } from "./markdown.ts";
import type { Status } from "./types.ts";

export interface View { id: string; name: string; show: (main: HTMLElement, argument: string) => () => void }

const THEMES = ["auto", "light", "dark"] as const;
const note = h("div", { id: "note", role: "status", "aria-live": "polite" });
let noteTimer = 0;

export function say(text: string, kind: "good" | "bad" = "good"): void {
  note.className = kind;
  fill(note, text);
  clearTimeout(noteTimer);
  noteTimer = window.setTimeout(() => fill(note), kind === "bad" ? 12_000 : 5_000);
}

// A modal question. Esc and the first button mean no; the dangerous button never has the focus at the start.
export function ask(question: string, yes: string, danger = true): Promise<boolean> {
  return new Promise((resolve) => {
    const no = h("button", { value: "no", autofocus: true }, "Cancel");
    const dialog = h(
      "dialog",
      { "aria-labelledby": "question" },
      h("form", { method: "dialog" }, h("p", { id: "question" }, question), h("div", { class: "row end" }, no, h("button", { value: "yes", class: danger ? "danger" : "primary" }, yes))),
    ) as HTMLDialogElement;
    dialog.addEventListener("close", () => {
      resolve(dialog.returnValue === "yes");
      dialog.remove();
    });
    document.body.append(dialog);
    dialog.showModal();
  });
}

// Shows something until it is closed: Esc, or the button.
export function tell(name: string, ...children: (Child | Child[])[]): void {
  const dialog = h(
    "dialog",
    { "aria-label": name, class: "told" },
    h("form", { method: "dialog", class: "shut" }, h("button", { autofocus: true }, "Close")),
    ...children,
  ) as HTMLDialogElement;
  const shut = () => dialog.close(); // another view is another matter
  window.addEventListener("hashchange", shut);
  dialog.addEventListener("close", () => { window.removeEventListener("hashchange", shut); dialog.remove(); });
  dialog.addEventListener("click", (event) => { if (event.target === dialog) dialog.close(); });
  document.body.append(dialog);
  dialog.showModal();
}

function runbook(name: string): void {
  const text = h("div", {}, h("p", { class: "empty" }, "…"));
  tell(`Run-book: ${words(name)}`, text);
  void load(text, async () => fill(text, markdown((await get<{ text: string }>(`/api/runbook/${name}`)).text)));
}

export async function act(path: string, body: Record<string, unknown>, done: string, yes: string): Promise<boolean> {
  try {
    const answer = await command(path, body, (warning) => ask(`${warning.split(";")[0]}.`.replace(/^./, (c) => c.toUpperCase()), yes));
    if (answer === null) return false;
    const job = answer.result?.job_id;
    if (answer.state === "done") say(done, "good");
    else if (job) say(`Still being examined by the job ${job}: its progress and its verdict are under Jobs.`, "good");
    else say(`Sent, not acknowledged yet (id ${answer.id}). Look at the audit log before repeating.`, "bad");
    return true;
  } catch (error) {
    say(error instanceof Error ? error.message : String(error), "bad");
    return false;
  }
}

// Shows what a load is doing and why it failed, in place.
export async function load(place: HTMLElement, work: () => Promise<void>): Promise<void> {
  place.setAttribute("aria-busy", "true");
  try {
    await work();
  } catch (error) {
    if (error instanceof Problem && error.status === 401) return;
    fill(place, h("p", { class: "fault", role: "alert" }, error instanceof Error ? error.message : String(error)));
  } finally {
    place.removeAttribute("aria-busy");
  }
}

function theme(): HTMLElement {
  const apply = (name: string) => {
    if (name === "auto") delete document.documentElement.dataset.theme;
    else document.documentElement.dataset.theme = name;
    window.dispatchEvent(new Event("themechange"));
  };
  let now = localStorage.getItem("theme") ?? "auto";
  apply(now);
  const button = h("button", { class: "quiet", title: "Light, dark or as the system says" }, `Theme: ${now}`);
  button.addEventListener("click", () => {
    now = THEMES[(THEMES.indexOf(now as "auto") + 1) % THEMES.length] ?? "auto";
    localStorage.setItem("theme", now);
    put(button, `Theme: ${now}`);
    apply(now);
  });
  return button;
}

const RESTART_TOLD_MS = 60_000;

function strip(): HTMLElement {
  const mode = h("span", { class: "badge" }), state = h("span", { class: "badge" });
  const equity = h("b"), today = h("b"), held = h("b"), beat = h("span", { class: "badge" });
  const alarm = h("div", { id: "alarm", role: "alert", hidden: true });
  const bar = h(
    "div",
    { class: "strip" },
    mode, state, beat,
    h("span", { class: "figure" }, "Equity ", equity), h("span", { class: "figure" }, "Today ", today), h("span", { class: "figure" }, "Open ", held),
  );
  let newest: Status | undefined;
  let told = ""; // what the alarm says now: a button that somebody is about to press is not made anew
  let run = "", restarted = 0; // an engine that is back within a second was still away: say so for a while
  const draw = () => {
    const engine = newest?.engine;
    if (engine && run && engine.run_id !== run) restarted = Date.now();
    run = engine?.run_id ?? run;
    put(mode, (newest?.mode ?? "–").toUpperCase());
    mode.className = `badge ${newest?.mode === "live" ? "live" : "shadow"}`;
    put(state, words(engine?.state ?? "no engine"));
    state.className = `badge ${newest?.trading ? "good" : "warn"}`;
    const ok = live.fresh && engine?.alive;
    put(beat, !live.fresh ? "control silent" : !engine ? "no engine" : engine.alive ? "engine alive" : `engine silent ${span(engine.heartbeat_age_ms)}`);
    beat.className = `badge ${ok ? "good" : "bad"}`;
    put(equity, num(engine?.equity_usdt));
    put(today, signed(engine?.day_pnl_usdt));
    today.className = tone(engine?.day_pnl_usdt);
    put(held, num(engine?.open_positions, 0));
    const back = Date.now() - restarted < RESTART_TOLD_MS ? [`The engine was restarted at ${new Date(restarted).toLocaleTimeString()}`] : [];
    const warnings = live.fresh ? [...(newest?.warnings ?? []), ...back] : ["Connection to the control process lost. Trying again; what you see is the last that was seen."];
    alarm.hidden = warnings.length === 0;
    const standing = newest?.alarms ?? [];
    alarm.className = ok && !standing.some((item) => item.severity === "critical") ? "warn" : "bad";
    const text = warnings.map((item) => item.replace(/^./, (c) => c.toUpperCase())).join(" · "), names = standing.map((item) => item.name);
    if (told !== [text, ...names].join()) {
      told = [text, ...names].join();
      fill(alarm, h("span", {}, text), names.map((name) => h("button", { class: "small", title: "What it means, where to look, what to do", onclick: () => runbook(name) }, `Run-book: ${words(name)}`)));
    }
    document.body.classList.toggle("stale", !ok);
    document.title = `${newest?.trading ? "●" : "○"} ${newest?.mode ?? ""} ${signed(engine?.day_pnl_usdt)} – Trading engine`;
  };
  live.on("status", (status) => { newest = status; draw(); });
  live.onFresh(draw);
  draw();
  return h("div", { class: "top" }, bar, alarm);
}

function help(views: View[]): void {
  const keys: [string, string][] = [
    ...views.slice(0, 9).map((view, index): [string, string] => [String(index + 1), view.name]),
    ["0", views[9]?.name ?? ""], ["/", "Find a symbol (chart)"], ["?", "This list"], ["Esc", "Close a dialog"],
  ];
  tell("Keys", h("h2", {}, "Keys"), h("dl", { class: "keys" }, keys.flatMap(([key, what]) => [h("dt", {}, h("kbd", {}, key)), h("dd", {}, what)])));
}

export function shell(root: HTMLElement, views: View[]): void {
  const main = h("main", { id: "main", tabindex: -1 });
  const links = views.map((view) => h("a", { href: `#/${view.id}` }, view.name));
  fill(
    root,
    h("a", { class: "skip", href: "#main" }, "Skip to content"),
    h(
      "header",
      {},
      h("div", { class: "brand" }, "Trading engine"),
      h("nav", { "aria-label": "Views" }, links),
      h("div", { class: "foot" }, theme(), h("button", { class: "quiet", title: "Keys", onclick: () => help(views) }, "Keys ?"), h("button", { class: "quiet", onclick: () => void logOut() }, `Log out ${who()?.name ?? ""}`)),
    ),
    h("div", { class: "body" }, strip(), main, note),
  );
  void loadGates();
  let leave = () => {};
  const route = () => {
    const [id, argument] = location.hash.replace(/^#\//, "").split("/");
    const index = Math.max(0, views.findIndex((view) => view.id === id));
    const view = views[index];
    if (!view) return;
    leave();
    links.forEach((link, position) => (position === index ? link.setAttribute("aria-current", "page") : link.removeAttribute("aria-current")));
    links[index]?.scrollIntoView({ block: "nearest", inline: "center" });
    fill(main, h("h1", {}, view.name));
    leave = view.show(main, decodeURIComponent(argument ?? ""));
  };
  const keys = (event: KeyboardEvent) => {
    const target = event.target as HTMLElement;
    if (event.ctrlKey || event.metaKey || event.altKey || /INPUT|SELECT|TEXTAREA/.test(target.tagName) || document.querySelector("dialog[open]")) return;
    const view = views[event.key === "0" ? 9 : Number(event.key) - 1];
    if (/^[0-9]$/.test(event.key) && view) location.hash = `#/${view.id}`;
    else if (event.key === "?") help(views);
    else if (event.key === "/") {
      event.preventDefault();
      const focus = () => document.getElementById("symbol")?.focus();
      if (location.hash.startsWith("#/chart")) return focus();
      window.addEventListener("hashchange", focus, { once: true });
      location.hash = "#/chart";
    }
  };
  const skip = root.querySelector(".skip");
  skip?.addEventListener("click", (event) => { event.preventDefault(); main.focus(); });
  window.onhashchange = route;
  document.onkeydown = keys;
  route();
}

export { may };
