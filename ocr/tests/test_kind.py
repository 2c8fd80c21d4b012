"""The light part of OCR."""

import json
import subprocess
import sys
from importlib.metadata import entry_points

import pytest
from jinja2 import Environment
from pydantic import ValidationError

from tagstream_ocr import MAX_LINES, WrittenText
from tagstream_ocr.kind import OcrKind

LINE = {"text": "open", "score": 0.9, "corners": [[0, 1], [40, 1], [40, 12], [0, 12]]}


def test_the_entry_point_names_the_kind() -> None:
    (point,) = entry_points(group="tagstream.roles", name="ocr")
    assert point.load() is OcrKind
    assert OcrKind.name == point.name


@pytest.mark.slow
def test_the_kind_imports_no_torch_and_no_pillow() -> None:
    code = "import sys, tagstream_ocr.kind; print({'torch', 'PIL', 'workers'} & sys.modules.keys())"
    done = subprocess.run([sys.executable, "-c", code], capture_output=True, text=True, check=True)
    assert done.stdout == "set()\n"


def test_a_result_comes_back_from_its_json() -> None:
    given = {"text": "open", "lines": [LINE], "truncated": False}
    assert WrittenText.model_validate_json(json.dumps(given)).model_dump(mode="json") == given


@pytest.mark.parametrize(
    "changed",
    [
        {"lines": [LINE] * (MAX_LINES + 1)},
        {"text": "a" * 20_001},
        {"lines": [{**LINE, "score": 1.1}]},
        {"lines": [{**LINE, "score": float("nan")}]},
        {"lines": [{**LINE, "corners": LINE["corners"][:3]}]},  # type: ignore[index]
        {"lines": [{**LINE, "corners": [[-1, 0], *LINE["corners"][1:]]}]},  # type: ignore[index]
    ],
)
def test_a_result_beyond_its_bounds_is_refused(changed: dict[str, object]) -> None:
    with pytest.raises(ValidationError):
        WrittenText.model_validate({"text": "open", "lines": [LINE], **changed})


def test_an_image_without_text_has_no_row() -> None:
    kind = OcrKind()
    assert kind.rows({"text": "", "lines": []}) == ()
    assert kind.rows({"text": "open", "lines": []}) == (("text", "open"),)


def test_each_line_is_drawn_by_its_corners() -> None:
    template = Environment(autoescape=True).from_string(OcrKind.template)
    hostile = {**LINE, "corners": [["<a>", '"'], [1, 2], [3, 4], [5, 6]]}
    drawn = template.render(result={"lines": [LINE, hostile]})
    assert drawn.startswith('<polygon points="0,1 40,1 40,12 0,12 "/>')
    assert drawn.count("<") == drawn.count('="') == 2
