-- Per symbol, timeframe and UTC day: candles stored and expected (between the first and last stored), filled, built, revised, per source.
WITH
  candles AS
  (
    SELECT '1m' AS timeframe, 60 AS step, symbol, open_time, flags, source, late_ms FROM candles_1m FINAL
    UNION ALL
    SELECT '15m', 900, symbol, open_time, flags, source, late_ms FROM candles_15m FINAL
    UNION ALL
    SELECT '1h', 3600, symbol, open_time, flags, source, late_ms FROM candles_1h FINAL
  ),
  spans AS
  (
    SELECT timeframe, symbol, min(open_time) AS first_time, max(open_time) AS last_time FROM candles GROUP BY timeframe, symbol
  )
SELECT
  c.symbol AS symbol,
  c.timeframe AS timeframe,
  toDate(c.open_time, 'UTC') AS day,
  count() AS candles,
  toUInt64(dateDiff('second', greatest(toDateTime64(day, 3, 'UTC'), any(s.first_time)),
    least(toDateTime64(day, 3, 'UTC') + toIntervalSecond(86400 - any(c.step)), any(s.last_time))) / any(c.step)) + 1 AS expected,
  expected - candles AS missing,
  countIf(bitTest(c.flags, 4)) AS filled,
  countIf(bitTest(c.flags, 3)) AS built,
  countIf(bitTest(c.flags, 5)) AS revised,
  countIf(c.source = 'ws') AS from_ws,
  countIf(c.source = 'rest') AS from_rest,
  countIf(c.source = 'file') AS from_file,
  quantileIf(0.99)(c.late_ms, c.source = 'ws') AS late_ms_p99
FROM candles AS c
INNER JOIN spans AS s ON s.timeframe = c.timeframe AND s.symbol = c.symbol
GROUP BY symbol, timeframe, day
