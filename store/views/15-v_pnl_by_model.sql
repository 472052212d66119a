-- Result of closed trades per model and mode.
SELECT
  t.model_id AS model_id,
  t.mode AS mode,
  count() AS trades,
  countIf(t.net_usdt > 0) AS wins,
  round(countIf(t.net_usdt > 0) / count(), 4) AS win_rate,
  sum(t.gross_usdt) AS gross,
  sum(t.fees_usdt) AS fees,
  sum(t.funding_usdt) AS funding,
  sum(t.net_usdt) AS net,
  avg(t.net_usdt) AS net_per_trade,
  sumIf(t.net_usdt, t.net_usdt > 0) / nullIf(-sumIf(t.net_usdt, t.net_usdt < 0), 0) AS profit_factor,
  avg(dateDiff('second', t.opened_time, t.closed_time)) / 60 AS minutes_held,
  avg(t.mae) AS mean_mae,
  avg(t.mfe) AS mean_mfe
FROM trades AS t FINAL
GROUP BY model_id, mode
