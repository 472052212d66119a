-- Known holes and what became of them, newest first: who saw it, its kind, source and number of candles.
SELECT time, engine_id, run_id, symbol, timeframe, gap_kind, from_time, to_time, bars, detail
FROM data_gaps FINAL
ORDER BY time DESC
