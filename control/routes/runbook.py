"""What to do about an alarm: its page of the run-book, for an operator who has no shell on the machine."""

from __future__ import annotations

import asyncio
from typing import Annotated

import msgspec
from litestar import get
from litestar.params import Parameter

from control import runbook
from control.problems import ApiError, documented


class RunbookPage(msgspec.Struct):
    """The page of one alarm, in Markdown: what it means, where to look, what to do, when it ends."""

    name: str
    path: str
    text: str


@get(
    "/api/runbook/{name:str}",
    tags=["status"],
    summary="What to do about an alarm",
    responses=documented(400, 401, 404, 429),
)
async def runbook_page(
    name: Annotated[str, Parameter(pattern=r"^[a-z_]{1,32}$", description="the alarm's name")],
) -> RunbookPage:
    """Return an alarm's page of the run-book."""
    found = await asyncio.to_thread(runbook.text, name)
    if found is None:
        raise ApiError(404, "no-such-page", f"the run-book has no page {name}")
    return RunbookPage(name, f"docs/ops/runbook/{name}.md", found)


HANDLERS = [runbook_page]
