// The registry: which model decides, what it was trained on, what its gate found; promote and roll back.
import { get } from "../api.ts";
import { card, fill, h, table } from "../dom.ts";
import { moment, num, words } from "../format.ts";
import { act, ask, load, may, type View } from "../shell.ts";
import type { Model } from "../types.ts";
import { evidence, outcome } from "./evidence.ts";

interface Detail extends Model { url: string; manifest: Record<string, unknown> }

function reasonFor(model: string): Promise<string | null> {
  return new Promise((resolve) => {
    const field = h("input", { id: "reason", required: true, maxlength: 200, autocomplete: "off" }) as HTMLInputElement;
    const dialog = h("dialog", { "aria-labelledby": "force-title" }, h("form", { method: "dialog" },
      h("h2", { id: "force-title" }, "Promote past the gate"),
      h("p", {}, `The gate says whether ${model} has shown that it is better. Going past it is recorded with your name and this reason:`),
      h("label", { for: "reason" }, "Reason"), field,
      h("div", { class: "row end" }, h("button", { value: "no", formnovalidate: true }, "Cancel"), h("button", { value: "yes", class: "danger" }, "Go on")))) as HTMLDialogElement;
    dialog.addEventListener("close", () => { resolve(dialog.returnValue === "yes" && field.value ? field.value : null); dialog.remove(); });
    document.body.append(dialog);
    dialog.showModal();
    field.focus();
  });
}

function pairs(values: Record<string, unknown>): HTMLElement {
  const text = (value: unknown): string => {
    if (Array.isArray(value)) return value.length > 12 ? `${value.length} values` : value.map(text).join(", ") || "none";
    if (typeof value === "number") return Number.isInteger(value) && Math.abs(value) < 2 ** 53 ? num(value, 0) : String(Number(value.toPrecision(6)));
    if (typeof value !== "object" || value === null) return String(value ?? "–");
    const inside = Object.entries(value), same = new Set(inside.map(([, one]) => text(one)));
    if (inside.length > 16) return `${inside.length} entries`;
    return inside.length > 4 && same.size === 1 ? `${[...same][0]} each` : inside.map(([name, one]) => `${words(name)} ${text(one)}`).join(", ") || "none";
  };
  const shown = (name: string, value: unknown): string => (name.endsWith("_ms") && typeof value === "number" ? `${moment(value)} UTC` : name.endsWith("hash") ? String(value) : text(value));
  return h("dl", { class: "pairs" }, Object.entries(values).flatMap(([name, value]) => [h("dt", {}, words(name.replace(/_ms$/, ""))), h("dd", {}, shown(name, value))]));
}

export const models: View = {
  id: "models",
  name: "Models",
  show(main, chosen) {
    const list = h("div"), detail = h("div");
    let active = "";
    const rollback = h("button", {}, "Roll back");
    const backend = h("select", { "aria-label": "Predictor" }, h("option", { value: "" }, "Evaluate with…"), ["auto", "packed", "walk", "tl2cgen"].map((name) => h("option", { value: name }, name))) as HTMLSelectElement;
    backend.addEventListener("change", async () => {
      const name = backend.value;
      backend.value = "";
      if (name && (await ask(`Let the engine evaluate its model with “${name}” until it restarts?`, "Change", false))) await act("/api/models/predictor", { predictor: name }, `The model is evaluated with ${name}.`, "Change");
    });
    main.append(may("trade") ? h("div", { class: "row tools" }, rollback, backend) : h("div"), card("Registry", list), detail);
    const refresh = () => load(list, async () => {
      const found = await get<{ items: Model[] }>("/api/models");
      active = (found.items.find((row) => row.active) ?? found.items[0])?.model_id ?? "";
      fill(list, table("Models", [
        { name: "Model", key: true, show: (row) => h("a", { href: `#/models/${row.model_id}` }, row.model_id) },
        { name: "State", show: (row) => h("span", { class: `tag ${row.active ? "good" : ""}` }, row.active ? `${row.state}, deciding now` : row.state) },
        { name: "Since", wide: true, show: (row) => moment(row.since_ms) },
        { name: "By", wide: true, show: (row) => row.actor },
        { name: "", show: (row) => (may("trade") && !row.active ? h("div", { class: "row" },
          h("button", { class: "small", "aria-label": `Promote ${row.model_id}`, onclick: () => void promote(row.model_id, false) }, "Promote"),
          may("admin") ? h("button", { class: "small", "aria-label": `Force ${row.model_id}`, onclick: () => void promote(row.model_id, true) }, "Force…") : null) : "") },
      ], found.items, "No model is registered: run ta label and ta train, or the jobs of these names."));
    });
    const promote = async (id: string, force: boolean) => {
      const reason = force ? await reasonFor(id) : "";
      if (reason === null) return;
      if (!force && !(await ask(`Ask the gate and make ${id} the model that decides?`, "Promote", false))) return;
      if (await act(`/api/models/${id}/promote`, { force, reason }, `${id} is promoted.`, "Promote past the gate")) void refresh();
    };
    rollback.addEventListener("click", async () => {
      if (!(await ask("Bring back the model that the present one replaced?", "Roll back"))) return;
      if (await act("/api/models/rollback", { reason: "dashboard" }, "Rolled back.", "Roll back")) void refresh();
    });
    void refresh().then(() => {
      const id = chosen || active;
      if (id) void load(detail, async () => {
        const model = await get<Detail>(`/api/models/${encodeURIComponent(id)}`);
        const came = h("div");
        const { files: _files, features: _features, missing_types: _types, golden: _golden, metrics: _metrics, ...manifest } = model.manifest;
        fill(detail, h("h2", { class: "part" }, model.model_id, " ", "targets" in model.metrics ? h("a", { href: `/api/models/${encodeURIComponent(id)}/report`, target: "_blank", rel: "noopener" }, "full report") : null),
          h("div", { class: "grid" }, evidence(model.metrics), came, card("Manifest", pairs(manifest))));
        const found = await get<{ items: Parameters<typeof outcome>[0] }>(`/api/models/${encodeURIComponent(id)}/calibration`).catch(() => ({ items: [] }));
        fill(came, outcome(found.items));
      });
    });
    return () => {};
  },
};
