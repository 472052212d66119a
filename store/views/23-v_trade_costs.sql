-- What each closed trade cost: fees, funding and slippage against the touch, in USDT and basis points of the notional.
SELECT
  t.engine_id AS engine_id,
  t.run_id AS run_id,
  t.symbol AS symbol,
  t.closed_time AS closed_time,
  t.qty * t.entry_price AS notional_usdt,
  t.gross_usdt AS gross_usdt,
  t.fees_usdt AS fees_usdt,
  t.funding_usdt AS funding_usdt,
  f.slip AS slip_usdt,
  f.fills AS fills,
  1e4 * t.fees_usdt / notional_usdt AS fees_bps,
  1e4 * t.funding_usdt / notional_usdt AS funding_bps,
  1e4 * f.slip / notional_usdt AS slip_bps,
  t.net_usdt AS net_usdt
FROM (SELECT * FROM trades FINAL) AS t
LEFT JOIN
(
  SELECT engine_id, run_id, position_id, sum(slip_usdt) AS slip, count() AS fills
  FROM fills FINAL
  GROUP BY engine_id, run_id, position_id
) AS f ON f.engine_id = t.engine_id AND f.run_id = t.run_id AND f.position_id = t.position_id
