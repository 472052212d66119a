-- How far each 1m feature of the newest day lies from its past 30 days, per symbol: shift of the mean in standard deviations.
WITH
  (SELECT toStartOfDay(max(close_time), 'UTC') FROM features_1m) AS today
SELECT
  symbol,
  feature,
  countIf(is_new) AS new_rows,
  countIf(NOT is_new) AS old_rows,
  avgIf(value, is_new AND isFinite(value)) AS new_mean,
  avgIf(value, NOT is_new AND isFinite(value)) AS old_mean,
  stddevPopIf(value, NOT is_new AND isFinite(value)) AS old_std,
  (new_mean - old_mean) / nullIf(old_std, 0) AS shift,
  countIf(is_new AND isNaN(value)) / nullIf(countIf(is_new), 0) AS new_missing
FROM
(
  SELECT symbol, close_time >= today AS is_new, pair.1 AS feature, pair.2 AS value
  FROM features_1m FINAL
  ARRAY JOIN {features} AS pair
  WHERE close_time >= today - toIntervalDay(30)
)
GROUP BY symbol, feature
