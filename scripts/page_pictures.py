"""Make the pictures of the search page in docs/ from the screenshots of its tests.

python -m pytest index/tests/integration/test_browser.py && python scripts/page_pictures.py
"""

from __future__ import annotations

import sys
from pathlib import Path
from typing import Final

from PIL import Image

ROOT: Final = Path(__file__).resolve().parents[1]
PICTURES: Final = {
    "grid": "docs/search-page.webp",
    "correction": "docs/guide/search-page-one.webp",
    "dark": "docs/guide/search-page-dark.webp",
    "changes": "docs/guide/search-page-changes.webp",
}
MOST_BYTES: Final = 200_000


def main() -> int:
    for name, place in PICTURES.items():
        picture = ROOT / place
        with Image.open(ROOT / "build" / "screenshots" / f"{name}.png") as shot:
            shot.convert("RGB").save(picture, "WEBP", quality=82, method=6)
        if (size := picture.stat().st_size) > MOST_BYTES:
            print(f"{place}: {size:,} bytes, and {MOST_BYTES:,} are allowed", file=sys.stderr)  # noqa: T201
            return 1
    return 0


if __name__ == "__main__":
    sys.exit(main())
