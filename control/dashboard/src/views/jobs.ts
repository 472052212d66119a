// Labels, training and the like: what runs, how far it is, what it said.
import { get, post } from "../api.ts";
import { add, card, fill, h, table } from "../dom.ts";
import { moment, percent, span } from "../format.ts";
import { live } from "../live.ts";
import { load, may, say, type View } from "../shell.ts";
import type { Job } from "../types.ts";

const KINDS = ["label", "train", "collect", "audit", "backtest"];

export const jobs: View = {
  id: "jobs",
  name: "Jobs",
  show(main, chosen) {
    const list = h("div"), log = h("div");
    const kind = h("select", { id: "kind", name: "kind" }, KINDS.map((name) => h("option", { value: name }, name))) as HTMLSelectElement;
    const field = (name: string, label: string) => [h("label", { for: name }, label), h("input", { id: name, name, autocomplete: "off", size: 16 })];
    const form = h("form", { class: "row tools" }, h("label", { for: "kind" }, "Run"), kind, field("job-symbols", "symbols"), field("job-from", "from"), field("job-to", "to"), h("button", { class: "primary" }, "Start job")) as HTMLFormElement;
    form.addEventListener("submit", (event) => {
      event.preventDefault();
      const value = (name: string) => (form.querySelector(`#${name}`) as HTMLInputElement).value.trim();
      const options: Record<string, unknown> = {};
      const symbols = value("job-symbols").toUpperCase().split(/[\s,]+/).filter(Boolean);
      if (symbols.length) options.symbol = symbols;
      if (value("job-from")) options.from = value("job-from");
      if (value("job-to")) options.to = value("job-to");
      post<Job>("/api/jobs", { kind: kind.value, options }).then((job) => { location.hash = `#/jobs/${job.job_id}`; }, (error: Error) => say(error.message, "bad"));
    });
    add(main, [may("admin") ? card("New job", form, h("p", { class: "hint" }, "One job runs at a time, at low priority. Times are UTC, as 2025-05-04. Empty symbols mean those configured.")) : null, list, log]);
    const refresh = () => load(list, async () => {
      const found = await get<{ items: Job[] }>("/api/jobs");
      fill(list, table("Jobs", [
        { name: "Queued", wide: true, show: (row) => moment(row.queued_ms) },
        { name: "Job", key: true, show: (row) => h("a", { href: `#/jobs/${row.job_id}` }, row.job_id) },
        { name: "State", show: (row) => h("span", { class: `tag ${row.state === "done" ? "good" : row.state === "failed" ? "bad" : ""}` }, row.state) },
        { name: "Progress", show: (row) => (row.state === "running" ? (row.progress === null ? "…" : percent(row.progress, 0)) : row.error.slice(0, 80)) },
        { name: "Took", number: true, wide: true, show: (row) => (row.started_ms && row.finished_ms ? span(row.finished_ms - row.started_ms) : "") },
        { name: "By", wide: true, show: (row) => row.actor },
      ], found.items, "No jobs yet."));
    });
    const show = () => chosen && load(log, async () => {
      const job = await get<Job>(`/api/jobs/${chosen}`);
      const stop = h("button", { class: "small", onclick: () => void post(`/api/jobs/${chosen}/cancel`, {}).then(() => say("Asked to stop."), (error: Error) => say(error.message, "bad")) }, "Stop job");
      fill(log, card(job.job_id, h("p", {}, `ta ${job.kind} ${job.arguments.join(" ")}`), job.state === "running" ? h("progress", { max: 1, value: job.progress ?? undefined, "aria-label": "progress" }) : null, h("pre", { tabindex: 0 }, job.log.join("\n") || "no output yet"), may("admin") && /queued|running/.test(job.state) ? stop : null));
    });
    let timer = 0;
    const both = () => { clearTimeout(timer); timer = window.setTimeout(() => { void refresh(); void show(); }, 300); };
    void refresh();
    void show();
    const off = live.on("jobs", both);
    return () => { off(); clearTimeout(timer); };
  },
};
