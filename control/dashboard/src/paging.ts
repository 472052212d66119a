// A list with filters that are part of the address bar's memory, and a button for the next page.
import { get } from "./api.ts";
import { add, type Column, fill, h, table } from "./dom.ts";
import { load } from "./shell.ts";
import type { Page } from "./types.ts";

// limit: rows asked for at once. prepare: adds to the rows of a page what other lists know. fold: what is shown of all rows.
// open: shows all about a row that was clicked; the same must be behind a button of the row.
export interface Ways<Row> { limit?: number; prepare?: (rows: Row[]) => Promise<void>; fold?: (rows: Row[]) => Row[]; open?: (row: Row) => void }
export interface Filter { name: string; label: string; options?: [string, string][] }

export function pages<Row>(main: HTMLElement, path: string, caption: string, columns: Column<Row>[], filters: Filter[], empty: string, tools: HTMLElement[] = [], ways: Ways<Row> = {}): { refresh: () => void; rows: () => Row[]; query: () => Record<string, string> } {
  const fields = filters.map((filter) =>
    filter.options
      ? h("select", { name: filter.name, "aria-label": filter.label }, h("option", { value: "" }, filter.label), filter.options.map(([value, text]) => h("option", { value }, text)))
      : h("input", { name: filter.name, placeholder: filter.label, "aria-label": filter.label, size: 14, autocomplete: "off" }),
  ) as (HTMLSelectElement | HTMLInputElement)[];
  const list = h("div"), more = h("button", { hidden: true }, "Older");
  let rows: Row[] = [], next: string | null = null, asked = 0;
  const query = () => Object.fromEntries(fields.map((field) => [field.name, field.name === "symbol" ? field.value.trim().toUpperCase() : field.value.trim()]));
  const read = (older: boolean) => load(list, async () => {
    const mine = ++asked;
    const found = await get<Page<Row>>(path, { ...query(), limit: ways.limit ?? 100, before: older ? (next ?? undefined) : undefined });
    await ways.prepare?.(found.items);
    if (mine !== asked) return; // something else was asked for meanwhile, and may be here already
    rows = older ? [...rows, ...found.items] : found.items;
    next = found.next;
    fill(list, table(caption, columns, ways.fold ? ways.fold(rows) : rows, empty, ways.open));
    more.hidden = next === null;
  });
  fields.forEach((field) => field.addEventListener("change", () => void read(false)));
  more.addEventListener("click", () => void read(true));
  add(main, [h("div", { class: "row tools" }, fields, tools), list, more]);
  void read(false);
  return { refresh: () => void read(false), rows: () => rows, query };
}
