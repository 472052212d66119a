-- Account equity over time with its running peak and drawdown (fraction of the peak), per run.
SELECT
  engine_id,
  run_id,
  time,
  equity_usdt,
  greatest(peak_equity_usdt, max(equity_usdt) OVER (PARTITION BY engine_id, run_id ORDER BY seq)) AS peak_usdt,
  1 - equity_usdt / peak_usdt AS drawdown,
  day_pnl_usdt,
  open_positions
FROM account FINAL
