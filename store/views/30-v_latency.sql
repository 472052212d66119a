-- Latency per stage and hour in microseconds, from interval histograms: p50 is their median by count, p99 and up the worst interval.
SELECT
  toStartOfHour(time, 'UTC') AS hour,
  engine_id,
  stage,
  sum(l.count) AS number,
  quantileExactWeighted(0.5)(p50_ns, toUInt64(l.count)) / 1000 AS p50_us,
  max(p99_ns) / 1000 AS p99_us,
  max(p999_ns) / 1000 AS p999_us,
  max(max_ns) / 1000 AS max_us,
  sum(sum_ns) / sum(l.count) / 1000 AS mean_us
FROM latency AS l FINAL
GROUP BY hour, engine_id, stage
