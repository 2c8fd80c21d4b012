"""Build what a release consists of into dist/, and prove that it works where nothing else is installed.

    make release

It changes nothing outside dist/ and build/release/, publishes nothing, and ends with 0 only if every step succeeded:

1. build: the source distribution of the project and of each home (every folder with a pyproject.toml), a wheel made
   from each, and the charts of deploy/helm, with the locked build tools and the same bytes for the same commit. A wheel
   that needs another needs its exact version, and the worker's `schemas` are those of tagstream-schemas;
2. schemas: tagstream-schemas in a new environment, with pydantic and nothing else;
3. worker: the wheels of the worker, the index and OCR in a new environment, as the Dockerfile installs them (production
   locks, by hash); its version, its bundle, and `tagstream check` without any server. Once for each Python that is
   promised and here;
4. bill of materials: that environment as CycloneDX, then the checksums of all files in dist/;
5. homes: the other wheels of dist/ and their packages added to the same environment; `tagstream train fit`, then
   `tagstream index`, `search`, `export parquet` and `tagstream demo` on real servers. SKIP_DEMO=1 leaves this out.

Packages come from uv's cache where they are there: UV_OFFLINE=1 takes them from nowhere else.
"""

from __future__ import annotations

import gzip
import hashlib
import io
import json
import os
import re
import shutil
import subprocess
import sys
import tarfile
import tomllib
import zipfile
from collections.abc import Iterable, Mapping
from functools import cache
from importlib.metadata import version as installed_version
from pathlib import Path

CHECKOUT = Path(__file__).parents[1]
DIST = CHECKOUT / "dist"
ROOM = CHECKOUT / "build" / "release"
PROJECTS = (CHECKOUT, *sorted(path.parent for path in CHECKOUT.glob("*/pyproject.toml")))
"""Folders of the distributions, the worker's first."""
UV = (sys.executable, "-m", "uv")
ONLY_DEPENDENCIES_AWAY = 4
"""The exit code of `tagstream check` when all is well but servers do not answer."""
MISCONFIGURED = 2
SETTINGS = {
    "TAGSTREAM_KAFKA_SERVERS": "127.0.0.1:1",
    "TAGSTREAM_S3_ENDPOINT": "http://127.0.0.1:1",
    "TAGSTREAM_S3_ACCESS_KEY": "none",
    "TAGSTREAM_S3_SECRET_KEY": "none",
    "TAGSTREAM_BUCKETS": "photos",
}
"""A worker's settings with no server behind them."""


class NotProven(Exception):
    """A step did not come out as it must."""


def main() -> int:
    for folder in (DIST, ROOM):
        shutil.rmtree(folder, ignore_errors=True)
        folder.mkdir(parents=True)
    try:
        version = build()
        pack_charts(version)
        require_one_version(version)
        prove_schemas()
        python = prove_worker(version, sys.executable)
        for other in other_interpreters():
            prove_worker(version, other)
        write_bill_of_materials(python, version)
        write_checksums()
        if os.environ.get("SKIP_DEMO", "0") == "0":
            install_homes(python)
            prove_training(python)
            prove_index(python)
            run(python.with_name("tagstream"), "demo", "--page", "demo.html", cwd=ROOM)
    except NotProven as error:
        print(f"\nNot proven: {error}", file=sys.stderr)  # noqa: T201
        return 1
    say("Proven. dist/ holds: " + ", ".join(path.name for path in files()))
    return 0


