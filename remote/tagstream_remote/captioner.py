"""The captioner that a worker asks, of its settings."""

from __future__ import annotations

import logging
from urllib.parse import quote

from tagstream_remote.asking import Asking
from tagstream_remote.budget import Budget, Counter, FileCounter, RedisCounter
from tagstream_remote.caption_file import CaptionFile
from tagstream_remote.client import Endpoint
from workers.assembly.clients import secret
from workers.backends.redis_client import redis_client
from workers.backends.scoped_cache import scope
from workers.ports import RemoteCaptioner
from workers.settings import Settings

logger = logging.getLogger(__name__)


def remote_captioner(settings: Settings) -> RemoteCaptioner:
    """The captioner of TAGSTREAM_CAPTIONER. Raises Misconfigured: TAGSTREAM_CAPTION_FILE is wrong."""
    file, key, model = CaptionFile.of(settings), secret(settings, "caption_key"), settings.caption_model
    endpoint = Endpoint(settings.captioner_address or "", model, key, file)
    counter = counter_of(settings)
    if isinstance(counter, FileCounter):
        said = "TAGSTREAM_CAPTION_TOKENS_PER_DAY counts in %s, each machine alone: set TAGSTREAM_REDIS_URL to share it"
        logger.warning(said, counter.path)
    budget = Budget(settings.caption_tokens_per_day, counter)
    return Asking(endpoint, file, budget, settings.caption_wait_s)


def counter_of(settings: Settings) -> Counter | None:
    """Where tokens are counted: Redis, or this machine's file; None: no limit."""
    if not settings.caption_tokens_per_day:
        return None
    url = settings.redis_url.get_secret_value()
    if url:
        now = secret(settings, "redis_url") if "redis_url" in settings.secret_files else None
        client = redis_client(url, 1.0, now)  # so many seconds at most
        return RedisCounter(client, f"{scope(settings.cache_namespace)}tokens:{settings.group}:")
    return FileCounter(settings.state_dir / "tokens" / quote(settings.group, safe=""))
