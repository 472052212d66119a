"""What the snapshot shows of the connections, and when each was last heard."""

from __future__ import annotations

import numpy as np

from engine.connections import Connections, Line
from engine.link import CONNECTION, CONNECTIONS

S = 1_000_000_000


def test_a_connection_was_heard_when_its_count_was_seen_changed() -> None:
    now_ns, lines = (
        [5 * S],
        [Line("link 0", "market", "live", 7, 1, 2, streams=12), Line("lane 0", "ws_api", "down", 0, 0, 0)],
    )
    rows = np.zeros(CONNECTIONS, CONNECTION)
    seen = Connections(lambda: lines, lambda: now_ns[0])
    seen.write(rows)
    assert rows[0].tolist() == (b"link 0", b"market", b"live", 12, 0, 7, 1, 2, 5 * S)
    assert rows[1].tolist() == (b"lane 0", b"ws_api", b"down", 0, 0, 0, 0, 0, 0), "never heard"
    now_ns[0] = 9 * S
    seen.write(rows)
    assert rows[0]["heard_ns"] == 5 * S, "silent since"
    lines[0] = lines[0]._replace(frames=8)
    now_ns[0] = 10 * S
    seen.write(rows)
    assert rows[0]["heard_ns"] == 10 * S


def test_what_is_gone_is_not_shown_and_too_many_do_no_harm() -> None:
    lines = [Line(f"link {number}", "public", "live", 1, 0, 0) for number in range(CONNECTIONS + 5)]
    rows = np.zeros(CONNECTIONS, CONNECTION)
    seen = Connections(lambda: lines)
    seen.write(rows)
    assert rows["name"][-1] == f"link {CONNECTIONS - 1}".encode()
    del lines[1:]
    seen.write(rows)
    assert rows["name"].tolist() == [b"link 0", *[b""] * (CONNECTIONS - 1)]
