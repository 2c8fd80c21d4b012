"""Build the Dockerfile's targets without Docker, and run each as its pods do.

    scripts/image.py [cpu] [cuda]      make image TARGETS="cpu"

Needs root, and Debian's packages buildah and debootstrap; without them the tests are skipped with the reason, or fail
where CI is set. buildah builds with chroot isolation. The base, made by debootstrap, is Debian trixie with its own
Python. The steps for each target: build, print the layers, run tests/image on its file system, delete it.

An index of packages and certificates that pip has on this machine serve the build, from files that are mounted
meanwhile. TAGSTREAM_IMAGE, which the tests read, is a JSON object: the file system's folder and the image's settings.
"""

from __future__ import annotations

import json
import os
import re
import shutil
import subprocess
import sys
from collections.abc import Iterator, Mapping, Sequence
from contextlib import contextmanager
from functools import cache
from pathlib import Path
from typing import Any

CHECKOUT = Path(__file__).resolve().parents[1]
ROOM = CHECKOUT / "build" / "image"
NEEDED_GB = {"cpu": 8, "cuda": 35}
"""Disk that the build of a target takes at its peak, as measured."""
CPU_WITH_LARGE_TORCH_GB = 20
BASE = "localhost/tagstream-base"
SUITE = "trixie"
PACKAGES = ("ca-certificates", "python3", "python3-pip")
CERTIFICATES = "/etc/ssl/certs/ca-certificates.crt"
BUILDAH = ("buildah", "--root", str(ROOM / "store"), "--runroot", str(ROOM / "run"), "--storage-driver", "overlay")


class CannotBuild(Exception):
    """This machine can't build images; the text says what it lacks."""


def main(targets: Sequence[str]) -> int:
    if unknown := set(targets) - NEEDED_GB.keys():
        say(f"The Dockerfile has no target {' or '.join(sorted(unknown))}: name cpu, cuda or both.")
        return 2
    targets = targets or list(NEEDED_GB)
    needed_gb = max(map(needed, targets))
    say(f"Disk needed in {ROOM}: {needed_gb} GB, one target at a time")
    try:
        require_means(needed_gb)
    except CannotBuild as error:
        say(f"Not built: {error}")
        return tests("none", TAGSTREAM_IMAGE_MISSING=str(error))
    try:
        (ROOM / "tmp").mkdir(parents=True, exist_ok=True)
        os.environ["TMPDIR"] = str(ROOM / "tmp")  # where buildah puts whole layers meanwhile
        make_base()
        return max([prove(target) for target in targets])
    finally:
        clear()


def clear() -> None:
    buildah("rmi", "--all", "--force")
    if f" {ROOM}/store/overlay/" in Path("/proc/self/mounts").read_text():
        raise SystemExit(f"Something is still mounted below {ROOM}: unmount it, then remove the folder.")
    shutil.rmtree(ROOM)


def needed(target: str) -> int:
    """Disk for a target, in GB."""
    return CPU_WITH_LARGE_TORCH_GB if target == "cpu" and not finds_small_torch() else NEEDED_GB[target]


def require_means(needed_gb: int) -> None:
    """Raises: CannotBuild."""
    if os.geteuid():
        raise CannotBuild("it needs root")
    if missing := [name for name in ("buildah", "debootstrap", "unshare") if not shutil.which(name)]:
        raise CannotBuild(f"{' and '.join(missing)} not found: apt-get install buildah debootstrap")
    if (free_gb := shutil.disk_usage(CHECKOUT).free / 1e9) < needed_gb:
        raise CannotBuild(f"{free_gb:.0f} GB of disk are free, and it needs {needed_gb} GB")


def make_base() -> None:
    """Debian with its Python as the image BASE, which the Dockerfile's ARG PYTHON_IMAGE takes."""
    say(f"The base: Debian {SUITE} by debootstrap")
    with mounted("scratch") as (container, root):
        # with mounts of its own, so that its /proc goes with it
        make = ("unshare", "--mount", "--propagation=private", "debootstrap", "--variant=minbase")
        run(*make, f"--include={','.join(PACKAGES)}", SUITE, str(root), quiet=True)
        for folder in ("var/cache/apt/archives", "var/lib/apt/lists"):
            shutil.rmtree(root / folder)
        # as Debian's own image has it
        (root / "etc/apt/apt.conf.d/caches").write_text('Dir::Cache::pkgcache ""; Dir::Cache::srcpkgcache "";\n')
        (root / "usr/local/bin/python").symlink_to("/usr/bin/python3")
        for mark in root.glob("usr/lib/python3*/EXTERNALLY-MANAGED"):
            mark.unlink()
        say_differences(root)
        buildah("config", "--env", "PATH=/usr/local/bin:/usr/local/sbin:/usr/sbin:/usr/bin:/sbin:/bin", container)
        buildah("commit", "--quiet", "--format", "docker", container, BASE)


_ASK_PYTHON = """
import importlib.util, platform
modules = ("ensurepip", "idlelib", "tkinter", "turtledemo", "venv")
print(platform.python_version(), *(each for each in modules if not importlib.util.find_spec(each)))
"""


def say_differences(root: Path) -> None:
    official = re.findall(r"PYTHON_IMAGE=python:(\S+?)-slim", (CHECKOUT / "Dockerfile").read_text())[0]
    version, *absent = run("chroot", str(root), "/usr/bin/python3", "-c", _ASK_PYTHON, quiet=True).split()
    say(
        f"It has Debian's Python {version} in /usr; the official image has {official} in /usr/local. It lacks the "
        f"packages netbase and tzdata, and of the standard library {', '.join(absent) or 'nothing'}"
    )


