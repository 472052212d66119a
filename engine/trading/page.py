"""The drawing of an order's life in docs/trading.md, made from the table that the engine runs on."""

from __future__ import annotations

from engine.trading.orders import TERMINAL, TRANSITIONS
from kernels.records import OrderState

BEGIN, END = "<!-- drawing: begin -->", "<!-- drawing: end -->"


def drawing() -> str:
    """Return the state diagram (Mermaid) of TRANSITIONS: one line per pair of states, with every event between them."""
    edges: dict[tuple[OrderState, OrderState], list[str]] = {}
    for (state, event), following in TRANSITIONS.items():
        edges.setdefault((state, following), []).append(event.name.lower())
    lines = ["```mermaid", "stateDiagram-v2", f"  [*] --> {OrderState.INTENT.name.lower()}"]
    lines += [
        f"  {state.name.lower()} --> {following.name.lower()}: {', '.join(events)}"
        for (state, following), events in edges.items()
    ]
    lines += [f"  {state.name.lower()} --> [*]" for state in sorted(TERMINAL)]
    return "\n".join([*lines, "```"])


def renew(text: str) -> str:
    """Return a page's text with the drawing between its marks renewed."""
    head, rest = text.split(BEGIN)
    return f"{head}{BEGIN}\n{drawing()}\n{END}{rest.split(END)[1]}"
