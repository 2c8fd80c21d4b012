"""Downloads of the published files."""

import hashlib
import time
from collections.abc import Iterator
from pathlib import Path

import pytest
from huggingface_hub import HfFileMetadata

from tests.unit.models.hub import Hub, serving
from workers.errors import Misconfigured, Unavailable
from workers.models.pull import PUBLISHED, HubFile, default_endpoint, fetch, licence_of

BODY = bytes(range(256)) * 400
SHA256 = hashlib.sha256(BODY).hexdigest()
WANTED = HubFile("some/model", "weights.pth", len(BODY), (SHA256,))


@pytest.fixture
def hub() -> Iterator[Hub]:
    with serving(Hub({"some/model/resolve/main/weights.pth": BODY})) as served:
        yield served


@pytest.fixture(autouse=True)
def _small_and_quick(monkeypatch: pytest.MonkeyPatch) -> None:
    """The library writes 10 MB at a time, and rests a second before it tries again."""
    monkeypatch.setattr("huggingface_hub.constants.DOWNLOAD_CHUNK_SIZE", 1000)
    monkeypatch.setattr(time, "sleep", lambda seconds: None)


def gets(hub: Hub) -> list[str]:
    return [wanted for method, wanted in hub.asked if method == "GET"]


def test_a_file_is_fetched_and_checked(hub: Hub, tmp_path: Path) -> None:
    told: dict[str, tuple[int, int]] = {}
    path = fetch(
        WANTED,
        tmp_path / "new",
        endpoint=hub.endpoint,
        progress=lambda doing, done, total: told.__setitem__(doing, (done, total)),
    )
    assert path.read_bytes() == BODY
    assert [each.name for each in path.parent.iterdir()] == ["weights.pth"]
    assert told == {"downloading weights.pth": (len(BODY),) * 2, "checking weights.pth": (len(BODY),) * 2}


def test_a_file_that_is_there_is_not_fetched_again(hub: Hub, tmp_path: Path) -> None:
    fetch(WANTED, tmp_path, endpoint=hub.endpoint)
    hub.asked.clear()
    fetch(WANTED, tmp_path, endpoint=hub.endpoint)
    assert hub.asked == []


