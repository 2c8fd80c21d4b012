"""The file of changes: written by retag and compare, read by the search page."""

from contextlib import nullcontext
from pathlib import Path

import orjson
import pytest

from workers.errors import Misconfigured
from workers.retag.changes import Changed, ChangesHead, ChangesWriter, LabelNumbers, read_changes


def written(path: Path, *changed: Changed) -> Path:
    with ChangesWriter() as writer:
        for each in changed:
            writer.take(each)
        writer.write(path, before="a", after="b", images=9, unknown=2)
    return path


def some(path: Path) -> Path:
    return written(
        path,
        Changed.between("photos/same.jpg", ["dog"], ["dog"]),
        Changed.between("photos/caption.jpg", ["dog"], ["dog"], captions=("a dog", None)),
        Changed.between("photos/one.jpg", ["dog", "cat"], ["cat"]),
        Changed.between("photos/three.jpg", ["dog", "cat"], ["bus", "cat", "tree"]),
    )


def test_what_changes_comes_back_the_most_changed_first(tmp_path: Path) -> None:
    head, lines = read_changes(some(tmp_path / "changes"))
    changed = list(lines)
    assert (head.before, head.after, head.images, head.unknown, head.lines) == ("a", "b", 9, 2, 3)
    assert [each.subject for each in changed] == ["photos/three.jpg", "photos/one.jpg", "photos/caption.jpg"]
    assert (changed[0].kept, changed[0].lost, changed[0].gained) == (["cat"], ["dog"], ["bus", "tree"])
    assert (changed[1].captions, changed[2].captions) == (None, ("a dog", None))


@pytest.mark.parametrize(
    "content", [b"", b"{}\n", b"\0\xff", b"[" * 3_000_000, b'{"schema":"tagstream-plan/1","made_at":"now"}\n']
)
def test_another_file_is_refused(tmp_path: Path, content: bytes) -> None:
    (path := tmp_path / "other").write_bytes(content)
    with pytest.raises(Misconfigured, match=f"{path} is no file of changes.*--changes"):
        read_changes(path)
    with pytest.raises(Misconfigured, match="can't be read"):
        read_changes(tmp_path)


def test_damage_is_named_with_its_line(tmp_path: Path) -> None:
    lines = some(tmp_path / "changes").read_bytes().splitlines(keepends=True)
    path = tmp_path / "damaged"
    for content, says in (
        (lines[:-1], "3 images change, and it has 2"),
        ([*lines, lines[-1]], "3 images change, and it has 4"),
        ([*lines[:2], b"{}\n", *lines[3:]], "line 3"),
        ([*lines[:2], lines[2][:-5] + b"\n", *lines[3:]], "line 3"),
        ([*lines[:2], b"[" * 3_000_000, *lines[3:]], "line 3"),
    ):
        path.write_bytes(b"".join(content))
        with pytest.raises(Misconfigured, match=says):
            list(read_changes(path)[1])


def test_the_head_names_the_kind_of_the_file(tmp_path: Path) -> None:
    first = some(tmp_path / "changes").read_text().splitlines()[0]
    assert first.startswith('{"schema":"tagstream-changes/1"')
    assert ChangesHead.model_validate_json(first).made_at.endswith("Z")


def test_files_without_numbers_are_read_and_wrong_ones_are_damage(tmp_path: Path) -> None:
    head, line, *_ = some(tmp_path / "changes").read_bytes().splitlines()
    old = orjson.loads(line)
    del old["numbers"]
    for numbers, read in (
        (None, True),
        ({"dog": [0.5, None, None, 0.4]}, True),
        ({"dog": [0.5, 1.5, None, None]}, False),
        ({str(n): [None] * 4 for n in range(61)}, False),
    ):
        written = old if numbers is None else {**old, "numbers": numbers}
        shorter = {**orjson.loads(head), "lines": 1}
        del shorter["plan"]
        (path := tmp_path / "old").write_bytes(b"\n".join(map(orjson.dumps, (shorter, written))))
        with nullcontext() if read else pytest.raises(Misconfigured, match="line 2"):
            (changed,) = read_changes(path)[1]
            assert changed.numbers.get("dog") == (numbers and tuple(numbers["dog"]))
            assert changed.sha256 is None
    path.write_bytes(path.read_bytes().replace(b"null", b"NaN"))
    with pytest.raises(Misconfigured, match="line 2"):
        list(read_changes(path)[1])


def test_only_the_first_labels_of_each_list_have_numbers() -> None:
    before, after = [f"a{n}" for n in range(50)], [f"b{n}" for n in range(50)]
    changed = Changed.between("photos/a.jpg", before, after, lambda _: LabelNumbers(0.5))
    assert [*changed.numbers] == [*before[:20], *after[:20]]


def test_a_head_has_the_name_of_its_plan_or_one_of_its_own(tmp_path: Path) -> None:
    head, _ = read_changes(some(tmp_path / "changes"))
    assert len(head.name) == 64
    assert head.model_copy(update={"made_at": "2026-01-01T00:00:00Z"}).name != head.name
    assert head.model_copy(update={"plan": "a" * 64}).name == "a" * 64