def build() -> str:
    """All distributions in dist/.

    Returns:
        Their version.
    """
    say("Building the source distribution and the wheels")
    if run("git", "status", "--porcelain", quiet=True):
        say("Note: this checkout has uncommitted changes, and they go into what is built")
    options = ("--no-build-isolation", "--python", sys.executable, "--out-dir", str(DIST), "--quiet")
    for project in PROJECTS:
        run(*UV, "build", *options, cwd=project, environment={"SOURCE_DATE_EPOCH": f"{stamp()}"})
    (sdist,) = DIST.glob("tagstream-*.tar.gz")
    version = sdist.name.removeprefix("tagstream-").removesuffix(".tar.gz")
    stems = [f"{name_of(project).replace('-', '_')}-{version}" for project in PROJECTS]
    expected = {f"{stem}{ending}" for stem in stems for ending in (".tar.gz", "-py3-none-any.whl")}
    built = {path.name for path in files()}
    if built != expected:
        raise NotProven(f"dist/ holds {sorted(built)} instead of {sorted(expected)}")
    return version


def name_of(project: Path) -> str:
    return str(tomllib.loads((project / "pyproject.toml").read_text())["project"]["name"])


@cache
def stamp() -> int:
    """The commit's time, which is that of all files in archives."""
    return int(run("git", "log", "-1", "--format=%ct", quiet=True))


def pack_charts(version: str) -> None:
    """Each chart as Helm packs it, in a folder of its name, but with the same bytes for the same commit."""
    for chart in sorted(CHECKOUT.glob("deploy/helm/*/Chart.yaml")):
        name = chart.parent.name
        say(f"The chart {name}")
        packed = io.BytesIO()
        with tarfile.open(fileobj=packed, mode="w", dereference=True) as archive:
            for file in sorted(file for file in chart.parent.rglob("*") if file.is_file()):
                archive.add(file, f"{name}/{file.relative_to(chart.parent)}", filter=without_owner)
        path = DIST / f"{name}-{version}.tgz"
        path.write_bytes(gzip.compress(packed.getvalue(), mtime=stamp()))
        if helm := shutil.which("helm"):
            expect(helm, "show", "chart", path, says=[f"version: {version}"])


def without_owner(member: tarfile.TarInfo) -> tarfile.TarInfo:
    member.uid = member.gid = 0
    member.uname = member.gname = ""
    member.mode, member.mtime = 0o644, stamp()
    return member


def require_one_version(version: str) -> None:
    """Raises NotProven: wheels of other versions would go together, or two forms of the schemas differ."""
    for path in DIST.glob("*.whl"):
        (metadata,) = (text for name, text in content(path).items() if name.endswith(".dist-info/METADATA"))
        for needed in re.findall(r"(?m)^Requires-Dist: (tagstream[^;\n]*)", metadata.decode()):
            if not re.fullmatch(rf"[\w-]+(\[.*\])?=={re.escape(version)}\s*", needed):
                raise NotProven(f"{path.name} needs {needed} instead of exactly {version}")
    carried, apart = below(wheel("tagstream"), "schemas/"), below(wheel("tagstream_schemas"), "tagstream_schemas/")
    if different := {name for name, _ in carried.items() ^ apart.items() if not name.endswith(".md")}:
        raise NotProven(f"tagstream-schemas and the worker's schemas differ in {sorted(different)}")


def below(path: Path, folder: str) -> dict[str, bytes]:
    return {name.removeprefix(folder): text for name, text in content(path).items() if name.startswith(folder)}


def content(path: Path) -> dict[str, bytes]:
    """The files of a wheel."""
    with zipfile.ZipFile(path) as archive:
        return {name: archive.read(name) for name in archive.namelist()}


def prove_schemas() -> None:
    say("tagstream-schemas in an environment of its own")
    python = new_environment("schemas")
    install(python, "--constraints", "requirements.lock", str(wheel("tagstream_schemas")))
    run(python, "-I", "-c", "from tagstream_schemas import dead_letter, enriched_image, image_event")


def other_interpreters() -> list[str]:
    """Those of the Pythons that pyproject.toml names, and that are here, without this one."""
    promised = re.findall(r"Python :: (3\.\d+)", (CHECKOUT / "pyproject.toml").read_text())
    found = []
    for version in promised:
        if version == f"{sys.version_info.major}.{sys.version_info.minor}":
            continue
        command = (*UV, "python", "find", "--no-project", "--system", "--no-python-downloads", version)
        looked = subprocess.run(command, capture_output=True, text=True, check=False)
        if looked.returncode:
            say(f"Python {version} is not here: nothing is proven for it")
        else:
            found.append(looked.stdout.strip())
    return found


