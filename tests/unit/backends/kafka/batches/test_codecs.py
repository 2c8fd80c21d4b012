"""Decompression stops at the limit, whatever size the data announces."""

import gzip
import multiprocessing
import multiprocessing.connection
import os
import resource
from collections.abc import Callable
from contextlib import suppress

import lz4.frame
import pytest
import zstandard

from tests.support.growth import LINEAR, growth
from workers.backends.kafka.batches.codecs import Malformed, TooLarge, decompress

MIB = 1 << 20
LIMIT = 32 * MIB
GZIP, SNAPPY, LZ4, ZSTD = 1, 2, 3, 4
XERIAL = b"\x82SNAPPY\x00" + bytes(3) + b"\x01" + bytes(3) + b"\x01"


def snappy_of_literals(content: bytes, size: int | None = None) -> bytes:
    size = len(content) if size is None else size
    out = bytearray()
    while size > 0x7F:
        out.append(0x80 | size & 0x7F)
        size >>= 7
    out.append(size)
    for start in range(0, len(content), 60):
        part = content[start : start + 60]
        out += bytes([(len(part) - 1) << 2]) + part
    return bytes(out)


def xerial(*blocks: bytes) -> bytes:
    return XERIAL + b"".join(len(block).to_bytes(4, "big") + block for block in blocks)


def gzip_of_zeros(mib: int) -> bytes:
    return gzip.compress(bytes(MIB)) * mib


def zstd_of_zeros(mib: int) -> bytes:
    compressor = zstandard.ZstdCompressor().compressobj()
    return b"".join([*(compressor.compress(bytes(MIB)) for _ in range(mib)), compressor.flush()])


def lz4_of_zeros(mib: int) -> bytes:
    compressor = lz4.frame.LZ4FrameCompressor(block_linked=False)
    parts = [compressor.begin(), *(compressor.compress(bytes(MIB)) for _ in range(mib)), compressor.flush()]
    return b"".join(parts)


