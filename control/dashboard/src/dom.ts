// Elements without markup strings: nothing that comes from data is ever parsed as HTML.
export type Child = Node | string | number | null | undefined | false;
type Props = Record<string, string | number | boolean | EventListener | undefined>;

export function h(tag: string, props: Props = {}, ...children: (Child | Child[])[]): HTMLElement {
  const element = document.createElement(tag);
  for (const [name, value] of Object.entries(props)) {
    if (value === undefined || value === false) continue;
    if (typeof value === "function") element.addEventListener(name.slice(2), value);
    else if (name === "value") (element as HTMLInputElement).value = String(value);
    else element.setAttribute(name, value === true ? "" : String(value));
  }
  add(element, children);
  return element;
}

export function add(element: Element, children: (Child | Child[])[]): void {
  for (const child of children.flat()) {
    if (child === null || child === undefined || child === false) continue;
    element.append(typeof child === "number" ? String(child) : child);
  }
}

export function fill(element: Element, ...children: (Child | Child[])[]): void {
  element.replaceChildren();
  add(element, children);
}

// Replaces the text only when it changed: a quiet page does not repaint and keeps a selection.
export function put(element: Element, text: string): void {
  if (element.textContent !== text) element.textContent = text;
}

// Shows `next` in `place`, cell by cell where the rows are the same: a button keeps its focus, and a press on it is not
// lost because the numbers beside it moved in that moment.
export function swap(place: Element, next: Element): void {
  const heads = (root: Element) => [...root.querySelectorAll("thead th, tbody th")].map((cell) => cell.textContent).join("|");
  const old = place.querySelectorAll("tbody td"), fresh = next.querySelectorAll("tbody td");
  if (fresh.length === 0 || old.length !== fresh.length || heads(place) !== heads(next)) return place.replaceChildren(next);
  old.forEach((cell, index) => {
    const other = fresh[index] as Element;
    if (!cell.querySelector("button") && cell.innerHTML !== other.innerHTML) cell.replaceChildren(...other.childNodes);
  });
}

const SVG = "http://www.w3.org/2000/svg";

export function svg(tag: string, props: Record<string, string | number>, ...children: (Node | string)[]): SVGElement {
  const element = document.createElementNS(SVG, tag);
  for (const [name, value] of Object.entries(props)) element.setAttribute(name, String(value));
  element.append(...children);
  return element;
}

export interface Column<Row> {
  name: string;
  title?: string; // what the column means, where its name is short
  show: (row: Row) => Child;
  number?: boolean;
  key?: boolean; // a row header, kept on narrow screens
  mark?: string; // a class of its cells
  wide?: boolean; // left out on narrow screens
}

export function table<Row>(caption: string, columns: Column<Row>[], rows: Row[], empty: string, open?: (row: Row) => void): HTMLElement {
  const pressed = (event: Event, row: Row) => { if (!(event.target as Element).closest("a, button")) open?.(row); };
  if (rows.length === 0) return h("p", { class: "empty" }, empty);
  const kind = (column: Column<Row>) => [column.number ? "num" : "", column.wide ? "wide" : "", column.mark ?? ""].join(" ").trim() || undefined;
  return h(
    "div",
    { class: "scroll", tabindex: 0, role: "region", "aria-label": caption },
    h(
      "table",
      {},
      h("caption", { class: "unseen" }, caption),
      h("thead", {}, h("tr", {}, columns.map((column) => h("th", { scope: "col", class: kind(column), title: column.title }, column.name)))),
      h(
        "tbody",
        {},
        rows.map((row) =>
          h(
            "tr",
            open ? { class: "opens", onclick: (event) => pressed(event, row) } : {},
            columns.map((column) =>
              h(column.key ? "th" : "td", { class: kind(column), scope: column.key ? "row" : undefined }, column.show(row)),
            ),
          ),
        ),
      ),
    ),
  );
}

// Calls `work` once for everything that happens within a moment.
export function soon(work: () => void, afterMs = 300): () => void {
  let timer = 0;
  return () => { timer ||= window.setTimeout(() => { timer = 0; work(); }, afterMs); };
}

export function card(title: string, ...children: (Child | Child[])[]): HTMLElement {
  return h("section", { class: "card" }, h("h2", {}, title), ...children);
}
