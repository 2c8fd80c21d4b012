"""A model of the publish protocol: workers, their group, their broker, and faults between them.

It is small, so that every order of steps can be tried:

| here | in the product |
|---|---|
| `PartitionQueue` | an `Assignment` (its member id) with its queue in the ledger (`at`: not committed from here on) |
| `Item` | one record of a `Transaction`; it keeps the assignment that it was taken under |
| `Worker.phase` | the publish thread's step: `Publishing.step`, `KafkaPublisher._publish`, `recover`, `committed` |
| `Worker.generation`, `member` | the present result of kafka-python's `group_metadata()` |
| "learns", "callbacks", "renews" | the client's I/O thread and the poll thread: `KafkaRecordSource` |
| `Broker` | the group's coordinator, the transactions' coordinator, and a read_committed reader's view |

Records are annotated at once: tests of the ledger cover other orders. A transaction holds one record of each of its
partitions. The broker behaves as Apache Kafka does: it never checks who owns a partition; it accepts offsets without a
generation if the member id or the group is empty too; a plain commit overrides a transaction's pending one; taking a
transactional id aborts its open transaction.

`Rules` has the rules of `workers/backends/kafka/publisher.py`, `types.refusal` and `pipeline/publishing.py`; each can
be removed.
"""

from collections.abc import Iterator
from dataclasses import dataclass
from itertools import product
from typing import NamedTuple, TypeAlias, TypeVar

T = TypeVar("T")

NO_OWNER = -1
NO_GENERATION, OUTDATED, CURRENT = -1, 0, 1
"""Only a comparison with the group's present generation distinguishes generations."""
NO_MEMBER = 0
OPENING = -1


@dataclass(frozen=True, slots=True)
class Rules:
    """The publish thread's rules; each is on in the product."""

    generation: bool = True
    """Offsets go only under a membership that has a generation and a member id."""
    member: bool = True
    """The member id must equal that of every assignment in the transaction."""
    ended: bool = True
    """No assignment of the transaction may have ended."""
    trust_committed: bool = True
    """After anything unclear the committed offset decides; without: the transaction counts as failed."""
    fresh_producer: bool = True
    """A producer that failed is replaced; without: aborted and used again."""
    id_before_offset: bool = True
    """An assignment's member id is read before the offset that it begins at."""
    wait_for_pending: bool = True
    """The committed offset is returned only when no transaction on its partition is pending."""
    ask_futures: bool = True
    """Every message's future is asked before the commit."""
    alone: bool = True
    """Only the publish thread writes offsets, in transactions; without: the position is committed separately too."""


@dataclass(frozen=True, slots=True)
class Size:
    """How large the world is, and how often each fault may happen."""

    partitions: int = 1
    records: int = 2
    freezes: int = 1
    rebalances: int = 1
    unknown: int = 1
    timeouts: int = 1
    expiries: int = 0
    leaves: int = 1


class PartitionQueue(NamedTuple):
    member: int
    at: int = OPENING


class Item(NamedTuple):
    partition: int
    offset: int
    member: int
    ended: bool = False


Offsets: TypeAlias = tuple[int, ...]
"""An offset a partition; -1 for no offset."""


class Transaction(NamedTuple):
    items: tuple[Item, ...]
    offsets: Offsets


class Worker(NamedTuple):
    phase: str = "idle"
    frozen: bool = False
    gone: bool = False
    generation: int = NO_GENERATION
    member: int = NO_MEMBER
    callbacks: bool = False
    """The client has a new assignment and its callbacks have not run yet."""
    queues: tuple[PartitionQueue | None, ...] = ()
    run: tuple[Item, ...] = ()
    metadata: tuple[int, int] = (NO_GENERATION, NO_MEMBER)
    asked: tuple[int, int, int] = (0, 0, 0)
    """The question to the broker in progress: partition, the assignment's member id, the answer (without a rule)."""
    leftover: Offsets = ()
    """Offsets that a producer still holds of a transaction that it aborted."""
    beside: Offsets = ()
    """Positions that the poll thread is about to commit by itself (without a rule)."""


