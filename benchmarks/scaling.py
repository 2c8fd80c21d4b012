"""`python -m benchmarks scaling`: see `photos`."""

from __future__ import annotations

from benchmarks.photos import scaling as main

if __name__ == "__main__":
    main()
