// The little Markdown that the run-book is written in, as elements: headings, lists, paragraphs, code, links as their text.
import { type Child, h } from "./dom.ts";

export function inline(text: string): Child[] {
  return text.replace(/\[([^\]]+)\]\([^)]*\)/g, "$1").split("`").map((part, at) => (at % 2 ? h("code", {}, part) : part));
}

export function markdown(text: string): HTMLElement[] {
  const found: HTMLElement[] = [];
  for (const block of text.split(/\n{2,}/)) {
    const lines = block.trim().split("\n");
    const first = lines[0] ?? "";
    const heading = /^(#+) (.*)$/.exec(first), item = /^(\d+\.|-) /;
    if (heading) found.push(h(heading[1] === "#" ? "h2" : "h3", {}, inline(heading[2] ?? "")));
    else if (item.test(first)) {
      const items: string[] = [];
      for (const line of lines) { // an item goes on in the lines below that are none themselves
        if (item.test(line)) items.push(line.replace(item, ""));
        else items.push(`${items.pop() ?? ""} ${line.trim()}`);
      }
      found.push(h(first.startsWith("-") ? "ul" : "ol", {}, items.map((one) => h("li", {}, inline(one)))));
    } else if (first) found.push(h("p", {}, inline(lines.join(" "))));
  }
  return found;
}
