// Calls to the API. Every change carries an idempotency key and the CSRF token; a 428 asks the person and repeats.
import type { Session } from "./types.ts";

export class Problem extends Error {
  constructor(readonly status: number, readonly code: string, detail: string, readonly confirm?: string) {
    super(detail);
  }
}

let session: Session | null = null;
export let loggedOut: () => void = () => {};
export function onLogout(handler: () => void): void {
  loggedOut = handler;
}

export function who(): Session | null {
  return session;
}

export function may(scope: "trade" | "admin"): boolean {
  return session?.scope === "admin" || session?.scope === scope;
}

async function call<Answer>(method: string, path: string, body?: unknown, key?: string): Promise<Answer> {
  const headers: Record<string, string> = {};
  if (method !== "GET") {
    headers["x-csrf-token"] = session?.csrf ?? "";
    if (key) headers["idempotency-key"] = key;
    if (body !== undefined) headers["content-type"] = "application/json";
  }
  let answer: Response;
  try {
    answer = await fetch(path, { method, headers, body: body === undefined ? undefined : JSON.stringify(body) });
  } catch {
    throw new Problem(0, "unreachable", "the control process does not answer");
  }
  if (answer.ok) return (await answer.json()) as Answer;
  const problem = (await answer.json().catch(() => ({}))) as Partial<Record<"code" | "detail" | "confirm", string>>;
  if (answer.status === 401 && session) {
    session = null;
    loggedOut();
  }
  throw new Problem(answer.status, problem.code ?? "error", problem.detail || `HTTP ${answer.status}`, problem.confirm);
}

export function get<Answer>(path: string, query: Record<string, string | number | undefined> = {}): Promise<Answer> {
  const given = Object.entries(query).filter(([, value]) => value !== undefined && value !== "");
  const text = new URLSearchParams(given.map(([name, value]) => [name, String(value)])).toString();
  return call<Answer>("GET", text ? `${path}?${text}` : path);
}

export interface Done { id: string; verb: string; state: "done" | "pending"; result: Record<string, unknown> | null }

// Sends a command. `ask` shows the server's warning of a two-step command and resolves to whether to go on.
export async function command(path: string, body: Record<string, unknown>, ask: (warning: string) => Promise<boolean>): Promise<Done | null> {
  const key = crypto.randomUUID();
  try {
    return await call<Done>("POST", path, body, key);
  } catch (error) {
    if (!(error instanceof Problem) || error.status !== 428 || !error.confirm) throw error;
    if (!(await ask(error.message))) return null;
    return await call<Done>("POST", path, { ...body, confirm: error.confirm }, key);
  }
}

export function post<Answer>(path: string, body: Record<string, unknown>): Promise<Answer> {
  return call<Answer>("POST", path, body);
}

export async function resume(): Promise<Session | null> {
  try {
    session = await get<Session>("/api/session");
  } catch (error) {
    if (!(error instanceof Problem) || error.status !== 401) throw error;
    session = null;
  }
  return session;
}

export async function logIn(token: string): Promise<void> {
  session = await call<Session>("POST", "/api/session", { token });
}

export async function logOut(): Promise<void> {
  await call("POST", "/api/session/end");
  session = null;
  loggedOut();
}
