-- Why no trade? Per day, symbol and gate: signals it refused, and how many of them nothing else refused.
SELECT
  toDate(decision_time, 'UTC') AS day,
  symbol,
  gate,
  count() AS refused,
  countIf(bitCount(gates) = 1) AS refused_alone
FROM signals FINAL
ARRAY JOIN arrayMap(bit -> {gates}[bit + 1], bitPositionsToArray(gates)) AS gate
WHERE NOT entered
GROUP BY day, symbol, gate
