"""A Dockerfile as a list of stages, read closely enough to hold ours against the repository."""

import json
import re
import shlex
from collections.abc import Iterator
from dataclasses import dataclass, field
from pathlib import Path


@dataclass(frozen=True)
class Instruction:
    """One instruction: `COPY --from=wheel /dist /dist` has the flags {"from": "wheel"} and the value "/dist /dist"."""

    keyword: str
    flags: dict[str, str]
    value: str

    @property
    def words(self) -> list[str]:
        """The value's words; of the exec form its members."""
        members = self.exec_form
        return shlex.split(self.value) if members is None else members

    @property
    def exec_form(self) -> list[str] | None:
        """The members of a JSON array, or None for a value in shell form."""
        if not self.value.startswith("["):
            return None
        members: list[str] = json.loads(self.value)
        return members


@dataclass(frozen=True)
class Stage:
    name: str
    base: str
    instructions: list[Instruction] = field(default_factory=list)


class Dockerfile:
    """`arguments` are the ARGs before the first FROM, with their defaults."""

    def __init__(self, path: Path) -> None:
        self.arguments: dict[str, str] = {}
        self.stages: dict[str, Stage] = {}
        stage: Stage | None = None
        for instruction in _instructions(path.read_text()):
            if instruction.keyword == "FROM":
                base, _, name = instruction.words
                stage = self.stages[name] = Stage(name, base)
            elif stage is None:
                name, _, default = instruction.value.partition("=")
                self.arguments[name] = default
            else:
                stage.instructions.append(instruction)

    def whole(self, target: str) -> list[Instruction]:
        stage = self.stages[target]
        below = self.whole(stage.base) if stage.base in self.stages else []
        return below + stage.instructions

    def last(self, target: str, keyword: str) -> Instruction:
        return [each for each in self.whole(target) if each.keyword == keyword][-1]

    def environment(self, target: str) -> dict[str, str]:
        found: dict[str, str] = {}
        for instruction in self.whole(target):
            if instruction.keyword == "ENV":
                found |= dict(word.split("=", 1) for word in instruction.words)
        return found


def _instructions(text: str) -> Iterator[Instruction]:
    lines = [line for line in text.splitlines() if not line.lstrip().startswith("#")]
    for line in re.sub(r"\\\n", "", "\n".join(lines)).splitlines():
        if line.strip():
            keyword, rest = line.split(maxsplit=1)
            flags, value = _split_flags(rest)
            yield Instruction(keyword.upper(), flags, value)


def _split_flags(rest: str) -> tuple[dict[str, str], str]:
    flags: dict[str, str] = {}
    while found := re.match(r"--([a-z-]+)=(\S+)\s+", rest):
        flags[found[1]] = found[2]
        rest = rest[found.end() :]
    return flags, re.sub(r"\s+", " ", rest).strip() if not rest.startswith("CMD [") else rest.strip()
