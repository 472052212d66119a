-- Closed trades per UTC day, mode and engine: result, costs, running total and the drawdown of the running total.
WITH days AS
(
  SELECT
    toDate(t.closed_time, 'UTC') AS day,
    t.engine_id AS engine,
    t.mode AS trading_mode,
    count() AS number,
    countIf(t.net_usdt > 0) AS winners,
    sum(t.gross_usdt) AS gross,
    sum(t.fees_usdt) AS fees,
    sum(t.funding_usdt) AS funding,
    sum(t.net_usdt) AS net
  FROM trades AS t FINAL
  GROUP BY day, engine, trading_mode
),
running AS
(
  SELECT *, sum(net) OVER (PARTITION BY engine, trading_mode ORDER BY day) AS total FROM days
)
SELECT
  day,
  engine AS engine_id,
  trading_mode AS mode,
  number AS trades,
  winners AS wins,
  gross AS gross_usdt,
  fees AS fees_usdt,
  funding AS funding_usdt,
  net AS net_usdt,
  total AS total_usdt,
  greatest(0., max(total) OVER (PARTITION BY engine, trading_mode ORDER BY day)) - total AS drawdown_usdt
FROM running
