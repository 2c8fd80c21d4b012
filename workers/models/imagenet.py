"""ImageNet's thousand labels under names that a person would use."""

from __future__ import annotations

from pathlib import Path


def label_names() -> list[str]:
    """A thousand names by label id, no two alike.

    `imagenet_labels.txt` has one a line: the first of the label's WordNet words ("hog" of "hog, pig, grunter,
    squealer"), or another where that one reads badly or two labels have it ("crane (bird)", "crane (machine)").
    """
    return Path(__file__).with_name("imagenet_labels.txt").read_text(encoding="utf-8").splitlines()
