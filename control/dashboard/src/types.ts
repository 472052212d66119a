// The answers of the API that the dashboard reads; the OpenAPI document at /schema is the definition.
export type Side = "long" | "short" | "none";

export interface Engine {
  alive: boolean; engine_id: string; run_id: string; pid: number; mode: string; state: string;
  heartbeat_age_ms: number; started_ms: number; exchange_ms: number; clock_offset_ms: number | null;
  session_id: number; session_ms: number; model_id: string; backend: string; schema_hash: string; config_hash: string;
  equity_usdt: number | null; wallet_usdt: number | null; peak_equity_usdt: number | null; drawdown: number | null;
  day_pnl_usdt: number | null; open_positions: number; mark_age_ms: number; blind: string[]; symbols: number; symbols_ready: number; symbols_halted: number;
  journal_seq: number; journal_full: boolean; rss_bytes: number; counters: Record<string, number>;
}
export interface Status {
  trading: boolean; mode: string; engine: Engine | null;
  store: { ok: boolean; kind: string; detail: string; lag_records: number | null };
  control_started_ms: number; now_ms: number; version: string; warnings: string[];
  alarms: { name: string; severity: "warning" | "critical"; says: string }[];
}
export interface Signal {
  seq: number; symbol: string; decision_ms: number; side: Side; entered: boolean; late: boolean; refused_by: string[];
  predictions: Record<string, number | null>; model_id: string; close: number | null; mark_price: number | null;
  atr_15m: number | null; bid: number | null; ask: number | null; qty: number | null; tp_price: number | null;
  sl_price: number | null; frame_to_decision_us: number | null; vector_hash: string;
}
export interface Position {
  position_id: number; symbol: string; side: Side; qty: number; entry_price: number; mark_price: number | null;
  notional_usdt: number | null; unrealised_usdt: number | null; tp_price: number; sl_price: number;
  protect_price: number | null; to_tp: number | null; to_sl: number | null; to_liquidation: number | null;
  protected: boolean; opened_ms: number; deadline_ms: number; fees_usdt: number; funding_usdt: number;
}
export interface Trade {
  position_id: number; seq: number; symbol: string; side: Side; mode: string; reason: string; qty: number;
  entry_price: number; exit_price: number; opened_ms: number; closed_ms: number; gross_usdt: number; fees_usdt: number;
  funding_usdt: number; net_usdt: number; mae: number | null; mfe: number | null; model_id: string; run_id: string;
}
export interface Connection {
  name: string; kind: "public" | "market" | "ws_api" | "private"; state: string; ok: boolean; streams: number; pending: number;
  frames: number; faults: number; reconnects: number; silent_ms: number | null;
}
export interface Connections {
  items: Connection[]; weight: { used: number; limit: number; banned_ms: number }; orders: { window_ms: number; used: number; limit: number }[];
}
export interface OpenOrder {
  client_order_id: string; position_id: number; symbol: string; side: Side; reduce_only: boolean; reason: string; type: string; state: string;
  route: string; qty: number | null; price: number | null; filled_qty: number; average_price: number | null; order_id: number; created_ms: number | null;
}
export interface OrderEvent {
  seq: number; time_ms: number; client_order_id: string; position_id: number; symbol: string; side: Side; state: string; reason: string;
  reduce_only: boolean; qty: number | null; price: number | null; filled_qty: number | null; average_price: number | null;
  order_id: number; code: number; mode: string; detail: string; run_id: string;
}
export interface Fill {
  seq: number; time_ms: number; client_order_id: string; position_id: number; symbol: string; side: Side; maker: boolean; mode: string;
  qty: number; price: number; fee_usdt: number | null; slip_usdt: number | null; trade_id: number; run_id: string;
}
export interface Stage { stage: string; count: number; p50_us: number; p99_us: number; p999_us: number; max_us: number; mean_us: number }
export interface Page<Row> { items: Row[]; next: string | null }
export interface Candle { open_ms: number; open: number; high: number; low: number; close: number; volume: number | null; source: string }
export interface Model { model_id: string; state: string; since_ms: number; actor: string; active: boolean; metrics: Record<string, unknown> }
export interface Job {
  job_id: string; kind: string; state: string; actor: string; arguments: string[]; queued_ms: number;
  started_ms: number | null; finished_ms: number | null; exit_code: number | null; progress: number | null;
  error: string; log: string[];
}
export interface Command { seq: number; time_ms: number; command_id: string; verb: string; actor: string; argument: string; code: number; phase: number; result: string }
export interface Session { name: string; scope: "read" | "trade" | "admin"; csrf: string | null }
export type Mark = [string, number | null, number | null, number | null, number | null, boolean, boolean];
