"""The first page: what would be lost now, and what needs a person."""

from __future__ import annotations

from starlette.responses import Response

from icecore.console.visit import Visit

SENTENCES_AT_MOST = 3


def page(visit: Visit) -> Response:
    overview = visit.doors.read("DescribeOverview")
    running = visit.doors.read("DescribeJobs", job_state="running")["items"]["job"]
    repository = visit.doors.read("DescribeRepository")
    sentences = overview["sentences"]
    return visit.page(
        "overview.html",
        title="Overview",
        clusters=overview["items"]["cluster"],
        sentences=sentences[:SENTENCES_AT_MOST],
        more_sentences=len(sentences) - SENTENCES_AT_MOST,
        running=running,
        repository=repository,
    )
