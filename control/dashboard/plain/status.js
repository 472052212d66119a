"use strict";
const say = document.getElementById("say");
const form = document.getElementById("login");
const body = document.querySelector("#status tbody");

const ROWS = [
  ["Trading", (s) => (s.trading ? "yes" : "no")],
  ["Mode", (s) => s.mode],
  ["State", (s) => (s.engine ? (s.engine.alive ? s.engine.state : `${s.engine.state} (engine not answering)`) : "no engine")],
  ["Equity, USDT", (s) => s.engine?.equity_usdt?.toFixed(2)],
  ["Today, USDT", (s) => s.engine?.day_pnl_usdt?.toFixed(2)],
  ["Open positions", (s) => s.engine?.open_positions],
  ["Model", (s) => s.engine?.model_id || "none"],
  ["Symbols ready", (s) => s.engine && `${s.engine.symbols_ready} of ${s.engine.symbols}`],
  ["Signals / trades", (s) => s.engine && `${s.engine.counters.signals} / ${s.engine.counters.trades}`],
  ["Store", (s) => (s.store.ok ? `ok (${s.store.kind})` : s.store.detail)],
];

async function refresh() {
  try {
    const answer = await fetch("/api/status");
    form.hidden = answer.status !== 401;
    if (answer.status === 401) { say.textContent = "Log in with a token (`ta tokens create`)."; return; }
    if (!answer.ok) throw new Error(`HTTP ${answer.status}`);
    const status = await answer.json();
    say.textContent = status.warnings.join("; ") || "All parts work.";
    body.replaceChildren(...ROWS.map(([name, value]) => {
      const row = document.createElement("tr");
      const head = document.createElement("th");
      head.scope = "row";
      head.textContent = name;
      const cell = document.createElement("td");
      cell.textContent = value(status) ?? "–";
      row.append(head, cell);
      return row;
    }));
  } catch (error) {
    say.textContent = `No answer from the control process (${error.message}).`;
  }
}

form.addEventListener("submit", async (event) => {
  event.preventDefault();
  const token = document.getElementById("token").value;
  const answer = await fetch("/api/session", {
    method: "POST", headers: { "content-type": "application/json" }, body: JSON.stringify({ token }),
  });
  if (!answer.ok) { say.textContent = (await answer.json()).detail; return; }
  refresh();
});

refresh();
setInterval(refresh, 2000);
