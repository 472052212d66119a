-- Are the predictions worth what they say? Per side and decile of the expected return: predicted against what the labels say came.
WITH paired AS
(
  SELECT 'long' AS side, s.model_id AS model, s.er_long AS predicted, s.q05_long AS tail, l.net_return AS realised,
    l.net_free AS held, s.e_mae_long AS predicted_mae, l.mae AS realised_mae
  FROM (SELECT * FROM signals FINAL) AS s
  INNER JOIN (SELECT * FROM labels_long_1m FINAL) AS l ON l.symbol = s.symbol AND l.time = s.decision_time
  UNION ALL
  SELECT 'short', s.model_id, s.er_short, s.q05_short, l.net_return, l.net_free, s.e_mae_short, l.mae
  FROM (SELECT * FROM signals FINAL) AS s
  INNER JOIN (SELECT * FROM labels_short_1m FINAL) AS l ON l.symbol = s.symbol AND l.time = s.decision_time
),
ranked AS
(
  SELECT *, ntile(10) OVER (PARTITION BY side, model ORDER BY predicted) AS decile FROM paired WHERE isFinite(predicted)
)
SELECT
  side,
  model AS model_id,
  decile,
  count() AS signals,
  avg(predicted) AS predicted_return,
  avg(realised) AS realised_return,
  countIf(held < tail) / count() AS below_q05,
  avg(predicted_mae) AS mean_predicted_mae,
  avg(realised_mae) AS mean_realised_mae
FROM ranked
GROUP BY side, model_id, decile
