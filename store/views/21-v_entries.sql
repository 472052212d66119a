-- Every closed trade beside the signal that opened it: predicted and realised return, excursion and holding time.
SELECT
  t.engine_id AS engine_id,
  t.run_id AS run_id,
  t.symbol AS symbol,
  t.side AS side,
  s.decision_time AS decision_time,
  t.closed_time AS closed_time,
  t.reason AS reason,
  s.model_id AS model_id,
  if(t.side = 'long', s.er_long, s.er_short) AS predicted_return,
  t.net_usdt / (t.entry_price * t.qty) AS realised_return,
  if(t.side = 'long', s.e_mae_long, s.e_mae_short) AS predicted_mae,
  t.mae AS realised_mae,
  if(t.side = 'long', s.e_hold_long, s.e_hold_short) AS predicted_minutes,
  dateDiff('second', t.opened_time, t.closed_time) / 60 AS minutes_held,
  t.net_usdt AS net_usdt
FROM (SELECT * FROM trades FINAL) AS t
INNER JOIN (SELECT * FROM signals FINAL) AS s
  ON s.engine_id = t.engine_id AND s.run_id = t.run_id AND s.seq = t.position_id
