"""Three brokers that hold everything three times, as where the promise matters: any one of them may die."""

from pathlib import Path

from kafka.admin import KafkaAdminClient

from tagstream_testing.local.apache_kafka import ApacheKafka
from tagstream_testing.local.ports import free_ports
from tests.support.waiting import eventually

NODES = 3
SESSION_S = 5.0
"""How long a dead node stays leader."""

_REPLICATED = {
    "default.replication.factor": "3",
    "min.insync.replicas": "2",
    "offsets.topic.replication.factor": "3",
    "offsets.topic.num.partitions": "3",
    "transaction.state.log.replication.factor": "3",
    "transaction.state.log.min.isr": "2",
    "transaction.state.log.num.partitions": "3",
    "broker.session.timeout.ms": f"{SESSION_S * 1000:.0f}",
}


class Node(ApacheKafka):
    ready_within_s = 90.0  # the first of them waits for a second

    def __init__(self, folder: Path, number: int, all_ports: list[list[int]]) -> None:
        super().__init__(folder)
        self._number = number
        self._all_ports = all_ports
        self.ports = all_ports[number - 1]

    @property
    def servers(self) -> str:
        return ",".join(f"127.0.0.1:{clients}" for clients, _ in self._all_ports)

    def _properties(self) -> dict[str, str]:
        voters = enumerate((controller for _, controller in self._all_ports), 1)
        return (
            super()._properties()
            | _REPLICATED
            | {
                "node.id": str(self._number),
                "controller.quorum.voters": ",".join(f"{number}@127.0.0.1:{port}" for number, port in voters),
            }
        )


class Cluster:
    def __init__(self, folder: Path) -> None:
        ports = free_ports(2 * NODES)
        pairs = [ports[2 * number : 2 * number + 2] for number in range(NODES)]
        self.nodes = [
            Node(folder.with_name(f"{folder.name}-{number}"), number, pairs) for number in range(1, NODES + 1)
        ]

    @property
    def servers(self) -> str:
        return self.nodes[0].servers

    def start(self) -> None:
        """
        Raises:
            CannotStart: see `Server.start`.
        """
        for node in self.nodes:
            node.launch()
        for node in self.nodes:
            node.wait()

    def kill(self) -> None:
        for node in self.nodes:
            node.kill()

    def restore(self) -> None:
        """Bring back whichever node was struck."""
        for node in self.nodes:
            node.thaw()
            if not node.running:
                node.start()

    def whole(self, *topics: str) -> None:
        """Until every node is up and has caught up with the leaders of these topics and of the cluster's own."""
        admin = KafkaAdminClient(bootstrap_servers=self.servers)

        def caught_up() -> bool:
            if len(admin.describe_cluster()["brokers"]) < NODES:
                return False
            known = [topic for topic in ("__consumer_offsets", "__transaction_state") if topic in admin.list_topics()]
            return all(
                len(partition["isr_nodes"]) == NODES
                for topic in admin.describe_topics([*topics, *known])
                for partition in topic["partitions"]
            )

        try:
            eventually(caught_up, 60)
        finally:
            admin.close()
