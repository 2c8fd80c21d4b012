"""The quick benchmarks, or those named: `python -m benchmarks [NAME …]`, or `NAME ARGUMENT …` for one with arguments.

Each figure is a ratio taken in one run.
"""

from __future__ import annotations

import sys
from importlib import import_module

QUICK = ("line",)
NAMES = (
    *QUICK,
    "alignment",
    "alike",
    "audit",
    "cached",
    "cached_parts",
    "copies",
    "decode",
    "dual",
    "embedding",
    "facts",
    "fit",
    "gpu",
    "index",
    "index_proof",
    "models",
    "ocr_pages",
    "parse",
    "photos",
    "processes",
    "remote_captions",
    "renditions",
    "retag",
    "retag_go",
    "scaling",
    "search_page",
    "start",
    "turns",
)

WITH_ARGUMENTS = ("alignment", "alike", "dual", "facts", "fit", "gpu", "ocr_pages", "renditions")


def main() -> int:
    names = sys.argv[1:] or QUICK
    if names[0] in WITH_ARGUMENTS:
        code: int = import_module(f"benchmarks.{names[0]}").main(names[1:])
        return code
    unknown = [name for name in names if name not in NAMES]
    if unknown:
        print(f"no benchmark {', '.join(unknown)}; there are: {', '.join(NAMES)}", file=sys.stderr)  # noqa: T201
        return 2
    for name in names:
        import_module(f"benchmarks.{name}").main()
    return 0


if __name__ == "__main__":
    sys.exit(main())
