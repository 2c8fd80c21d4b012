"""The banner says in one line what a worker is."""

from __future__ import annotations

from tests.support.harness import ColourTagger, EchoCaptioner
from workers import __version__
from workers.cli.banner import banner
from workers.pipeline.roles import ModelsByUse
from workers.settings import Settings


def test_the_banner_names_version_models_device_topics_and_delivery() -> None:
    tagger, captioner = ColourTagger(), EchoCaptioner()
    captioner.random_weights = True
    settings = Settings.model_validate({"input_topics": "a,b", "delivery": "at_least_once", "group": "g"})
    said = banner(settings, ModelsByUse(tagger=tagger, captioner=captioner), "Some CPU")
    assert said == (
        f"tagstream {__version__}: "
        f"tagger {tagger.name} {tagger.digest[:12]} ({tagger.precision}, batches of up to {tagger.max_batch}), "
        f"captioner {captioner.name} {captioner.digest[:12]} "
        f"({captioner.precision}, batches of up to {captioner.max_batch}, RANDOM WEIGHTS), on Some CPU; "
        f"reads a, b as group g; writes {settings.output_topic}, dead letters to {settings.dead_letter_topic}, "
        "skips to nowhere, counted only; delivery at_least_once"
    )


def test_a_sample_is_named_with_its_share() -> None:
    settings = Settings.model_validate({"sample": 0.005})
    said = banner(settings, ModelsByUse(tagger=ColourTagger()), "Some CPU")
    assert "0.50%" in said


def test_what_runs_without_a_model_is_named_as_it_is_set() -> None:
    settings = Settings.model_validate({"captioner": "template", "skipped_topic": "images.skipped"})
    said = banner(settings, ModelsByUse(tagger=ColourTagger()), "Some CPU")
    assert ", captioner template, on Some CPU; " in said
    assert "skips to images.skipped; delivery exactly_once" in said
