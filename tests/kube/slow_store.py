"""Workers of a known rate that take little of a processor: the store is slow, and each asks it for one image at a time.

So many workers on one machine do what they would do on machines of their own.
"""

from __future__ import annotations

from collections.abc import Iterator, Sequence
from contextlib import contextmanager

from tests.support.lying_store import LyingStore, takes
from tests.support.worker_process import Site, photo

PHOTOS = 50


@contextmanager
def slow_store(sites: Sequence[Site], seconds: float) -> Iterator[dict[str, str]]:
    """Settings of workers that do 1 / `seconds` images a second, while the block runs; each site has PHOTOS images."""
    for site in sites:
        for number in range(PHOTOS):
            site.upload(f"{number}.jpg", photo(number))
    port = int(sites[0].stack.s3.endpoint_url.rpartition(":")[2])
    with LyingStore(lambda: port) as store:
        store.lies["*"] = takes(seconds)
        yield {"TAGSTREAM_S3_ENDPOINT": store.url, "TAGSTREAM_FETCH_THREADS": "1", "TAGSTREAM_MAX_BATCH": "2"}
