"""Downloads the published model files, resumed after a cut, checked by sha256.

A partial download stays in `<name>.part`, where this command or the next one continues; so not `hf_hub_download`, which
deletes it. A file gets its own name only if its sha256 is the published one.
"""

from __future__ import annotations

import hashlib
import logging
import os
import re
from collections.abc import Callable, Iterator, Mapping
from contextlib import contextmanager
from dataclasses import dataclass, replace
from functools import partial
from pathlib import Path
from typing import Any

from workers.errors import Misconfigured, Unavailable
from workers.models.bundle import cache_folder
from workers.models.files import content_of, sha256_of
from workers.models.ram.config import Kind

Progress = Callable[[str, int, int], None]
"""Told what is being done, how much of it is done, and how much there is."""

HUB = "https://huggingface.co"
MAX_GIT_BYTES = 64 * 1024**2
"""Of a file that the hub keeps in git itself."""
_GIT_DIGITS = 40
"""Of git's name for a content, a SHA-1."""
LISTS = (
    "https://raw.githubusercontent.com/xinyu1205/recognize-anything/7cb804a8609e9f4b1a50b7f31436d2df40bb9481/ram/data"
)
"""The lists are not on the hub, but in the official program's repository; here at one commit, so that they stay."""


@dataclass(frozen=True, slots=True)
class HubFile:
    """A file on the hub, or at an address of its own.

    Args:
        repo: owner/name.
        size: bytes, or about as many, for people; with an address, exactly.
        sha256: those of its known versions, hex; where only the beginning is known, that; empty: what the hub states
            for the revision.
        space: it lies in a space rather than in a model repository.
        address: the whole URL of a file that is not on the hub.
        revision: the commit, or a branch.
    """

    repo: str
    name: str
    size: int
    sha256: tuple[str, ...]
    space: bool = False
    address: str | None = None
    revision: str = "main"

    def is_this(self, digest: str) -> bool:
        """Whether a file with this sha256 is a known version of it."""
        return digest.startswith(self.sha256)

    @property
    def page(self) -> str:
        """The address of the model's page."""
        return f"{HUB}/{'spaces/' if self.space else ''}{self.repo}"

    def url(self, endpoint: str | None = None) -> str:
        """The file's address."""
        if self.address is not None:
            return self.address
        prefix = "spaces/" if self.space else ""
        return f"{endpoint or default_endpoint()}/{prefix}{self.repo}/resolve/{self.revision}/{self.name}"


@dataclass(frozen=True, slots=True)
class PublishedModel:
    """A published model's files.

    Args:
        thresholds: one for each tag; None: they are part of the program.
        licence: of the weights, as their page says; None: nothing is known of it here.
    """

    checkpoint: HubFile
    tags: HubFile
    thresholds: HubFile | None = None
    chinese: HubFile | None = None
    licence: str | None = None


def _list(name: str, size: int, sha256: str) -> HubFile:
    return HubFile("xinyu1205/recognize-anything", name, size, (sha256,), address=f"{LISTS}/{name}")


_RAM_TAGS = _list("ram_tag_list.txt", 41_904, "5d96d2f7225527480ad773aaac76b6e5c08a18adf6eae9ca7d2ab923d5e7bd8b")
_RAM_THRESHOLDS = _list(
    "ram_tag_list_threshold.txt", 22_016, "b6f81d0de1bc7f9c251af512c413eae976c77dbfbadf700d4e3d90510f4c6447"
)
_RAM_CHINESE = _list(
    "ram_tag_list_chinese.txt", 44_181, "c912657a0f30be7b2f5df6ccffa17e1d84561d0bea508528e38b6d0d711bcfbe"
)
_TAG2TEXT_TAGS = _list(
    "tag2text_ori_tag_list.txt", 29_062, "7d05c7cb88ed46a2aee1434776964f6bdbda0c0f4233c8633e109084382d3a45"
)

VOCABULARY = HubFile(
    "google-bert/bert-base-uncased",
    "vocab.txt",
    231_508,
    ("07eced375cec144d27c900241f3e339478dec958f92fddbc551f295c992038a3",),
)
"""Tag2Text's tokens."""

