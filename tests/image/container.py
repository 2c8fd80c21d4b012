"""An image's file system, run as a pod's container.

As there: user, groups, no capabilities and no new ones, root file system, volumes, /dev, environment, memory limit, and
the image's own entry point as process 1. Not as there: the network is this machine's, without a seccomp profile.
"""

from __future__ import annotations

import os
import shlex
import subprocess
import uuid
from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Any

from tagstream_testing.local.server import spawn_tied
from tests.support.processes import children
from tests.support.waiting import eventually
from tests.unit.deploy.tools import Manifest, expanded, files_of, pod_environment, pod_of

_CGROUPS = Path("/sys/fs/cgroup")
_UNITS = {"Ki": 1 << 10, "Mi": 1 << 20, "Gi": 1 << 30}


@dataclass(frozen=True)
class Image:
    """A file system and the settings of its image (`config` of Docker's format)."""

    target: str
    root: Path
    config: Mapping[str, Any]

    @property
    def environment(self) -> dict[str, str]:
        return dict(each.split("=", 1) for each in self.config["Env"])


def memory_by() -> str:
    """What limits a container's memory here: cgroup v2, cgroup v1 or prlimit."""
    if os.access(_CGROUPS / "cgroup.subtree_control", os.W_OK):
        return "cgroup v2"
    return "cgroup v1" if os.access(_CGROUPS / "memory", os.W_OK) else "prlimit"


class Container:
    """One container of a Deployment, with its volumes in `folder`.

    Args:
        name: the Deployment; empty: the workers'.
        step: the container's name; empty: the first that is no init container.
        secrets: by name of the Secret and key.
        instead: environment of this test in place of the pod's.
    """

    def __init__(
        self,
        image: Image,
        manifests: Sequence[Manifest],
        folder: Path,
        *,
        secrets: Mapping[str, Mapping[str, str]],
        instead: Mapping[str, str],
        name: str = "",
        step: str = "",
    ) -> None:
        self.pod, self.log = pod_of(manifests, name), folder / "log"
        both = [*self.pod["containers"], *self.pod.get("initContainers", ())]
        self.container = next(each for each in both if step in ("", each["name"]))
        self._image, self._folder = image, folder
        self.environment = image.environment | pod_environment(manifests, secrets["tagstream"], name) | dict(instead)
        self._memory = _memory_limit(self.container["resources"]["limits"]["memory"])
        self._mounts = self._volumes(secrets)
        self._entry: Sequence[str] = image.config["Entrypoint"]
        self._running: list[subprocess.Popen[bytes]] = []

    def _volumes(self, secrets: Mapping[str, Mapping[str, str]]) -> Sequence[tuple[Path, str, bool]]:
        """Folders of this machine, where they are mounted, and whether they are read-only there."""
        volumes = {volume["name"]: volume for volume in self.pod["volumes"]}
        group = self.pod["securityContext"]["fsGroup"]
        mounts = []
        for mount in self.container["volumeMounts"]:
            here = self._folder / mount["name"]
            here.mkdir(exist_ok=True)
            os.chown(here, 0, group)
            here.chmod(0o2777)
            for file, text in files_of(volumes[mount["name"]], secrets).items():
                (here / file).write_text(text)
                (here / file).chmod(0o440)
            mounts.append((here, mount["mountPath"], mount.get("readOnly", False)))
        return mounts

    @property
    def arguments(self) -> list[str]:
        """The pod's arguments for the entry point."""
        return [expanded(each, self.environment) for each in self.container["args"]]

    @property
    def health_check(self) -> list[str]:
        """The image's own probe as a command."""
        kind, *command = self._image.config["Healthcheck"]["Test"]
        assert kind == "CMD"
        return list(command)

    def written(self, volume: str) -> list[str]:
        """Names in a volume."""
        return [path.name for path in (self._folder / volume).iterdir()]

    def start(self, *more: str) -> Running:
        """The pod's own command, and more arguments."""
        command = self._command(*self._entry, *self.arguments, *more)
        self._running.append(spawn_tied(command, log=self.log, env=self.environment))
        return Running(self, self._running[-1])

    def run(self, *arguments: str) -> subprocess.CompletedProcess[str]:
        """Other arguments of the image's entry point, to their end."""
        return self.run_program(*self._entry, *arguments)

    def run_program(self, *command: str) -> subprocess.CompletedProcess[str]:
        return subprocess.run(
            self._command(*command), env=self.environment, capture_output=True, text=True, timeout=170
        )

    def close(self) -> None:
        """Kill what runs, and remove the control group."""
        for process in self._running:
            process.kill()
            process.wait(10)
        if isinstance(group := self._memory, Path):
            eventually(lambda: not (group / "cgroup.procs").read_text(), 10)
            group.rmdir()

    def _command(self, *command: str) -> list[str]:
        unshare = ["unshare", "--mount", "--pid", "--ipc", "--fork", "--kill-child", "--propagation=private"]
        return [*unshare, "sh", "-euc", self._sealed(), "sh", *self.as_user(), *command]

    def as_user(self) -> list[str]:
        context, security = self.pod["securityContext"], self.container["securityContext"]
        assert security == {
            "allowPrivilegeEscalation": False,
            "capabilities": {"drop": ["ALL"]},
            "readOnlyRootFilesystem": True,
        }
        ids = [f"--reuid={context['runAsUser']}", f"--regid={context['runAsGroup']}", f"--groups={context['fsGroup']}"]
        none = ["--pdeathsig=keep", "--no-new-privs", "--bounding-set=-all", "--inh-caps=-all", "--ambient-caps=-all"]
        return ["setpriv", *ids, *none, "env", f"--chdir={self._image.config['WorkingDir']}"]

    def _sealed(self) -> str:
        """A shell's script: mounts, the limit of memory, and its arguments run in the image's root."""
        root = self._image.root
        devices = ["null", "zero", "full", "random", "urandom"]
        lines = [
            f"mount -t proc proc {root}/proc",
            f"mount -t tmpfs -o mode=755 none {root}/dev",
            *(f"touch {root}/dev/{each} && mount --bind /dev/{each} {root}/dev/{each}" for each in devices),
            f"mkdir {root}/dev/shm && mount -t tmpfs -o size=64m,mode=1777 none {root}/dev/shm",
            f"ln -s /proc/self/fd {root}/dev/fd",
            f"mount -t tmpfs -o mode=755 none {root}/sys",
        ]
        for here, there, read_only in self._mounts:
            where = shlex.quote(f"{root}{there}")
            lines += [f"mkdir -p {where}", f"mount --bind {shlex.quote(str(here))} {where}"]
            lines += [f"mount -o remount,bind,ro {where}"] * read_only
        if isinstance(self._memory, Path):
            there = "sys/fs/cgroup" if memory_by() == "cgroup v2" else "sys/fs/cgroup/memory"
            lines += [f"echo 0 > {self._memory}/cgroup.procs", f"mkdir -p {root}/{there}"]
            lines += [f"mount --bind {self._memory} {root}/{there}"]
        else:
            lines += [f"ulimit -d {self._memory >> 10}"]
        lines += [f"mount -o remount,bind,ro {root}", f'exec chroot {root} "$@"']
        return "\n".join(lines)


