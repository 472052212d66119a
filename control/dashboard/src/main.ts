// Log in, then the views. Nothing is shown, and nothing is asked for, before there is a session.
import { logIn, onLogout, Problem, resume } from "./api.ts";
import { fill, h } from "./dom.ts";
import { live } from "./live.ts";
import { shell, type View } from "./shell.ts";
import { audit } from "./views/audit.ts";
import { chart } from "./views/chart.ts";
import { data } from "./views/data.ts";
import { jobs } from "./views/jobs.ts";
import { ladder } from "./views/ladder.ts";
import { latency } from "./views/latency.ts";
import { logs } from "./views/logs.ts";
import { models } from "./views/models.ts";
import { orders } from "./views/orders.ts";
import { overview } from "./views/overview.ts";
import { settings } from "./views/settings.ts";
import { signals } from "./views/signals.ts";
import { trades } from "./views/trades.ts";

const VIEWS: View[] = [overview, chart, signals, trades, orders, models, ladder, jobs, data, latency, audit, logs, settings];
const root = document.getElementById("app") as HTMLElement;

function login(said = ""): void {
  live.stop();
  document.title = "Log in – Trading engine";
  const token = h("input", { id: "token", type: "password", autocomplete: "current-password", required: true, autofocus: true }) as HTMLInputElement;
  const fault = h("p", { class: "fault", role: "alert" }, said);
  const form = h(
    "form",
    { class: "login" },
    h("h1", {}, "Trading engine"),
    h("label", { for: "token" }, "Token"),
    token,
    h("p", { class: "hint" }, "Made with ", h("code", {}, "ta tokens create NAME --scope trade")),
    fault,
    h("button", { class: "primary" }, "Log in"),
  );
  form.addEventListener("submit", (event) => {
    event.preventDefault();
    void logIn(token.value).then(open, (error: unknown) => {
      fill(fault, error instanceof Problem ? error.message : String(error));
      token.select();
    });
  });
  fill(root, h("main", { class: "gate" }, form));
  token.focus();
}

function open(): void {
  live.start();
  shell(root, VIEWS);
}

onLogout(() => login());
resume().then((session) => (session ? open() : login()), (error: unknown) => login(error instanceof Error ? error.message : String(error)));