PUBLISHED: Mapping[Kind, PublishedModel] = {
    "ram": PublishedModel(
        HubFile(
            "xinyu1205/recognize_anything_model",
            "ram_swin_large_14m.pth",
            5_625_634_877,
            ("15c729c793af28b9d107c69f85836a1356d76ea830d4714699fb62e55fcc08ed",),
        ),
        _RAM_TAGS,
        _RAM_THRESHOLDS,
        _RAM_CHINESE,
        licence="MIT, by the model card of xinyu1205/recognize_anything_model",
    ),
    "ram_plus": PublishedModel(
        HubFile(
            "xinyu1205/recognize-anything-plus-model",
            "ram_plus_swin_large_14m.pth",
            3_010_210_801,
            ("497c178836ba66698ca226c7895317e6e800034be986452dbd2593298d50e87d",),
        ),
        _RAM_TAGS,
        _RAM_THRESHOLDS,
        _RAM_CHINESE,
    ),
    "tag2text": PublishedModel(
        HubFile(
            "xinyu1205/Recognize_Anything-Tag2Text",
            "tag2text_swin_14m.pth",
            4_480_000_000,
            ("9ac35ee5", "4ce96f0c"),  # two uploads with the same weights are about
            space=True,
        ),
        _TAG2TEXT_TAGS,
    ),
}


def licence_of(kind: Kind, sha256: str) -> str | None:
    """The licence of a published checkpoint with this sha256, or None."""
    published = PUBLISHED[kind]
    return published.licence if published.checkpoint.is_this(sha256) else None


def default_endpoint() -> str:
    """The hub that HF_ENDPOINT names, or the public one.

    Raises Misconfigured: it holds more than a hub's address, such as a token that a message would show.
    """
    named = os.environ.get("HF_ENDPOINT") or HUB
    if re.search("[?#@]", named):
        raise Misconfigured("HF_ENDPOINT must be the hub's bare URL, without user, query and fragment.")
    return named.rstrip("/")


def download_folder() -> Path:
    """Where downloads are kept by default."""
    return cache_folder() / "downloads"


def fetch(
    wanted: HubFile, folder: Path, *, endpoint: str | None = None, progress: Progress = lambda doing, done, total: None
) -> Path:
    """Download the file into this folder, unless it is there already.

    Raises:
        Unavailable: the hub does not answer, lacks the file, or has another one under its name.
        Misconfigured: the folder can't be written.
    """
    target = folder / wanted.name
    part = folder / f"{wanted.name}.part"
    checking = partial(progress, f"checking {wanted.name}")
    try:
        folder.mkdir(parents=True, exist_ok=True)
        if not wanted.sha256:
            with _faults_as_sentences(wanted, part, endpoint):
                etag = _metadata(wanted, endpoint).etag or ""  # of a large file its sha256, of a small one git's name
                if not re.fullmatch(r"[0-9a-f]{64}|[0-9a-f]{40}", etag):
                    url = wanted.url(endpoint)
                    raise Unavailable("hub", f"{url} has no known sha256, and the hub states none for it.")
                wanted = replace(wanted, sha256=(etag,))
        if target.is_file():
            if wanted.is_this(_digest(wanted, target, checking)):
                return target
            target.unlink()
        with _faults_as_sentences(wanted, part, endpoint):
            _download(wanted, part, endpoint, progress)
        digest = _digest(wanted, part, checking)
        if not wanted.is_this(digest):
            part.unlink()
            raise Unavailable("hub", _another(wanted, digest, f"what came for {wanted.name} is", "It was thrown away."))
        os.replace(part, target)
    except OSError as error:
        raise Misconfigured(f"{folder} can't take {wanted.name}: {error.strerror or error}.") from error
    return target


def _digest(wanted: HubFile, path: Path, progress: Callable[[int, int], None]) -> str:
    """The sha256 of a file, or git's name if that is known."""
    if [len(each) for each in wanted.sha256] != [_GIT_DIGITS]:
        return sha256_of(path, progress)
    content = content_of(path, MAX_GIT_BYTES)
    return hashlib.sha1(b"blob %d\0" % len(content) + content, usedforsecurity=False).hexdigest()