def prove_worker(version: str, interpreter: str) -> Path:
    """The worker as an image has it.

    Returns:
        The interpreter of its environment.
    """
    of_python = run(interpreter, "-V", quiet=True).strip()
    say(f"The worker in a new environment of {of_python}, by the production locks")
    python = new_environment(f"worker-{of_python.split()[-1]}", interpreter)
    torch_build = installed_version("torch").partition("+")[2]
    run("scripts/install-torch", "torch", torch_build, *UV, "pip", "install", "--python", str(python), "--quiet")
    install(python, "--require-hashes", "--no-deps", "-r", "requirements.lock")
    # by name and not by path: the bill of materials would repeat where this checkout lies
    install(
        python,
        "--no-deps",
        "--no-index",
        "--find-links",
        str(DIST),
        f"tagstream=={version}",
        f"tagstream-index=={version}",
        f"tagstream-ocr=={version}",
        f"tagstream-remote=={version}",
    )
    run(*UV, "pip", "check", "--python", str(python))
    tagstream = python.with_name("tagstream")
    expect(tagstream, "--version", says=[f"tagstream {version}"])
    expect(tagstream, "demo", code=MISCONFIGURED, says=["tagstream-testing is not installed"])
    expect(tagstream, "models", "list")
    expect(tagstream, "models", "verify", "compact")
    found = ["✓ Decoders", "✓ Memory", "✓ Tagger: compact", "✗ Kafka", "✗ Bucket photos"]
    expect(tagstream, "check", code=ONLY_DEPENDENCIES_AWAY, says=found, environment=SETTINGS)
    return python


def write_bill_of_materials(python: Path, version: str) -> None:
    say("The bill of materials of that environment")
    path = DIST / f"tagstream-{version}.cdx.json"
    maker = Path(sys.executable).with_name("cyclonedx-py")
    run(maker, "environment", "--pyproject", "pyproject.toml", "--output-reproducible", "--output-file", path, python)
    bill = json.loads(path.read_text())
    # pyproject.toml, the maker's source of the metadata, leaves the version to the build.
    bill["metadata"]["component"] |= {"version": version, "purl": f"pkg:pypi/tagstream@{version}"}
    path.write_text(json.dumps(bill, indent=2) + "\n")
    listed = {each["name"].lower() for each in bill["components"]}
    missing = {"torch", "pillow", "kafka-python", "psycopg"} - listed
    if missing or "file://" in path.read_text():
        raise NotProven(f"{path.name} leaves out {sorted(missing)}, or repeats a path of this machine")


def write_checksums() -> None:
    lines = [f"{hashlib.sha256(path.read_bytes()).hexdigest()}  {path.name}\n" for path in files()]
    (DIST / "SHA256SUMS").write_text("".join(lines))


def install_homes(python: Path) -> None:
    say("The other wheels of dist/ beside it, with what they need")
    extras = {"tagstream_testing": "[demo]", "tagstream_index": "[parquet]"}
    names = sorted(path.name.partition("-")[0] for path in DIST.glob("*.whl"))
    wheels = [f"{wheel(name)}{extras.get(name, '')}" for name in names]
    install(python, "--constraints", "requirements-dev.lock", *wheels)
    run(*UV, "pip", "check", "--python", str(python))


DRAW = """
import random, sys
from pathlib import Path
from PIL import Image
for tag, colour in (("lemon", (220, 210, 40)), ("plum", (90, 30, 110))):
    folder = Path(sys.argv[1], tag)
    folder.mkdir(parents=True)
    for number in range(8):
        shade = tuple(part + random.Random(number).randrange(30) for part in colour)
        Image.new("RGB", (96, 96), shade).save(folder / f"{number}.png")
"""


