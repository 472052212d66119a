-- Which model decided when: each activation in an engine, by whom, until when, its first prediction and its trades.
WITH spans AS
(
  SELECT
    a.engine_id AS engine,
    a.run_id AS run,
    a.seq AS first_seq,
    a.time AS from_time,
    a.model_id AS model,
    a.backend AS served_by,
    a.actor AS activated_by,
    leadInFrame(a.seq, 1, toUInt64(18446744073709551615)) OVER w AS next_seq,
    leadInFrame(a.time, 1, toDateTime64(0, 3, 'UTC')) OVER w AS next_time
  FROM activations AS a FINAL
  WINDOW w AS (PARTITION BY a.engine_id, a.run_id ORDER BY a.seq ROWS BETWEEN UNBOUNDED PRECEDING AND UNBOUNDED FOLLOWING)
),
decided AS
(
  SELECT
    s.engine AS engine,
    s.run AS run,
    s.first_seq AS first_seq,
    count() AS number,
    min(g.time) AS first_time
  FROM spans AS s
  INNER JOIN (SELECT * FROM signals FINAL) AS g ON g.engine_id = s.engine AND g.run_id = s.run
  WHERE g.seq > s.first_seq AND g.seq < s.next_seq AND g.model_id = s.model
  GROUP BY engine, run, first_seq
),
closed AS
(
  SELECT
    s.engine AS engine,
    s.run AS run,
    s.first_seq AS first_seq,
    count() AS number,
    sum(t.net_usdt) AS net
  FROM spans AS s
  INNER JOIN (SELECT * FROM trades FINAL) AS t ON t.engine_id = s.engine AND t.run_id = s.run
  WHERE t.position_id > s.first_seq AND t.position_id < s.next_seq AND t.model_id = s.model
  GROUP BY engine, run, first_seq
)
SELECT
  spans.engine AS engine_id,
  spans.run AS run_id,
  spans.model AS model_id,
  spans.from_time AS activated_time,
  if(toUnixTimestamp(spans.next_time) = 0, NULL, spans.next_time) AS until_time,
  spans.activated_by AS actor,
  spans.served_by AS backend,
  decided.number AS signals,
  if(decided.number = 0, NULL, decided.first_time) AS first_signal_time,
  closed.number AS trades,
  closed.net AS net_usdt
FROM spans
LEFT JOIN decided ON decided.engine = spans.engine AND decided.run = spans.run AND decided.first_seq = spans.first_seq
LEFT JOIN closed ON closed.engine = spans.engine AND closed.run = spans.run AND closed.first_seq = spans.first_seq