class Running:
    """A container that runs."""

    def __init__(self, container: Container, process: subprocess.Popen[bytes]) -> None:
        self.container, self.process = container, process

    @property
    def init(self) -> int:
        """Its process 1, as this machine counts."""
        (found,) = children(self.process.pid)
        return found

    def execute(self, *command: str) -> subprocess.CompletedProcess[str]:
        """Another command inside of it, as a probe does."""
        enter = ["nsenter", f"--target={self.init}", "--mount", "--pid", "--ipc", "--root", "--wd"]
        return subprocess.run(
            [*enter, *self.container.as_user(), *command],
            env=self.container.environment,
            capture_output=True,
            text=True,
            timeout=60,
        )

    def terminate(self) -> int:
        """As the kubelet does: SIGTERM to process 1, and the exit code within the grace period."""
        os.kill(self.init, 15)
        return self.process.wait(self.container.pod["terminationGracePeriodSeconds"])

    def said(self) -> str:
        return self.container.log.read_text(errors="replace")


def _memory_limit(quantity: str) -> Path | int:
    """A new control group with this limit, or the bytes where there can be none."""
    limit = int(quantity[:-2]) * _UNITS[quantity[-2:]]
    if memory_by() == "prlimit":
        return limit
    name = f"tagstream-image-{uuid.uuid4().hex[:8]}"
    if memory_by() == "cgroup v1":
        group, file = _CGROUPS / "memory" / name, "memory.limit_in_bytes"
    else:
        group, file = _CGROUPS / name, "memory.max"
    group.mkdir()
    (group / file).write_text(f"{limit}")
    return group