def _download(wanted: HubFile, part: Path, endpoint: str | None, progress: Progress) -> None:
    from huggingface_hub.file_download import http_get

    logging.getLogger("huggingface_hub").setLevel(logging.ERROR)  # its warnings show signed addresses
    location, size = _locate(wanted, endpoint)
    if part.exists() and part.stat().st_size > (size or wanted.size):
        part.unlink()
    with part.open("ab") as file:
        http_get(
            location,
            file,
            resume_size=file.tell(),
            expected_size=size,
            displayed_filename=wanted.name,
            tqdm_class=_bar(wanted, file.tell(), size or wanted.size, progress),
        )


def _locate(wanted: HubFile, endpoint: str | None) -> tuple[str, int | None]:
    """The address of the bytes, and their number if known."""
    if wanted.address is not None:
        return wanted.address, wanted.size
    hub = endpoint or default_endpoint()
    facts = _metadata(wanted, endpoint)
    if hub.startswith("https:") and not facts.location.startswith("https:"):
        raise Unavailable("hub", f"{wanted.url(hub)} redirects to an address without TLS. Nothing was downloaded.")
    etag = facts.etag or ""  # of a large file its sha256
    if re.fullmatch(r"[0-9a-f]{64}", etag) and not wanted.is_this(etag):
        raise Unavailable("hub", _another(wanted, etag, f"{wanted.url(hub)} is", "Nothing was downloaded."))
    return facts.location, facts.size


def _metadata(wanted: HubFile, endpoint: str | None) -> Any:
    from huggingface_hub import get_hf_file_metadata, hf_hub_url

    hub, kind = endpoint or default_endpoint(), "space" if wanted.space else None
    address = hf_hub_url(wanted.repo, wanted.name, repo_type=kind, revision=wanted.revision, endpoint=hub)
    return get_hf_file_metadata(address)


def _bar(wanted: HubFile, done: int, total: int, progress: Progress) -> Any:
    """A progress bar that also ends a download far too large."""
    from huggingface_hub.utils.tqdm import silent_tqdm

    most = wanted.size + max(wanted.size // 4, 1_000_000)

    class Bar(silent_tqdm):
        def update(self, n: float | None = 1) -> None:
            nonlocal done
            done += int(n or 0)
            if done > most:
                raise Unavailable("hub", f"{wanted.name} has far more than the {wanted.size:,} bytes published.")
            progress(f"downloading {wanted.name}", done, total)

    return Bar


def _another(wanted: HubFile, digest: str, subject: str, outcome: str) -> str:
    known = " or ".join(f"{each[:12]}…" for each in wanted.sha256)
    return f"{subject} not the published file (sha256 {digest[:12]}… instead of {known}). {outcome}"


@contextmanager
def _faults_as_sentences(wanted: HubFile, part: Path, endpoint: str | None) -> Iterator[None]:
    """Turn the library's exceptions into sentences with a remedy."""
    import httpx2
    from huggingface_hub.errors import HfHubHTTPError, OfflineModeIsEnabled

    url = wanted.url(endpoint)
    try:
        yield
    except HfHubHTTPError as error:
        status = error.response.status_code
        says = f"{url} is not there" if status == httpx2.codes.NOT_FOUND else f"{url} answers {status}"
        raise Unavailable("hub", _go_on(wanted, part, says, url)) from error
    except OfflineModeIsEnabled as error:
        raise Unavailable("hub", _go_on(wanted, part, "HF_HUB_OFFLINE forbids downloads", url)) from error
    except (httpx2.HTTPError, httpx2.InvalidURL, OSError, ValueError) as error:
        if isinstance(error, OSError) and error.errno is not None and not isinstance(error, ConnectionError):
            raise  # the disk's, not the hub's
        reason = str(error).splitlines()[0][:200] if str(error) else type(error).__name__
        raise Unavailable("hub", _go_on(wanted, part, f"{url} can't be fetched: {reason}", url)) from error


def _go_on(wanted: HubFile, part: Path, says: str, url: str) -> str:
    """The fault, the kept bytes, and how to fetch by hand."""
    kept = part.stat().st_size if part.exists() else 0
    goes_on = f" {kept:,} bytes have come; the same command goes on from there." if kept else ""
    size = f"{wanted.size / 1e6:,.0f} MB" if wanted.size > 1e6 else f"{wanted.size / 1e3:,.0f} kB"
    return f"{says}.{goes_on}\nBy hand: fetch {url} ({size}) on a machine that can, and put it into {part.parent}."