def prove(target: str) -> int:
    """Build, show and test one target; returns pytest's exit status."""
    name = f"localhost/tagstream:{target}"
    say(f"Building the target {target}")
    build(target, name)
    settings = json.loads(buildah("inspect", "--type", "image", name))
    for size, stage in layers(settings, target):
        say(f"{size / 1e6:9,.1f} MB  {stage}")
    with mounted(name) as (_, root):
        for size, package in largest(root):
            say(f"{size / 1e6:9,.1f} MB  in site-packages: {package}")
        image = {"target": target, "root": str(root), **settings["Docker"]["config"]}
        status = tests(target, TAGSTREAM_IMAGE=json.dumps(image))
    buildah("rmi", "--force", name)
    return status


def build(target: str, name: str) -> None:
    dockerfile = ROOM / "Dockerfile"
    # buildah 1.28 does not know the flag
    dockerfile.write_text(re.sub(r"--start-interval=\S+ ", "", (CHECKOUT / "Dockerfile").read_text()))
    arguments = [f"PYTHON_IMAGE={BASE}"]
    if not finds_small_torch():  # both targets have the stage that takes it, cuda for the bundles
        say("PyTorch's own index is out of reach: the package index's build of torch, without what only a GPU needs")
        arguments.append("CPU_BACKEND=")
    options = [part for argument in arguments for part in ("--build-arg", argument)]
    options += [part for mount in mounts() for part in ("--volume", mount)]
    run(
        *(*BUILDAH, "build", "--isolation", "chroot", "--format", "docker", "--pull-never"),
        *("--target", target, "--tag", name, "--file", str(dockerfile), *options, str(CHECKOUT)),
    )


@cache
def finds_small_torch() -> bool:
    """Whether PyTorch's own index answers, which has the build for processors."""
    command = ("-m", "uv", "pip", "compile", "--no-deps", "--torch-backend=cpu", "requirements-torch.txt")
    quick = {"UV_HTTP_RETRIES": "0", "UV_HTTP_TIMEOUT": "10"}
    done = subprocess.run([sys.executable, *command], cwd=CHECKOUT, env={**os.environ, **quick}, capture_output=True)
    return done.returncode == 0


def mounts() -> Iterator[str]:
    """Volumes of the build: pip's and uv's settings and the certificates of this machine, if it has its own."""
    listed = run(sys.executable, "-m", "pip", "config", "list", quiet=True)
    told = dict(re.findall(r"(?m)^[^.]+\.([a-z-]+)='(.*)'$", listed))
    index, certificates = told.get("index-url"), told.get("cert") or os.environ.get("SSL_CERT_FILE")
    if certificates:
        yield f"{certificates}:{CERTIFICATES}:ro"
    if index or certificates:
        of_pip, of_uv = f"[global]\ncert = {CERTIFICATES}\n", "system-certs = true\n"
        if index:
            of_pip, of_uv = f"{of_pip}index-url = {index}\n", f"{of_uv}index-url = {json.dumps(index)}\n"
        for name, place, text in (("pip.conf", "/etc/pip.conf", of_pip), ("uv.toml", "/etc/uv/uv.toml", of_uv)):
            (ROOM / name).write_text(text)
            yield f"{ROOM / name}:{place}:ro"


def layers(image: Mapping[str, Any], target: str) -> Iterator[tuple[int, str]]:
    """Bytes of each layer, and the stage that made it: buildah makes one of a stage."""
    stored = json.loads((ROOM / "store" / "overlay-layers" / "layers.json").read_text())
    sizes = {layer.get("diff-digest"): layer.get("diff-size") for layer in stored}
    for digest, stage in zip(image["Docker"]["rootfs"]["diff_ids"], ("base", "runtime", target), strict=True):
        yield sizes[digest], stage


def largest(root: Path) -> list[tuple[int, str]]:
    """The ten largest folders of the environment's packages, with their bytes."""
    (packages,) = (root / "opt" / "tagstream" / "lib").glob("python3*/site-packages")
    sizes = [(size_of(folder), folder.name) for folder in packages.iterdir() if folder.is_dir()]
    return sorted(sizes, reverse=True)[:10]


def size_of(folder: Path) -> int:
    return sum(path.lstat().st_size for path in folder.rglob("*") if path.is_file())


def tests(target: str, **environment: str) -> int:
    """Run tests/image; returns pytest's exit status."""
    command = [sys.executable, "-m", "pytest", "-m", "image", "tests/image"]
    command += ["--junitxml", f"build/junit/image-{target}.xml", *os.environ.get("ARGS", "").split()]
    return subprocess.run(command, cwd=CHECKOUT, env={**os.environ, **environment}).returncode


@contextmanager
def mounted(image: str) -> Iterator[tuple[str, Path]]:
    """A container of the image, and where its file system is mounted."""
    container = buildah("from", "--pull-never", image).strip()
    try:
        yield container, Path(buildah("mount", container).strip())
    finally:
        buildah("umount", container)
        buildah("rm", container)


def buildah(*arguments: str) -> str:
    return run(*BUILDAH, *arguments, quiet=True)


def run(*command: str, quiet: bool = False) -> str:
    """What a command prints, if `quiet`; else it is shown."""
    done = subprocess.run(command, stdout=subprocess.PIPE if quiet else None, text=True, check=False)
    if done.returncode:
        print(done.stdout or "", file=sys.stderr)  # noqa: T201
        raise SystemExit(f"`{' '.join(command)}` ended with {done.returncode}")
    return done.stdout or ""


def say(text: str) -> None:
    print(f"==> {text}", flush=True)  # noqa: T201


if __name__ == "__main__":
    sys.exit(main(sys.argv[1:]))
