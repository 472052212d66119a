"""May this candidate replace the production model? Paired, on rows that neither has seen, net of costs."""

from __future__ import annotations

from dataclasses import asdict, dataclass
from typing import Any, Protocol

import numpy as np
import numpy.typing as npt

from engine.model.dataset import Dataset
from engine.model.policy import DAY_MS, PolicySettings, bootstrap, daily, trade

Array = npt.NDArray[Any]

EMBARGO_MS = DAY_MS
MIN_DAYS = 14
MIN_TRADES = 200
QUANTILE = 0.05


class Predicts(Protocol):
    """A served model."""

    def predict(self, rows: Array) -> Array: ...


@dataclass(frozen=True, slots=True)
class Verdict:
    """What the gate found; `verdict` is 'pass', 'not better' or 'insufficient evidence'."""

    verdict: str
    detail: str
    from_ms: int
    to_ms: int
    days: int
    trades: int
    net: float
    net_production: float
    difference_q05: float

    def evidence(self) -> dict[str, Any]:
        """Return the figures for the registry's event."""
        return asdict(self)


def unseen_from(manifests: list[dict[str, Any]]) -> int:
    """Return the first decision time that is later than every model's last training or stop label + 24 h."""
    return max(int(manifest["labels_to_ms"]) for manifest in manifests) + EMBARGO_MS


def judge(
    data: Dataset | None, candidate: Predicts, production: Predicts | None, settings: PolicySettings, seed: int = 7
) -> Verdict:
    """Compare two models on rows in time order later than `unseen_from` of both (None: there are none).

    Without a production model the comparison is with not trading. Passes if the 5 % quantile of the paired day-block
    bootstrap of the net difference is above 0 and the candidate's net is too, on at least 14 days and 200 trades of the
    candidate.
    """
    if data is None:
        detail = "no labelled row is later than both models' training"
        return Verdict("insufficient evidence", detail, 0, 0, 0, 0, 0.0, 0.0, 0.0)
    days = np.unique(data.time_ms // DAY_MS)
    mine = trade(data, candidate.predict(np.asarray(data.x)), settings)
    per_day = daily(mine, days)
    other = np.zeros(len(days))
    if production is not None:
        other = daily(trade(data, production.predict(np.asarray(data.x)), settings), days)
    low = float(np.quantile(bootstrap(per_day - other, seed), QUANTILE))
    net, net_other = float(per_day.sum()), float(other.sum())
    verdict, detail = "pass", f"net {net:+.4f} against {net_other:+.4f} of equity"
    if len(days) < MIN_DAYS or len(mine.row) < MIN_TRADES:
        verdict = "insufficient evidence"
        detail = (
            f"{len(days)} days and {len(mine.row)} trades unseen by both models; needed {MIN_DAYS} and {MIN_TRADES}"
        )
    elif low <= 0 or net <= 0:
        verdict = "not better"
        detail += f"; the 5 % quantile of the difference is {low:+.4f}, needed above 0 with a net above 0"
    return Verdict(
        verdict,
        detail,
        int(data.time_ms[0]),
        int(data.time_ms[-1]),
        len(days),
        len(mine.row),
        net,
        net_other,
        low,
    )
