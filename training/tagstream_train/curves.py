"""Pictures of a measurement."""

from __future__ import annotations

from pathlib import Path

import numpy as np

from tagstream_train.evaluate import Tagged


def draw_thresholds(tagged: Tagged, path: Path) -> None:
    """Draw precision, recall and F1 by threshold into a PNG."""
    from matplotlib.figure import Figure

    bars = np.linspace(0, 1, 101)
    means = [tagged.table(float(bar)).mean() for bar in bars]
    figure = Figure(figsize=(7, 4.5), layout="constrained")
    axes = figure.subplots()
    for name in ("precision", "recall", "f1"):
        axes.plot(bars, [getattr(mean, name) for mean in means], label=name)
    own = tagged.table().mean()
    axes.plot([], [], " ", label=f"at the bundle's thresholds: {own.precision:.3f} / {own.recall:.3f} / {own.f1:.3f}")
    axes.set(xlabel="one threshold for all labels", ylabel="mean over labels", xlim=(0, 1), ylim=(0, 1))
    axes.grid(alpha=0.3)
    axes.legend()
    path.parent.mkdir(parents=True, exist_ok=True)
    figure.savefig(path, dpi=120, format="png")