def snappy_of_zeros(mib: int) -> bytes:
    block = bytes([0x80, 0x80, 0x40, 0, 0]) + b"\xfe\x01\x00" * (MIB // 64 - 1) + bytes([62 << 2 | 2, 1, 0])
    return xerial(*[block] * mib)


ZEROS = {GZIP: gzip_of_zeros, SNAPPY: snappy_of_zeros, LZ4: lz4_of_zeros, ZSTD: zstd_of_zeros}
WRITERS: dict[int, Callable[[bytes], bytes]] = {
    GZIP: gzip.compress,
    SNAPPY: lambda content: xerial(snappy_of_literals(content[:50_000]), snappy_of_literals(content[50_000:])),
    LZ4: lz4.frame.compress,
    ZSTD: zstandard.ZstdCompressor().compress,
}


@pytest.mark.parametrize("codec", WRITERS)
def test_decompressed_data_comes_out_up_to_the_limit_and_one_byte_more_does_not(codec: int) -> None:
    content = os.urandom(60_000) + b"tags " * 10_000
    packed = WRITERS[codec](content)
    assert decompress(codec, packed, len(content)) == content
    with pytest.raises(TooLarge):
        decompress(codec, packed, len(content) - 1)


def test_uncompressed_data_stays_unchanged() -> None:
    assert decompress(0, b"plain", 0) == b"plain"


@pytest.mark.parametrize("codec", WRITERS)
@pytest.mark.parametrize("spoil", [lambda data: os.urandom(200), lambda data: b"\xff" * 20, lambda data: data[:-30]])
def test_what_does_not_open_is_said_and_never_raises_a_librarys_own_error(
    codec: int, spoil: Callable[[bytes], bytes]
) -> None:
    content = os.urandom(100_000)
    # Truncated data may decompress as far as it goes.
    with suppress(Malformed, TooLarge):
        assert decompress(codec, spoil(WRITERS[codec](content)), LIMIT) != content


@pytest.mark.slow
@pytest.mark.parametrize("codec", WRITERS)
def test_content_in_very_many_pieces_opens_in_linear_time(codec: int) -> None:
    """Members, frames or blocks of no bytes behind the content; of lz4's frames the first alone is read."""
    content, empty = WRITERS[codec](b"tags"), WRITERS[codec](b"")
    if codec == SNAPPY:
        content, empty = xerial(snappy_of_literals(b"tags")), xerial(snappy_of_literals(b""))[len(XERIAL) :]

    def opened(pieces: int) -> bytes | bytearray:
        return decompress(codec, content + empty * pieces, LIMIT)

    assert opened(3) == b"tags"
    assert growth(lambda: opened(40_000), lambda: opened(80_000)) < LINEAR


@pytest.mark.parametrize("codec", [5, 6, 7])
def test_a_codec_that_does_not_exist_is_named(codec: int) -> None:
    with pytest.raises(Malformed, match=f"codec {codec}"):
        decompress(codec, b"data", LIMIT)


def test_every_element_of_snappy_is_read() -> None:
    # A literal; six bytes back, four of them; three back and longer than that; the four-byte form; a long literal.
    elements = [
        bytes([5 << 2]) + b"abcdef",
        bytes([1, 6]),
        bytes([2 | 8 << 2, 3, 0]),
        bytes([3 | 4 << 2, 10, 0, 0, 0]),
        bytes([60 << 2, 69]) + b"z" * 70,
    ]
    text = b"abcdef" + b"abcd" + b"bcdbcdbcd"
    text += text[-10:][:5] + b"z" * 70
    assert decompress(SNAPPY, bytes([len(text)]) + b"".join(elements), LIMIT) == text


@pytest.mark.parametrize(
    "block",
    [
        pytest.param(bytes([200, 1, 0, 97]), id="less than announced"),
        pytest.param(bytes([1, 4, 97, 98]), id="more than announced"),
        pytest.param(bytes([8, 0, 97, 1, 9]), id="a copy from before the beginning"),
        pytest.param(bytes([8, 0, 97, 2, 0, 0]), id="a copy of nothing"),
        pytest.param(bytes([0xFF] * 8), id="a size without an end"),
        pytest.param(bytes([100, 63 << 2, 255, 255, 255, 255]), id="a literal of four gigabytes"),
        pytest.param(XERIAL + (1 << 30).to_bytes(4, "big") + b"x", id="a block of a gigabyte"),
        pytest.param(XERIAL + (0).to_bytes(4, "big") * 2, id="empty blocks"),
    ],
)
def test_a_snappy_block_that_lies_is_malformed(block: bytes) -> None:
    with pytest.raises(Malformed, match="does not decompress as snappy"):
        decompress(SNAPPY, block, LIMIT)


def test_a_snappy_block_that_announces_more_than_is_allowed_is_not_begun() -> None:
    with pytest.raises(TooLarge):
        decompress(SNAPPY, snappy_of_literals(b"a", 4_000_000_000), LIMIT)


def test_a_zstd_frame_that_announces_four_terabytes_takes_only_its_real_size() -> None:
    header = b"\x28\xb5\x2f\xfd" + bytes([0b1110_0000]) + (1 << 42).to_bytes(8, "little")
    with pytest.raises((Malformed, TooLarge)):
        decompress(ZSTD, header + b"\x01\x00\x00", LIMIT)


def _grown(codec: int, data: bytes, grown: multiprocessing.connection.Connection) -> None:
    before = resource.getrusage(resource.RUSAGE_SELF).ru_maxrss
    try:
        decompress(codec, data, LIMIT)
        grown.send(-1)
    except TooLarge:
        grown.send((resource.getrusage(resource.RUSAGE_SELF).ru_maxrss - before) * 1024)


@pytest.mark.slow
@pytest.mark.parametrize("codec", ZEROS)
def test_400_megabytes_of_zeros_take_at_most_twice_the_limit(codec: int) -> None:
    """Guard: kafka-python's own reader opens them whole. Twice, where what grows has to be moved."""
    ours, theirs = multiprocessing.Pipe()
    child = multiprocessing.get_context("fork").Process(target=_grown, args=(codec, ZEROS[codec](400), theirs))
    child.start()
    grown = ours.recv()
    child.join()
    assert 0 <= grown < 2 * LIMIT + 16 * MIB
