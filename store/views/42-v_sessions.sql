-- Each trading session from start to stop: who, mode, model, configuration, trades and result; open ones have no stop yet.
SELECT
  s.engine_id AS engine_id,
  s.run_id AS run_id,
  s.session_id AS session_id,
  minIf(s.time, s.event = 'start') AS started,
  maxIf(s.time, s.event = 'stop') AS stopped,
  countIf(s.event = 'stop') = 0 AS open,
  any(s.mode) AS trading_mode,
  anyIf(s.actor, s.event = 'start') AS started_by,
  anyIf(s.model_id, s.event = 'start') AS first_model_id,
  any(s.config_hash) AS configuration,
  max(s.trades) AS closed_trades,
  argMax(s.net_usdt, s.seq) AS net
FROM sessions AS s FINAL
GROUP BY engine_id, run_id, session_id
