// The live connection: subscribes, resumes after a break by sequence number, and says whether what is shown is fresh.
import type { Connections, Job, Mark, OpenOrder, OrderEvent, Position, Signal, Stage, Status, Trade } from "./types.ts";

export interface Topics {
  status: Status; marks: Mark[]; positions: Position[]; latency: Stage[]; signals: Signal[]; trades: Trade; orders: OrderEvent; open_orders: OpenOrder[]; connections: Connections;
  candles: { symbol: string; close_ms: number; close: number | null }[]; jobs: Job; log: unknown;
}
export type Topic = keyof Topics;
type Handler = (data: never) => void;

const ALL: Topic[] = ["status", "marks", "positions", "open_orders", "connections", "latency", "signals", "trades", "orders", "candles", "jobs"];
const SILENT_MS = 5_000; // the status comes every second
const BACKOFF_MS = [500, 1_000, 2_000, 5_000];

class Live {
  readonly last: { [T in Topic]?: Topics[T] } = {};
  fresh = false;
  private handlers = new Map<Topic, Set<Handler>>();
  private watchers = new Set<() => void>();
  private gaps = new Set<() => void>();
  private socket: WebSocket | null = null;
  private seq: number | undefined;
  private epoch: string | undefined;
  private tries = 0;
  private heardAt = 0;
  private wanted = false;
  private timer = 0;

  on<T extends Topic>(topic: T, handler: (data: Topics[T]) => void): () => void {
    let set = this.handlers.get(topic);
    if (!set) this.handlers.set(topic, (set = new Set()));
    set.add(handler as Handler);
    const known = this.last[topic];
    if (known !== undefined) handler(known as Topics[T]);
    return () => set.delete(handler as Handler);
  }

  // Called when freshness changes, and when events were missed (then lists must be read again).
  onFresh(handler: () => void): void { this.watchers.add(handler); }
  onGap(handler: () => void): () => void { this.gaps.add(handler); return () => this.gaps.delete(handler); }

  start(): void {
    this.wanted = true;
    this.connect();
    clearInterval(this.timer);
    this.timer = window.setInterval(() => this.setFresh(Date.now() - this.heardAt < SILENT_MS), 1_000);
  }

  stop(): void {
    this.wanted = false;
    clearInterval(this.timer);
    this.socket?.close();
    this.setFresh(false);
  }

  private connect(): void {
    const socket = (this.socket = new WebSocket(`${location.protocol === "https:" ? "wss" : "ws"}://${location.host}/api/live`));
    socket.onopen = () => socket.send(JSON.stringify({ op: "subscribe", topics: ALL, after: this.seq, epoch: this.epoch }));
    socket.onmessage = (event: MessageEvent<string>) => this.hear(JSON.parse(event.data));
    socket.onclose = () => {
      if (!this.wanted || this.socket !== socket) return;
      const wait = BACKOFF_MS[Math.min(this.tries++, BACKOFF_MS.length - 1)];
      window.setTimeout(() => this.wanted && this.connect(), wait);
    };
  }

  private hear(message: { op?: string; topic: Topic; seq: number; data: never; resumed: boolean; epoch: string }): void {
    if (message.op === "subscribed") {
      this.tries = 0;
      const missed = this.seq !== undefined && !message.resumed;
      this.seq = message.seq;
      this.epoch = message.epoch;
      if (missed) for (const handler of this.gaps) handler();
      return;
    }
    this.seq = Math.max(this.seq ?? 0, message.seq);
    if (message.topic === "status") {
      this.heardAt = Date.now();
      this.setFresh(true);
    }
    (this.last as Record<string, unknown>)[message.topic] = message.data;
    for (const handler of this.handlers.get(message.topic) ?? []) handler(message.data);
  }

  private setFresh(fresh: boolean): void {
    if (fresh === this.fresh) return;
    this.fresh = fresh;
    for (const watcher of this.watchers) watcher();
  }
}

export const live = new Live();