class Broker(NamedTuple):
    visible: Offsets
    """How many records of each partition have their outcomes where readers see them."""
    committed: Offsets
    members: tuple[int, ...]
    owners: tuple[int, ...]
    transactions: tuple[Transaction | None, ...]
    fenced: tuple[bool, ...]


class ProtocolState(NamedTuple):
    workers: tuple[Worker, ...]
    broker: Broker
    faults: tuple[int, ...]
    """How often each may still happen: see FAULTS."""
    wrong: str = ""


FREEZE, REBALANCE, UNKNOWN, TIMEOUT, EXPIRY, LEAVE = range(6)
Step: TypeAlias = tuple[str, ProtocolState]
NAMES = "AB"


class Protocol:
    """All steps that can be taken from a world."""

    def __init__(self, rules: Rules, size: Size) -> None:
        self.rules = rules
        self.size = size
        self._none: Offsets = (-1,) * size.partitions

    def start(self) -> ProtocolState:
        """A is the group's only member and has everything; B has not joined yet. Nothing is committed."""
        size = self.size
        assignment = PartitionQueue(1 if self.rules.id_before_offset else NO_MEMBER)
        blank = Worker(queues=(None,) * size.partitions, leftover=self._none, beside=self._none)
        first = blank._replace(generation=CURRENT, member=1, queues=(assignment,) * size.partitions)
        broker = Broker(
            visible=(0,) * size.partitions,
            committed=(0,) * size.partitions,
            members=(1, NO_MEMBER),
            owners=(0,) * size.partitions,
            transactions=(None, None),
            fenced=(False, False),
        )
        faults = (size.freezes, size.rebalances, size.unknown, size.timeouts, size.expiries, size.leaves)
        return ProtocolState((first, blank), broker, faults)

    def wrong(self, world: ProtocolState) -> str:
        return world.wrong

    def done(self, world: ProtocolState) -> bool:
        return all(offset == self.size.records for offset in (*world.broker.visible, *world.broker.committed))

    def steps(self, world: ProtocolState) -> Iterator[Step]:
        for text, after in self._steps(world):
            yield text, _renumbered(after)

    def _steps(self, world: ProtocolState) -> Iterator[Step]:
        yield from self._rebalances(world)
        for number, worker in enumerate(world.workers):
            if worker.gone:
                continue
            if world.broker.transactions[number] is not None and world.faults[TIMEOUT]:
                after = _use(world, TIMEOUT)
                yield f"the broker times out {NAMES[number]}'s transaction", _fence(after, number)
            if worker.frozen:
                yield f"{NAMES[number]} wakes", _with(world, number, worker._replace(frozen=False))
                if world.broker.members[number]:
                    yield f"the group expels {NAMES[number]}", _put_out(world, number)
                continue
            if world.faults[FREEZE]:
                yield f"{NAMES[number]} freezes", _with(_use(world, FREEZE), number, worker._replace(frozen=True))
            yield from self._membership(world, number, worker)
            for text, after in self._publish(world, number, worker):
                yield f"{NAMES[number]} {text}", after

    def _rebalances(self, world: ProtocolState) -> Iterator[Step]:
        """A generation begins when every member has joined, which each does once it has lived through the last."""
        broker = world.broker
        members = [number for number, member in enumerate(broker.members) if member]
        if not members or not all(_settled(world, number) for number in members):
            return
        if NO_OWNER in broker.owners:
            yield from self._assignments(world, members, "gives what no member has")
        elif world.faults[REBALANCE]:
            yield from self._assignments(_use(world, REBALANCE), members, "rebalances")

    def _assignments(self, world: ProtocolState, members: list[int], what: str) -> Iterator[Step]:
        """Cooperative: a partition that moves has no owner for one generation."""
        owners = world.broker.owners
        keep = len(members) == 1 or NO_OWNER in owners
        choices = [members if owner == NO_OWNER else [owner] if keep else [owner, NO_OWNER] for owner in owners]
        for chosen in product(*choices):
            told = ", ".join("no member" if owner == NO_OWNER else NAMES[owner] for owner in chosen)
            yield f"the group {what}: {told}", _next_generation(world, chosen)

    def _membership(self, world: ProtocolState, number: int, worker: Worker) -> Iterator[Step]:
        """The client's I/O thread, and the poll thread."""
        broker, name = world.broker, NAMES[number]
        known = bool(worker.member) and broker.members[number] == worker.member
        if worker.callbacks:
            yield f"{name}'s callbacks run", _with(world, number, self._call_back(worker, number, broker))
            return
        if known and worker.generation != CURRENT:
            learnt = worker._replace(generation=CURRENT, callbacks=True)
            yield f"{name} learns of the new generation", _with(world, number, learnt)
            if worker.generation == OUTDATED:
                reset = worker._replace(generation=NO_GENERATION)
                yield (
                    f"{name} is told that its generation is over, and keeps its member id",
                    _with(world, number, reset),
                )
        if worker.member and not known:
            outsider = worker._replace(generation=NO_GENERATION, member=NO_MEMBER)
            yield f"{name} is told that it is no member, without a callback", _with(world, number, outsider)
            yield (
                f"{name} is told that it is no member, and loses its partitions",
                _with(world, number, _drop_all(outsider)),
            )
        if not worker.member and all(_settled(world, other) for other, member in enumerate(broker.members) if member):
            yield from self._join(world, number, worker)
        if known and worker.generation >= 0 and any(queue and self._outdated(queue, worker) for queue in worker.queues):
            yield f"{name}'s poll begins assignments anew", _with(world, number, self._renew(worker))
        for partition, offset in enumerate(worker.beside):
            if offset >= 0:
                yield (
                    f"{name} commits its position {offset} of partition {partition} beside the transactions",
                    self._commit_beside(world, number, worker, partition, offset),
                )
        if world.faults[LEAVE] and worker.phase == "idle" and number == 1 and broker.members[number]:
            left = _put_out(_use(world, LEAVE), number)
            yield f"{name} leaves the group and ends", _with(left, number, _drop_all(worker)._replace(gone=True))

    def _join(self, world: ProtocolState, number: int, worker: Worker) -> Iterator[Step]:
        broker = world.broker
        member = 1 + max(_ids(world, number))
        members = _put(broker.members, number, member)
        joined = world._replace(broker=broker._replace(members=members))
        for text, after in self._assignments(joined, [n for n, known in enumerate(members) if known], "has"):
            entered = worker._replace(generation=CURRENT, member=member, callbacks=True)
            yield f"{NAMES[number]} joins as member {member}; {text}", _with(after, number, entered)

    def _call_back(self, worker: Worker, number: int, broker: Broker) -> Worker:
        """Revoked and assigned by comparison with the client's partitions: kept ones get no callback."""
        for partition, owner in enumerate(broker.owners):
            held = worker.queues[partition] is not None
            if held and owner != number:
                worker = _end(worker, partition)
            elif owner == number and not held:
                worker = self._begin(worker, partition)
        return worker._replace(callbacks=False)

    def _outdated(self, queue: PartitionQueue, worker: Worker) -> bool:
        return queue.member not in (worker.member, NO_MEMBER)

    def _renew(self, worker: Worker) -> Worker:
        for partition, queue in enumerate(worker.queues):
            if queue is not None and self._outdated(queue, worker):
                worker = self._begin(_end(worker, partition), partition)
        return worker

    def _begin(self, worker: Worker, partition: int) -> Worker:
        queue = PartitionQueue(worker.member if self.rules.id_before_offset else NO_MEMBER)
        return worker._replace(queues=_put(worker.queues, partition, queue))

    def _commit_beside(
        self, world: ProtocolState, number: int, worker: Worker, partition: int, offset: int
    ) -> ProtocolState:
        broker = world.broker
        if worker.generation == CURRENT and worker.member == broker.members[number]:
            pending = tuple(
                open_ and open_._replace(offsets=_put(open_.offsets, partition, -1)) for open_ in broker.transactions
            )
            committed = _put(broker.committed, partition, offset)
            world = world._replace(broker=broker._replace(committed=committed, transactions=pending))
        return _with(world, number, worker._replace(beside=_put(worker.beside, partition, -1)))

    def _publish(self, world: ProtocolState, number: int, worker: Worker) -> Iterator[Step]:
        if worker.phase == "idle":
            yield from self._ask(world, number, worker)
            yield from self._send(world, number, worker)
        elif worker.phase == "asking":
            yield from self._answer(world, number, worker)
        elif worker.phase == "sent":
            yield from self._check(world, number, worker)
        elif worker.phase == "checked":
            yield from self._send_offsets(world, number, worker)
        elif worker.phase == "offsets sent":
            yield from self._commit(world, number, worker)
        elif worker.phase == "failed":
            yield from self._recover(world, number, worker)
        else:
            yield from self._reconcile(world, number, worker)

    def _ask(self, world: ProtocolState, number: int, worker: Worker) -> Iterator[Step]:
        """`committed`, first half: who are we? (Without the rule: the committed offset comes first.)"""
        for partition, queue in enumerate(worker.queues):
            if queue is None or queue.at != OPENING:
                continue
            if self.rules.id_before_offset:
                if worker.generation >= 0 and worker.member == queue.member:
                    asking = worker._replace(phase="asking", asked=(partition, queue.member, OPENING))
                    yield f"asks what is committed of partition {partition}", _with(world, number, asking)
                    return  # which of them is asked first changes nothing
            elif not self._pending(world, partition):
                offset = world.broker.committed[partition]
                asking = worker._replace(phase="asking", asked=(partition, NO_MEMBER, offset))
                yield f"is told that {offset} of partition {partition} is committed", _with(world, number, asking)

    def _answer(self, world: ProtocolState, number: int, worker: Worker) -> Iterator[Step]:
        """`committed`, second half; the poll thread opens the queue there, if its assignment is still the same."""
        partition, member, offset = worker.asked
        if self.rules.id_before_offset:
            if self._pending(world, partition):
                return
            offset = world.broker.committed[partition]
        elif worker.generation >= 0:
            member = worker.member
        else:
            return
        queue, idle = worker.queues[partition], worker._replace(phase="idle", asked=(0, 0, 0))
        if queue is not None and queue.at == OPENING and queue.member in (member, NO_MEMBER):
            idle = idle._replace(queues=_put(idle.queues, partition, PartitionQueue(member, offset)))
            if not self.rules.alone:
                idle = idle._replace(beside=_put(idle.beside, partition, offset))
        yield f"begins partition {partition} at {offset} as member {member}", _with(world, number, idle)

    def _send(self, world: ProtocolState, number: int, worker: Worker) -> Iterator[Step]:
        """Begin a transaction and send the outcomes of one record of each partition that takes part."""
        ready = [
            Item(partition, queue.at, queue.member)
            for partition, queue in enumerate(worker.queues)
            if queue is not None and OPENING < queue.at < self.size.records
        ]
        for wanted in product((True, False), repeat=len(ready)):
            items = tuple(item for item, want in zip(ready, wanted, strict=True) if want)
            if not items:
                continue
            told = ", ".join(f"{item.partition}:{item.offset}" for item in items)
            sent = worker._replace(phase="sent", run=items)
            if world.broker.fenced[number]:
                yield f"is fenced when it sends {told}", _with(world, number, _failed(sent))
                continue
            yield f"sends {told}", _with(_open(world, number, Transaction(items, self._none)), number, sent)
            if world.faults[EXPIRY]:
                expired = _open(_use(world, EXPIRY), number, Transaction(items[1:], self._none))
                after = _failed(sent) if self.rules.ask_futures else sent
                yield f"sends {told}, of which the first expires", _with(expired, number, after)

    def _check(self, world: ProtocolState, number: int, worker: Worker) -> Iterator[Step]:
        """The membership is read now, and compared with every assignment of the transaction."""
        rules, refused = self.rules, False
        if rules.generation and (worker.generation < 0 or not worker.member):
            refused = True
        if rules.member and any(item.member != worker.member for item in worker.run):
            refused = True
        if rules.ended and any(item.ended for item in worker.run):
            refused = True
        if refused:
            yield "refuses to commit", _with(world, number, _failed(worker))
        else:
            checked = worker._replace(phase="checked", metadata=(worker.generation, worker.member))
            yield "reads its membership", _with(world, number, checked)

    def _send_offsets(self, world: ProtocolState, number: int, worker: Worker) -> Iterator[Step]:
        broker, (generation, member) = world.broker, worker.metadata
        offsets = worker.leftover
        for item in worker.run:
            offsets = _put(offsets, item.partition, item.offset + 1)
        failed = _failed(worker)
        transaction = broker.transactions[number]
        if broker.fenced[number] or transaction is None:
            yield "is fenced when it sends offsets", _with(world, number, failed)
            return
        unchecked = generation < 0 and (not member or not any(broker.members))
        if not unchecked and (generation != CURRENT or member != broker.members[number]):
            if not self.rules.fresh_producer:
                failed = failed._replace(leftover=offsets)
            yield "has its offsets refused", _with(world, number, failed)
            return
        after = _open(world, number, transaction._replace(offsets=offsets))
        told = failed._replace(phase="offsets sent", run=worker.run, leftover=self._none)
        yield "has its offsets taken", _with(after, number, told)

    def _commit(self, world: ProtocolState, number: int, worker: Worker) -> Iterator[Step]:
        failed = _with(world, number, _failed(worker))
        if world.broker.fenced[number]:
            yield "is fenced when it commits", failed
            return
        committed = self._apply(world, number)
        done = worker._replace(phase="idle", run=())
        for item in worker.run:
            if not item.ended:
                done = done._replace(
                    queues=_put(done.queues, item.partition, PartitionQueue(item.member, item.offset + 1))
                )
        yield "commits", _with(committed, number, done)
        if world.faults[UNKNOWN]:
            yield "does not hear whether its commit happened: it did not", _use(failed, UNKNOWN)
            unheard = _with(_use(committed, UNKNOWN), number, _failed(worker))
            yield "does not hear whether its commit happened: it did", unheard

    def _apply(self, world: ProtocolState, number: int) -> ProtocolState:
        """The transaction's records and offsets are there for everyone. What must never be is noted."""
        broker, wrong = world.broker, world.wrong
        transaction = broker.transactions[number]
        assert transaction is not None
        visible, committed = list(broker.visible), list(broker.committed)
        for item in transaction.items:
            if item.offset < visible[item.partition]:
                wrong = f"partition {item.partition}: record {item.offset} is published twice"
            elif item.offset > visible[item.partition]:
                wrong = f"partition {item.partition}: record {item.offset} comes before those in front of it"
            visible[item.partition] = item.offset + 1
        for partition, offset in enumerate(transaction.offsets):
            if offset >= 0:
                committed[partition] = offset
                if offset > visible[partition]:
                    wrong = f"partition {partition}: record {visible[partition]} is lost"
        after = broker._replace(
            visible=tuple(visible), committed=tuple(committed), transactions=_put(broker.transactions, number, None)
        )
        return world._replace(broker=after, wrong=wrong)

    def _recover(self, world: ProtocolState, number: int, worker: Worker) -> Iterator[Step]:
        """Another producer under the same id: the old one's open transaction is aborted first."""
        broker = world.broker
        fenced = broker._replace(
            transactions=_put(broker.transactions, number, None), fenced=_put(broker.fenced, number, False)
        )
        leftover = self._none if self.rules.fresh_producer or broker.fenced[number] else worker.leftover
        phase = "reconcile 0" if self.rules.trust_committed else "idle"
        after = worker._replace(phase=phase, run=(), leftover=leftover)
        yield "takes its transactional id again", _with(world._replace(broker=fenced), number, after)

    def _reconcile(self, world: ProtocolState, number: int, worker: Worker) -> Iterator[Step]:
        """One partition after the other: committed records are done; a foreign offset ends the assignment."""
        partition = int(worker.phase.split()[1])
        further = "idle" if partition + 1 == self.size.partitions else f"reconcile {partition + 1}"
        queue, after = worker.queues[partition], worker._replace(phase=further)
        if queue is None or queue.at == OPENING:
            yield f"has nothing of partition {partition}", _with(world, number, after)
        elif worker.generation >= 0 and worker.member == queue.member and not self._pending(world, partition):
            offset = world.broker.committed[partition]
            if offset < queue.at:
                after = self._begin(_end(after, partition), partition)
            else:
                after = after._replace(queues=_put(after.queues, partition, PartitionQueue(queue.member, offset)))
            yield f"goes on with partition {partition} at {offset}", _with(world, number, after)

    def _pending(self, world: ProtocolState, partition: int) -> bool:
        if not self.rules.wait_for_pending:
            return False
        return any(open_ is not None and open_.offsets[partition] >= 0 for open_ in world.broker.transactions)