def test_the_endpoint_of_the_environment_is_named_in_errors(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setenv("HF_ENDPOINT", "https://mirror")
    assert PUBLISHED["tag2text"].checkpoint.url() == (
        "https://mirror/spaces/xinyu1205/Recognize_Anything-Tag2Text/resolve/main/tag2text_swin_14m.pth"
    )


def test_a_file_of_a_space_is_found_there(tmp_path: Path) -> None:
    space = HubFile("some/space", "weights.pth", len(BODY), (SHA256[:8],), space=True)
    with serving(Hub({"spaces/some/space/resolve/main/weights.pth": BODY})) as hub:
        assert fetch(space, tmp_path, endpoint=hub.endpoint).read_bytes() == BODY


@pytest.mark.parametrize("elsewhere", [False, True])
def test_a_cut_connection_resumes_where_it_was_cut(hub: Hub, tmp_path: Path, elsewhere: bool) -> None:
    """Also where the hub sends us elsewhere for a large file."""
    hub.elsewhere = elsewhere
    hub.cut_after = [70_000, 10_000]
    assert fetch(WANTED, tmp_path, endpoint=hub.endpoint).read_bytes() == BODY
    assert gets(hub) == ["", "bytes=70000-", "bytes=80000-"]


def test_a_later_command_resumes_where_the_last_one_ended(hub: Hub, tmp_path: Path) -> None:
    hub.cut_after = [70_000] + [0] * 6
    with pytest.raises(Unavailable, match=r"70,000 bytes have come; the same command goes on from there"):
        fetch(WANTED, tmp_path, endpoint=hub.endpoint)
    hub.asked.clear()
    hub.cut_after.clear()
    assert fetch(WANTED, tmp_path, endpoint=hub.endpoint).read_bytes() == BODY
    assert gets(hub) == ["bytes=70000-"]


def test_an_address_that_expires_on_the_way_loses_nothing(hub: Hub, tmp_path: Path) -> None:
    hub.elsewhere, hub.expires_after = True, 1
    hub.cut_after = [70_000]
    with pytest.raises(Unavailable, match=r"answers 403\. 70,000 bytes have come; the same command goes on"):
        fetch(WANTED, tmp_path, endpoint=hub.endpoint)
    hub.expires_after = None
    assert fetch(WANTED, tmp_path, endpoint=hub.endpoint).read_bytes() == BODY
    assert gets(hub)[-1] == "bytes=70000-"


@pytest.mark.parametrize(
    ("name", "there"),
    [("weights.pth.part", BODY[:999]), ("weights.pth.part", BODY + b"more"), ("weights.pth", b"damaged")],
    ids=["a server that can't resume", "a part longer than the file", "a finished file that was damaged since"],
)
def test_what_can_not_be_resumed_is_fetched_from_its_beginning(
    hub: Hub, tmp_path: Path, name: str, there: bytes
) -> None:
    (tmp_path / name).write_bytes(there)
    hub.ranges = False
    assert fetch(WANTED, tmp_path, endpoint=hub.endpoint).read_bytes() == BODY


def test_another_file_under_the_name_is_known_before_it_is_fetched(hub: Hub, tmp_path: Path) -> None:
    hub.files["some/model/resolve/main/weights.pth"] = b"another"
    with pytest.raises(Unavailable, match=r"is not the published file .* Nothing was downloaded"):
        fetch(WANTED, tmp_path, endpoint=hub.endpoint)
    assert gets(hub) == []


def test_a_damaged_file_is_thrown_away(hub: Hub, tmp_path: Path) -> None:
    hub.announce = False
    hub.files["some/model/resolve/main/weights.pth"] = BODY[:-1] + b"?"
    with pytest.raises(Unavailable, match=r"is not the published file .* thrown away"):
        fetch(WANTED, tmp_path, endpoint=hub.endpoint)
    assert list(tmp_path.iterdir()) == []


def test_a_part_of_another_version_does_not_stay(hub: Hub, tmp_path: Path) -> None:
    (tmp_path / "weights.pth.part").write_bytes(b"?" * 500)
    with pytest.raises(Unavailable, match="thrown away"):
        fetch(WANTED, tmp_path, endpoint=hub.endpoint)
    assert fetch(WANTED, tmp_path, endpoint=hub.endpoint).read_bytes() == BODY


def test_a_missing_file_is_a_sentence_that_says_how_to_do_it_by_hand(hub: Hub, tmp_path: Path) -> None:
    hub.files.clear()
    with pytest.raises(Unavailable) as caught:
        fetch(WANTED, tmp_path, endpoint=hub.endpoint)
    url = f"{hub.endpoint}/some/model/resolve/main/weights.pth"
    assert f"{url} is not there" in str(caught.value)
    assert f"By hand: fetch {url}" in str(caught.value)
    assert str(caught.value).endswith(f"put it into {tmp_path}.")


def test_a_hub_that_refuses_is_a_sentence(hub: Hub, tmp_path: Path) -> None:
    hub.status = 403
    with pytest.raises(Unavailable, match=r"weights\.pth answers 403"):
        fetch(WANTED, tmp_path, endpoint=hub.endpoint)


def test_a_hub_that_is_away_is_a_sentence(hub: Hub, tmp_path: Path) -> None:
    with serving(Hub()) as gone:
        pass
    with pytest.raises(Unavailable, match=r"(?s)can't be fetched: .*By hand"):
        fetch(WANTED, tmp_path, endpoint=gone.endpoint)


def test_offline_mode_is_respected(hub: Hub, tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr("huggingface_hub.constants.HF_HUB_OFFLINE", True)
    with pytest.raises(Unavailable, match=r"(?s)HF_HUB_OFFLINE forbids .*By hand"):
        fetch(WANTED, tmp_path, endpoint=hub.endpoint)
    assert hub.asked == []


def test_a_folder_that_can_not_be_is_a_sentence(hub: Hub, tmp_path: Path) -> None:
    (tmp_path / "file").touch()
    with pytest.raises(Misconfigured, match=r"can't take weights\.pth"):
        fetch(WANTED, tmp_path / "file" / "below", endpoint=hub.endpoint)


def test_only_the_published_files_licence_is_stated_and_only_if_it_is_known() -> None:
    ram, ram_plus = (PUBLISHED[kind].checkpoint.sha256[0] for kind in ("ram", "ram_plus"))
    assert licence_of("ram", ram) == "MIT, by the model card of xinyu1205/recognize_anything_model"
    assert licence_of("ram", SHA256) is None
    assert licence_of("ram_plus", ram_plus) is None


def test_a_file_at_an_address_of_its_own_is_fetched_from_there(tmp_path: Path) -> None:
    with serving(Hub({"elsewhere/list.txt": BODY})) as hub:
        there = HubFile("a/b", "list.txt", len(BODY), (SHA256,), address=f"{hub.endpoint}/elsewhere/list.txt")
        hub.files["list.txt"] = BODY
        hub.cut_after = [70_000]
        assert fetch(there, tmp_path, endpoint="http://127.0.0.1:1").read_bytes() == BODY
        assert gets(hub) == ["", "bytes=70000-"]


def test_a_file_that_is_far_too_large_is_cut_short(tmp_path: Path) -> None:
    hub = Hub({"some/model/resolve/main/weights.pth": BODY * 40}, announce=False)
    with serving(hub), pytest.raises(Unavailable, match="far more than the 102,400"):
        fetch(WANTED, tmp_path, endpoint=hub.endpoint)
    assert sum(path.stat().st_size for path in tmp_path.iterdir()) < 1_200_000


def test_a_hub_over_tls_is_not_left_for_a_plain_address(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    facts = HfFileMetadata("c" * 40, SHA256, "http://cdn.example.org/weights.pth", len(BODY), None)
    monkeypatch.setattr("huggingface_hub.get_hf_file_metadata", lambda url: facts)
    with pytest.raises(Unavailable, match="without TLS"):
        fetch(WANTED, tmp_path, endpoint="https://127.0.0.1:1")


def test_a_signed_address_is_not_shown(hub: Hub, tmp_path: Path, capfd: pytest.CaptureFixture[str]) -> None:
    hub.elsewhere, hub.cut_after = True, [70_000] + [0] * 6
    with pytest.raises(Unavailable) as caught:
        fetch(WANTED, tmp_path, endpoint=hub.endpoint)
    assert "elsewhere" not in str(caught.value) + "".join(capfd.readouterr())


@pytest.mark.parametrize("url", ["https://mirror/?token=hush", "https://me:hush@mirror", "https://mirror#hush"])
def test_a_hub_address_with_a_token_is_refused_and_not_shown(url: str, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setenv("HF_ENDPOINT", url)
    with pytest.raises(Misconfigured) as caught:
        default_endpoint()
    assert "hush" not in str(caught.value)
