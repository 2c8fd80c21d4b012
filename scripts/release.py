"""Build what a release consists of into dist/, and prove that it works where nothing else is installed.

    make release

It changes nothing outside dist/ and build/release/, publishes nothing, and ends with 0 only if every step succeeded:

1. build: the source distribution of the project, its wheel made from that, and the wheels tagstream-index,
   tagstream-testing, tagstream-train and tagstream-schemas, all with the locked build tools and the same bytes for the
   same commit;
2. schemas: tagstream-schemas in a new environment, with pydantic and nothing else;
3. worker: the wheels of the worker and the index in a new environment, as the Dockerfile installs them (production
   locks, by hash); its version, its bundle, and `tagstream check` without any server;
4. bill of materials: that environment as CycloneDX, then the checksums of all files in dist/;
5. testing: tagstream-testing and the demo's packages added to the same environment, and `tagstream demo` from start to
   end on real servers. SKIP_DEMO=1 leaves this out.

Packages come from uv's cache where they are there: UV_OFFLINE=1 takes them from nowhere else.
"""

from __future__ import annotations

import hashlib
import json
import os
import shutil
import subprocess
import sys
from collections.abc import Iterable, Mapping
from importlib.metadata import version as installed_version
from pathlib import Path

CHECKOUT = Path(__file__).parents[1]
DIST = CHECKOUT / "dist"
ROOM = CHECKOUT / "build" / "release"
WHEELS = ("tagstream", "tagstream_index", "tagstream_testing", "tagstream_train", "tagstream_schemas")
PROJECTS = ("index", "testing", "training", "schemas")
"""Folders of the wheels other than the worker's."""
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
        prove_schemas()
        python = prove_worker(version)
        write_bill_of_materials(python, version)
        write_checksums()
        if os.environ.get("SKIP_DEMO", "0") == "0":
            prove_testing(python)
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
    stamp = run("git", "log", "-1", "--format=%ct", quiet=True).strip()
    options = ("--no-build-isolation", "--python", sys.executable, "--out-dir", str(DIST), "--quiet")
    run(*UV, "build", *options, environment={"SOURCE_DATE_EPOCH": stamp})
    for project in PROJECTS:
        run(*UV, "build", "--wheel", *options, cwd=CHECKOUT / project, environment={"SOURCE_DATE_EPOCH": stamp})
    (sdist,) = DIST.glob("tagstream-*.tar.gz")
    version = sdist.name.removeprefix("tagstream-").removesuffix(".tar.gz")
    expected = {f"{name}-{version}-py3-none-any.whl" for name in WHEELS}
    wheels = {path.name for path in DIST.glob("*.whl")}
    if wheels != expected:
        raise NotProven(f"dist/ holds {sorted(wheels)} instead of {sorted(expected)}")
    return version


def prove_schemas() -> None:
    say("tagstream-schemas in an environment of its own")
    python = new_environment("schemas")
    install(python, "--constraints", "requirements.lock", str(wheel("tagstream_schemas")))
    run(python, "-I", "-c", "from tagstream_schemas import dead_letter, enriched_image, image_event")


def prove_worker(version: str) -> Path:
    """The worker as an image has it.

    Returns:
        The interpreter of its environment.
    """
    say("The worker in a new environment, by the production locks")
    python = new_environment("worker")
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


def prove_testing(python: Path) -> None:
    say("tagstream-testing beside it, and the demo on real servers (some minutes)")
    worker, testing = wheel("tagstream"), wheel("tagstream_testing")
    install(python, "--constraints", "requirements-dev.lock", str(worker), f"{testing}[demo]")
    run(python.with_name("tagstream"), "demo", "--page", "demo.html", cwd=ROOM)


def files() -> list[Path]:
    return sorted(path for path in DIST.iterdir() if not path.name.startswith("."))


def wheel(name: str) -> Path:
    (path,) = DIST.glob(f"{name}-*.whl")
    return path


def new_environment(name: str) -> Path:
    run(*UV, "venv", "--quiet", "--python", sys.executable, str(ROOM / name))
    return ROOM / name / "bin" / "python"


def install(python: Path, *what: str) -> None:
    run(*UV, "pip", "install", "--quiet", "--python", str(python), *what)


def expect(
    *command: str | Path, code: int = 0, says: Iterable[str] = (), environment: Mapping[str, str] | None = None
) -> None:
    folders = {"XDG_CACHE_HOME": str(ROOM / "cache"), "TAGSTREAM_STATE_DIR": str(ROOM / "state")}
    output = run(
        *command, code=code, cwd=ROOM, environment={"COLUMNS": "200", **folders, **(environment or {})}, quiet=True
    )
    for text in says:
        if text not in output:
            raise NotProven(f"`{shown(command)}` does not say {text!r} but:\n{output}")


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
