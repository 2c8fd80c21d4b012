"""Requests that are drawn from the OpenAPI document, valid and invalid, and their answers by that document."""

from collections.abc import Iterator
from contextlib import closing
from typing import Any

import pytest
import schemathesis
from hypothesis import HealthCheck, given, settings
from schemathesis.specs.openapi.checks import positive_data_acceptance

from index.tests.integration.test_api import ODD, TOKEN, Sent
from index.tests.support import enriched, photo, retraction, vector_of, written
from tagstream_index.database import Connection
from tagstream_index.page.access import Access
from tagstream_index.page.one import Bundles
from tagstream_index.page.pictures import Pictures
from tagstream_index.page.pool import Pool
from tagstream_index.page.server import Site
from tagstream_index.settings import IndexSettings

pytestmark = [pytest.mark.servers, pytest.mark.slow]


@pytest.fixture
def api(settings: IndexSettings, tables: Connection, monkeypatch: pytest.MonkeyPatch) -> Iterator[Any]:
    written(tables, enriched(ODD, vector=vector_of(1)), *(photo(f"{n}.jpg", "dog", day=n) for n in range(1, 9)))
    written(tables, enriched("gone.jpg"), retraction("gone.jpg", 2))
    monkeypatch.setattr(Pictures, "make", lambda *_: b"\xff\xd8")
    access = Access(TOKEN, to_read=False)
    with closing(Site(Pool(settings), Pictures(settings, 1_000_000), Bundles(settings, None), access, Sent())) as site:
        config = schemathesis.Config.from_dict({"checks": {"negative_data_rejection": {"expected-statuses": ["4xx"]}}})
        yield schemathesis.openapi.from_asgi("/api/openapi.json", site.application(), config=config)


def test_drawn_requests_are_answered_as_the_document_says(api: Any) -> None:
    left_out = [positive_data_acceptance]  # a cursor is of one search
    for each in api.get_all_operations():
        for mode in schemathesis.GenerationMode:

            @settings(max_examples=20, deadline=None, suppress_health_check=list(HealthCheck), database=None)
            @given(case=each.ok().as_strategy(generation_mode=mode))
            def asks(case: Any) -> None:
                case.call_and_validate(excluded_checks=left_out)

            asks()
