// What each gate means, asked for once: shown wherever a gate's name is.
import { get } from "./api.ts";

export interface Gate { name: string; meaning: string; settings: string[] }

export const gates = new Map<string, Gate>();
let asked: Promise<void> | null = null;

// Resolves when the meanings are here; without them the page shows the names alone.
export function loadGates(): Promise<void> {
  asked ??= get<{ items: Gate[] }>("/api/signals/gates").then(
    (found) => found.items.forEach((gate) => gates.set(gate.name, gate)),
    () => { asked = null; },
  );
  return asked;
}

export function meaning(name: string): string {
  const gate = gates.get(name);
  return gate ? gate.meaning + (gate.settings.length ? ` (${gate.settings.join(", ")})` : "") : "";
}

export function gateNames(): string[] {
  return [...gates.keys()];
}