def prove_training(python: Path) -> None:
    say("Training: two new tags")
    run(python, "-I", "-c", DRAW, ROOM / "drawn")
    tagstream = python.with_name("tagstream")
    expect(tagstream, "train", "fit", "drawn", "--from", "compact", "-o", "fitted")
    lemon, tagger = "drawn/lemon/1.png", {"TAGSTREAM_TAGGER": "fitted"}
    expect(tagstream, "tag", lemon, environment=tagger, says=["lemon"])


def prove_index(python: Path) -> None:
    say("The index: of what a worker tagged, on real servers")
    tagstream = python.with_name("tagstream")
    expect(tagstream, "stack", "up", "--detach")
    try:
        servers = json.loads(expect(tagstream, "stack", "env", "--json")) | {"TAGSTREAM_TAGGER": "fitted"}
        expect(tagstream, "emit", "drawn", "--bucket", "photos", environment=servers)
        expect(tagstream, "run", "--until-idle", "5", environment=servers)
        expect(tagstream, "index", "init", environment=servers)
        expect(tagstream, "index", "run", "--until-idle", "1", environment=servers)
        expect(tagstream, "search", "plum", environment=servers, says=["photos/plum/"])
        expect(tagstream, "export", "parquet", "outcomes", environment=servers, says=["16 rows in 3 files"])
    finally:
        expect(tagstream, "stack", "down")


def files() -> list[Path]:
    return sorted(path for path in DIST.iterdir() if not path.name.startswith("."))


def wheel(name: str) -> Path:
    (path,) = DIST.glob(f"{name}-*.whl")
    return path


def new_environment(name: str, interpreter: str = sys.executable) -> Path:
    run(*UV, "venv", "--quiet", "--python", interpreter, str(ROOM / name))
    return ROOM / name / "bin" / "python"


def install(python: Path, *what: str) -> None:
    run(*UV, "pip", "install", "--quiet", "--python", str(python), *what)


def expect(
    *command: str | Path, code: int = 0, says: Iterable[str] = (), environment: Mapping[str, str] | None = None
) -> str:
    """Run it in ROOM; returns what it says."""
    folders = {"XDG_CACHE_HOME": str(ROOM / "cache"), "TAGSTREAM_STATE_DIR": str(ROOM / "state")}
    output = run(
        *command, code=code, cwd=ROOM, environment={"COLUMNS": "200", **folders, **(environment or {})}, quiet=True
    )
    for text in says:
        if text not in output:
            raise NotProven(f"`{shown(command)}` does not say {text!r} but:\n{output}")
    return output


def run(
    *command: str | Path,
    code: int = 0,
    cwd: Path = CHECKOUT,
    environment: Mapping[str, str] | None = None,
    quiet: bool = False,
) -> str:
    """What a command writes, if it is `quiet`; else that is shown.

    Raises:
        NotProven: it ended with another exit code.
    """
    # A worker proves itself without the settings of the caller, and without this checkout on its path.
    clean = {name: value for name, value in os.environ.items() if not name.startswith(("TAGSTREAM_", "PYTHON"))}
    sink = subprocess.PIPE if quiet else None
    done = subprocess.run(
        command,
        cwd=cwd,
        env={**clean, **(environment or {})},
        stdout=sink,
        stderr=subprocess.STDOUT if quiet else None,
        text=True,
        check=False,
    )
    if done.returncode != code:
        raise NotProven(f"`{shown(command)}` ended with {done.returncode} instead of {code}\n{done.stdout or ''}")
    return done.stdout or ""


def shown(command: Iterable[str | Path]) -> str:
    return " ".join(map(str, command))


def say(text: str) -> None:
    print(f"\n==> {text}", flush=True)  # noqa: T201


if __name__ == "__main__":
    sys.exit(main())
