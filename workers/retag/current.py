"""The current settings, from manifests and label files, without weights."""

from __future__ import annotations

import hashlib
from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from functools import cached_property
from typing import Any, Final

import numpy as np
from numpy.typing import NDArray
from pydantic_core import to_json

from schemas.enriched_image import ModelRef
from schemas.options import Want
from schemas.result_kinds import ResultKind
from schemas.stored_scores import encode_pairs
from workers.models.bundle import Bundle
from workers.models.dual.config import KINDS, space_of, vectors_digest
from workers.models.dual.rescoring import LabelHead, best_first, head_of
from workers.models.labels import label_ids, narrowed_digest
from workers.pipeline.captioning import Template
from workers.pipeline.kind_role import KindRole
from workers.pipeline.profiles import Profile
from workers.pipeline.roles import ModelsByUse, Roles, make_roles
from workers.ports import RemoteCaptioner
from workers.types import Transform

NONE: Final = "none"


class UnloadedModel:
    """A bundle's model with its names, thresholds and digests. It can't run."""

    precision = ""
    """Unknown. Each outcome keeps its own precision: the same weights are the same model."""
    embedding_dimensions = 0
    max_batch = 0
    options_digest = ""

    def __init__(self, bundle: Bundle, allowed: Sequence[str] | None = None) -> None:
        ids = None if allowed is None else label_ids(bundle, allowed)
        self.name = bundle.name
        self.digest = bundle.digest if ids is None else narrowed_digest(bundle.digest, ids)
        self.random_weights: bool = bundle.manifest.provenance.random
        self.transform: Transform = bundle.manifest.transform
        self.labels: Sequence[str] = bundle.labels
        self.translations: Mapping[str, Sequence[str]] = bundle.translations
        self.parents: Sequence[Sequence[str]] = bundle.parents
        self.parents_digest = hashlib.sha256(to_json(bundle.parents)).hexdigest()
        self.thresholds: Sequence[float] = bundle.thresholds
        self.profiles: Mapping[str, Sequence[float]] = bundle.profiles
        self.floor: float = bundle.manifest.floor
        self.embedding_space = space_of(bundle.manifest) or ""
        self.embedding_model = vectors_digest(bundle.manifest) or self.digest
        self.scores_vectors = bundle.manifest.kind in KINDS and bool(bundle.labels)
        self._bundle, self._ids = bundle, ids
        self.scored: NDArray[np.bool_] = np.ones(len(self.labels), np.bool_)
        """(labels,) whether the tagger scores each label."""
        if ids is not None:
            self.scored[:] = False
            self.scored[ids] = True

    @cached_property
    def head(self) -> LabelHead | None:
        """The head for stored vectors; None: this model's scores need the image."""
        return head_of(self._bundle, self._ids)

    @property
    def reference(self) -> ModelRef | None:
        """The model's name in events, without precision; None: its scores need the image."""
        if self.head is None:
            return None
        return ModelRef(name=self.name, digest=self.digest, precision="", random_weights=self.random_weights)

    def rescore(self, vectors: NDArray[np.float16]) -> list[bytes]:
        """The headers with the scores of these vectors, (n, dimensions)."""
        assert self.head is not None
        return [
            encode_pairs(self.digest, None, self.precision, self.floor, pairs)
            for piece in self.head.pieces(vectors)
            for pairs in best_first(piece)
        ]

    def never(self, *_arguments: Any, **_options: Any) -> Any:
        raise AssertionError(f"{self.name} is not loaded")

    forward = forward_subsets = embed = postprocess = guide = warm_up = self_test_image = never


@dataclass(frozen=True)
class CurrentSettings:
    """The settings that change outcomes.

    Args:
        captioner: one of an address is never asked: it tells its digest and its guide.
        template: writes captions if there is no captioner.
        profiles: the tagger's profiles by name.
        want: for events that can't say what they want.
        added: the roles of TAGSTREAM_ROLES.
        fields: the kind of the fields that the answers of an address have; None: they have none.
    """

    tagger: UnloadedModel | None
    captioner: UnloadedModel | RemoteCaptioner | None
    template: Template | None
    profiles: Mapping[str, Profile]
    want: tuple[Want, ...]
    added: tuple[KindRole, ...] = ()
    fields: ResultKind | None = None

    @property
    def models(self) -> Mapping[str, UnloadedModel | RemoteCaptioner | None]:
        """The models by use, as in an event's `models`."""
        return {"tagger": self.tagger, "captioner": self.captioner}

    @cached_property
    def parts(self) -> dict[str, str]:
        """The settings on which a plan depends, by names for people."""
        captioner = "template" if self.template is not None else NONE
        return {
            "tagger": NONE if self.tagger is None else self.tagger.digest,
            "captioner": captioner if self.captioner is None else self.captioner.digest,
            "want": ",".join(self.want),
            **{f"role {role.name}": role.model.digest for role in self.added},
            **({"parents": self.tagger.parents_digest} if self.tagger is not None and self.tagger.parents else {}),
            **{f"profile {name}": profile.digest for name, profile in sorted(self.profiles.items())},
        }

    def roles(self) -> Roles:
        """The roles of a worker with these settings. They render, and can't run a model."""
        models, remote = ModelsByUse(), None
        if self.tagger is not None:
            models["tagger"] = self.tagger
        if isinstance(self.captioner, UnloadedModel):
            models["captioner"] = self.captioner
        else:
            remote = self.captioner
        return make_roles(models, self.template, added=self.added, remote=remote, fields=self.fields)


def differences(then: Mapping[str, str], now: Mapping[str, str]) -> list[str]:
    """A sentence for each difference between two sets of settings."""
    names = dict.fromkeys((*then, *now))
    return [
        f"{name} was {_short(then.get(name, NONE))} and is {_short(now.get(name, NONE))}"
        for name in names
        if then.get(name, NONE) != now.get(name, NONE)
    ]


def _short(value: str) -> str:
    return value[:12] if len(value) == 64 else value