def _settled(world: ProtocolState, number: int) -> bool:
    """Has this member lived through the group's present generation, and can it join the next?"""
    worker, broker = world.workers[number], world.broker
    current = worker.generation == CURRENT and worker.member == broker.members[number]
    return current and not worker.frozen and not worker.callbacks


def _next_generation(world: ProtocolState, owners: tuple[int, ...]) -> ProtocolState:
    """From now on, all knowledge of clients about the group belongs to the last generation."""
    workers = tuple(
        worker._replace(
            generation=min(worker.generation, OUTDATED),
            metadata=(min(worker.metadata[0], OUTDATED), worker.metadata[1]),
        )
        for worker in world.workers
    )
    return world._replace(workers=workers, broker=world.broker._replace(owners=owners))


def _ids(world: ProtocolState, number: int) -> tuple[int, ...]:
    """Every member id of this worker that any client still knows."""
    worker = world.workers[number]
    queues = [queue.member for queue in worker.queues if queue is not None]
    in_hand = (worker.metadata[1], worker.asked[1], *(item.member for item in worker.run))
    return (world.broker.members[number], worker.member, *queues, *in_hand)


def _renumbered(world: ProtocolState) -> ProtocolState:
    """Worlds that differ only in the numbers of their member ids are equal."""
    workers, members = list(world.workers), list(world.broker.members)
    for number, worker in enumerate(workers):
        names = {NO_MEMBER: NO_MEMBER}
        for member in _ids(world, number):
            names.setdefault(member, len(names))
        if all(old == new for old, new in names.items()):
            continue
        members[number] = names[members[number]]
        workers[number] = worker._replace(
            member=names[worker.member],
            queues=tuple(queue and queue._replace(member=names[queue.member]) for queue in worker.queues),
            run=tuple(item._replace(member=names[item.member]) for item in worker.run),
            metadata=(worker.metadata[0], names[worker.metadata[1]]),
            asked=(worker.asked[0], names[worker.asked[1]], worker.asked[2]),
        )
    return world._replace(workers=tuple(workers), broker=world.broker._replace(members=tuple(members)))


