"""Every target. A new one is a module here with a `TARGETS`, and its name in this list."""

from tests.fuzz.fuzzer import Target
from tests.fuzz.targets import cached, files, images, messages, topics, training, wires, worker

TARGETS: dict[str, Target] = {
    target.name: target
    for module in (messages, images, files, cached, topics, training, wires, worker)
    for target in module.TARGETS
}
