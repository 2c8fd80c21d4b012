"""A log of corrections that has been read."""

from schemas.correction import CorrectionRecord
from tagstream_testing.memory import MemoryCorrections


def said(*records: CorrectionRecord, people: bool = False) -> MemoryCorrections:
    log = MemoryCorrections(people=people)
    for record in records:
        log.produce(record)
    log.follow(0)
    return log