def _put_out(world: ProtocolState, number: int) -> ProtocolState:
    owners = tuple(NO_OWNER if owner == number else owner for owner in world.broker.owners)
    members = _put(world.broker.members, number, NO_MEMBER)
    return world._replace(broker=world.broker._replace(members=members, owners=owners))


def _fence(world: ProtocolState, number: int) -> ProtocolState:
    broker = world.broker
    return world._replace(
        broker=broker._replace(
            transactions=_put(broker.transactions, number, None), fenced=_put(broker.fenced, number, True)
        )
    )


def _open(world: ProtocolState, number: int, transaction: Transaction) -> ProtocolState:
    transactions = _put(world.broker.transactions, number, transaction)
    return world._replace(broker=world.broker._replace(transactions=transactions))


def _end(worker: Worker, partition: int) -> Worker:
    run = tuple(item._replace(ended=True) if item.partition == partition else item for item in worker.run)
    return worker._replace(
        run=run, queues=_put(worker.queues, partition, None), beside=_put(worker.beside, partition, -1)
    )


def _failed(worker: Worker) -> Worker:
    return worker._replace(phase="failed", run=(), metadata=(NO_GENERATION, NO_MEMBER))


def _drop_all(worker: Worker) -> Worker:
    for partition in range(len(worker.queues)):
        worker = _end(worker, partition)
    return worker


def _with(world: ProtocolState, number: int, worker: Worker) -> ProtocolState:
    return world._replace(workers=_put(world.workers, number, worker))


def _use(world: ProtocolState, fault: int) -> ProtocolState:
    return world._replace(faults=_put(world.faults, fault, world.faults[fault] - 1))


def _put(items: tuple[T, ...], place: int, item: T) -> tuple[T, ...]:
    return (*items[:place], item, *items[place + 1 :])
