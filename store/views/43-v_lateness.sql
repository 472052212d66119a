-- How late closed bars arrived, as a histogram per engine, symbol and timeframe: bars up to so many exchange milliseconds late.
SELECT
  engine_id,
  symbol,
  toString(timeframe) AS bar_length,
  arrayFirstOrNull(edge -> toInt64(greatest(s.late_ms, 0)) <= edge, {lateness}) AS up_to_ms,
  count() AS bars,
  countIf(bitTest(flags, 0)) AS from_stream,
  max(s.late_ms) AS worst_ms
FROM bars_seen AS s FINAL
WHERE NOT bitTest(flags, 4) AND NOT bitTest(flags, 5)
GROUP BY engine_id, symbol, bar_length, up_to_ms
