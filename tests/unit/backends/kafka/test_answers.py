"""An answer that is broken ends its connection, is asked for again, and is never taken for another one."""

from __future__ import annotations

import logging
from typing import Any

import kafka
import pytest
from kafka.protocol.consumer import (
    FetchRequest,
    FetchResponse,
    ListOffsetsRequest,
    ListOffsetsResponse,
    OffsetFetchRequest,
    OffsetFetchResponse,
)
from kafka.protocol.metadata import ApiVersionsRequest, ApiVersionsResponse
from kafka.protocol.parser import KafkaProtocol

from tests.support.loopback import loopback
from workers.backends.kafka.answers import BrokenAnswer
from workers.backends.kafka.client import connect, passing, translated
from workers.errors import Unavailable

_Listed = ListOffsetsResponse.ListOffsetsTopicResponse
_Fetched = FetchResponse.FetchableTopicResponse
_Group = OffsetFetchResponse.OffsetFetchResponseGroup
_Committed = OffsetFetchResponse.OffsetFetchResponseTopic


def listed(version: int) -> tuple[Any, Any]:
    partition = _Listed.ListOffsetsPartitionResponse(
        partition_index=0, error_code=0, timestamp=-1, offset=2**40, leader_epoch=3
    )
    topics = [_Listed(name="images", partitions=[partition])]
    return ListOffsetsRequest(version=version), ListOffsetsResponse(version=version, topics=topics)


def fetched(version: int) -> tuple[Any, Any]:
    partition = _Fetched.PartitionData(
        partition_index=0, error_code=0, high_watermark=9, last_stable_offset=9, log_start_offset=0,
        aborted_transactions=[], preferred_read_replica=-1, records=bytes(range(90)),
    )  # fmt: skip
    topics = [_Fetched(topic="images", partitions=[partition])]
    return FetchRequest(version=version), FetchResponse(version=version, responses=topics)


def committed(version: int) -> tuple[Any, Any]:
    fields = {"partition_index": 0, "committed_offset": 2**40, "committed_leader_epoch": 3, "metadata": "note"}
    if version < 8:
        partitions = [_Committed.OffsetFetchResponsePartition(**fields, error_code=0)]
        topics = [_Committed(name="images", partitions=partitions)]
        return OffsetFetchRequest(version=version), OffsetFetchResponse(version=version, topics=topics)
    partitions = [_Group.OffsetFetchResponseTopics.OffsetFetchResponsePartitions(**fields, error_code=0)]
    topics = [_Group.OffsetFetchResponseTopics(name="images", partitions=partitions)]
    groups = [_Group(group_id="us", topics=topics, error_code=0)]
    return OffsetFetchRequest(version=version), OffsetFetchResponse(version=version, groups=groups)


def versions(version: int) -> tuple[Any, Any]:
    keys = [ApiVersionsResponse.ApiVersion(api_key=key, min_version=0, max_version=9) for key in range(5)]
    return ApiVersionsRequest(version=version), ApiVersionsResponse(version=version, error_code=0, api_keys=keys)


def framed(body: bytes) -> bytes:
    return len(body).to_bytes(4, "big") + body


def asking(request: Any) -> KafkaProtocol:
    """Waits for the answer to number 1."""
    protocol = KafkaProtocol()
    protocol.send_request(request)
    return protocol


@pytest.mark.parametrize(
    ("kind", "version"),
    [
        (listed, 2),
        (listed, 7),
        (fetched, 4),
        (fetched, 11),
        (fetched, 12),
        (committed, 5),
        (committed, 8),
        (versions, 0),
    ],
)
def test_an_answer_ends_where_its_fields_do(kind: Any, version: int) -> None:
    """Guard: without, what is left of a fetch that was cut off is taken for all of it."""
    request, response = kind(version)
    response.with_header(correlation_id=1)
    whole = response.encode(header=True)
    [(number, read)] = asking(request).receive_bytes(framed(whole))
    read.with_header(correlation_id=number)
    assert read.encode(header=True) == whole
    for end in range(len(whole)):
        with pytest.raises(BrokenAnswer):
            asking(kind(version)[0]).receive_bytes(framed(whole[:end]))
    with pytest.raises(BrokenAnswer, match="of which its fields take"):
        asking(kind(version)[0]).receive_bytes(framed(whole + b"\0"))


@pytest.mark.parametrize(
    "data",
    [
        pytest.param((2**31 - 1).to_bytes(4, "big"), id="two gigabytes"),
        pytest.param(b"\xff\xff\xff\xf9", id="a negative length"),
        pytest.param(framed(b""), id="empty"),
        pytest.param(framed(bytes(3) + b"\x02" + bytes(40)), id="another number"),
        pytest.param(b"HTTP/1.1 400 Bad Request\r\n\r\n", id="another protocol"),
    ],
)
def test_what_is_no_answer_is_as_if_the_broker_had_hung_up(data: bytes) -> None:
    """Guard: kafka-python gives a transaction up for ever because of an answer that is too long or not its own."""
    with pytest.raises(BrokenAnswer) as told:
        asking(listed(7)[0]).receive_bytes(data)
    assert passing(told.value)
    assert told.value.invalid_metadata
    assert type(translated("reading images", told.value)) is Unavailable


def test_a_second_answer_to_one_question_is_none() -> None:
    request, response = listed(7)
    response.with_header(correlation_id=1)
    protocol = asking(request)
    protocol.receive_bytes(framed(response.encode(header=True)))
    with pytest.raises(BrokenAnswer, match="No in-flight-request"):
        protocol.receive_bytes(framed(response.encode(header=True)))


@pytest.mark.slow
@pytest.mark.parametrize("behind_number", [b"", b"\0\0\x7fsecret"])
def test_a_broken_answer_ends_its_connection_at_once_and_is_not_printed(
    behind_number: bytes, caplog: pytest.LogCaptureFixture
) -> None:
    """Guard: the client went on waiting on a connection that was read no more."""
    caplog.set_level(logging.DEBUG, "kafka.protocol")
    with (
        loopback(lambda connection, asked: connection.sendall(framed(asked[8:12] + behind_number))) as server,
        pytest.raises(Unavailable, match="none of"),
    ):
        connect(kafka.KafkaConsumer, f"127.0.0.1:{server.port}", {}, timeout_s=1)
    assert server.accepted > 1
    assert "secret" not in caplog.text
