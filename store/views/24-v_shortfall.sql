-- Each live trade against its shadow twin (at the live quantity): what of the difference in USDT is due to the moment of the decision, our computing, the network, the price got against the book, fees and funding.
WITH
  if(t.qty > 0, t.live_qty / t.qty, 0) AS ratio,
  toInt8(t.side) * t.live_qty AS signed_qty,
  isFinite(t.entry_mid + t.live_entry_mid) AND t.qty > 0 AS entry_seen,
  isFinite(t.exit_mid + t.exit_decided_mid + t.live_exit_mid + t.live_exit_decided_mid) AND t.qty > 0 AS exit_seen,
  if(entry_seen, -signed_qty * (t.live_entry_mid - t.entry_mid), 0) AS entry_drift,
  if(exit_seen, signed_qty * ((t.live_exit_mid - t.live_exit_decided_mid) - (t.exit_mid - t.exit_decided_mid)), 0) AS exit_drift,
  t.entry_compute_ns / greatest(t.entry_compute_ns + t.entry_network_ns, 1) AS entry_share,
  t.exit_compute_ns / greatest(t.exit_compute_ns + t.exit_network_ns, 1) AS exit_share
SELECT
  t.engine_id AS engine_id,
  t.run_id AS run_id,
  t.position_id AS position_id,
  t.symbol AS symbol,
  t.side AS side,
  t.live_reason AS reason,
  t.reason AS twin_reason,
  t.decision_time AS decision_time,
  t.live_closed_time AS closed_time,
  t.live_qty AS qty,
  t.live_net_usdt AS live_usdt,
  t.net_usdt * ratio AS twin_usdt,
  live_usdt - twin_usdt AS shortfall_usdt,
  if(exit_seen, signed_qty * (t.live_exit_decided_mid - t.exit_decided_mid), 0) AS decision_age_usdt,
  entry_drift * entry_share + exit_drift * exit_share AS compute_usdt,
  entry_drift * (1 - entry_share) + exit_drift * (1 - exit_share) AS network_usdt,
  t.fees_usdt * ratio - t.live_fees_usdt AS fee_usdt,
  t.live_funding_usdt - t.funding_usdt * ratio AS funding_usdt,
  shortfall_usdt - decision_age_usdt - compute_usdt - network_usdt - fee_usdt - funding_usdt AS price_usdt,
  dateDiff('millisecond', t.decision_time, t.decided_time) AS decision_age_ms,
  if(isFinite(t.decided_mid), -signed_qty * (t.decided_mid - t.close), 0) AS decision_age_both_usdt,
  t.entry_compute_ns / 1e3 AS entry_compute_us,
  t.entry_network_ns / 1e6 AS entry_network_ms,
  t.exit_compute_ns / 1e3 AS exit_compute_us,
  t.exit_network_ns / 1e6 AS exit_network_ms
FROM twins AS t FINAL
WHERE t.event = 'final' AND t.live_qty > 0
