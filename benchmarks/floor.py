"""The floor: what no reader of these layers can undercut. A program of its own, started like those it is compared with.

    read - gunzip (igzip) - hash (DiffID) - write         "stream": one file for each layer
       `- hash (blob)            `- hash in blocks of 4 KiB and write one file for each content     "objects"

Each stage is a thread of library calls that let go of the interpreter's lock, and the bytes of many contents pass with
one call, so that the interpreter adds next to nothing: 450 calls for each stage of "stream". Nothing is parsed:
"objects" is told beforehand where each content lies, and which are contents that are there already. Both end with the
same barrier that a store needs, since a pull that is not durable is no pull.

usage: floor.py stream|objects DIRECTORY PLAN, where PLAN is JSON: [[BLOB, [[POSITION, SIZE, is new], ...]], ...]
"""

import hashlib
import json
import os
import queue
import sys
import threading
from collections.abc import Callable, Iterator
from pathlib import Path

from isal import igzip_lib

from keelboot import durable

_READ = 256 << 10
_BLOCK = 1 << 20
_VERITY = 4096
_AHEAD = 8
_OPEN = os.O_WRONLY | os.O_CREAT | os.O_EXCL


def main(kind: str, directory: Path, plan: Path) -> None:
    """Read all layers of PLAN into DIRECTORY."""
    directory.mkdir()
    fd = os.open(directory, os.O_RDONLY | os.O_DIRECTORY)
    write: Callable[..., None] = _write_objects if kind == "objects" else _write_stream
    if kind == "objects":
        for number in range(256):
            os.mkdir(f"{number:02x}", dir_fd=fd)
    to_hash: queue.Queue[bytes | None] = queue.Queue(_AHEAD)
    to_write: queue.Queue[bytes | None] = queue.Queue(_AHEAD)
    layers = json.loads(plan.read_bytes())
    stages = [
        threading.Thread(target=_hash, args=(to_hash, len(layers))),
        threading.Thread(target=write, args=(to_write, layers, fd)),
    ]
    for stage in stages:
        stage.start()
    for blob, _ in layers:
        for block in _expanded(blob):
            to_hash.put(block)
            to_write.put(block)
        to_hash.put(None)
        to_write.put(None)
    for stage in stages:
        stage.join()
    durable.sync_filesystem(fd)


def _expanded(blob: str) -> Iterator[bytes]:
    """The bytes of the one gzip member in BLOB, while BLOB itself is hashed."""
    member = igzip_lib.IgzipDecompressor(flag=igzip_lib.DECOMP_GZIP)
    digest = hashlib.sha256()
    with open(blob, "rb", buffering=0) as file:
        while data := file.read(_READ):
            digest.update(data)
            while not member.eof:
                yield member.decompress(data, _BLOCK)
                data = b""
                if member.needs_input:
                    break
    digest.hexdigest()


def _taken(blocks: "queue.Queue[bytes | None]") -> Iterator[bytes]:
    while (block := blocks.get()) is not None:
        yield block


def _hash(blocks: "queue.Queue[bytes | None]", layers: int) -> None:
    for _ in range(layers):
        digest = hashlib.sha256()
        for block in _taken(blocks):
            digest.update(block)
        digest.hexdigest()


def _write_stream(blocks: "queue.Queue[bytes | None]", layers: list[tuple[str, list[object]]], directory: int) -> None:
    for number in range(len(layers)):
        fd = os.open(str(number), _OPEN, 0o644, dir_fd=directory)
        for block in _taken(blocks):
            os.write(fd, block)
        os.close(fd)


def _write_objects(
    blocks: "queue.Queue[bytes | None]", layers: list[tuple[str, list[tuple[int, int, bool]]]], directory: int
) -> None:
    written = 0
    new = hashlib.sha256
    for _, contents in layers:
        stream = _taken(blocks)
        block, start = memoryview(b""), 0
        for position, size, is_new in contents:
            fd = -1
            if is_new:
                fd = os.open(f"{written & 255:02x}/{written}", _OPEN, 0o644, dir_fd=directory)
                written += 1
            at, end = position, position + size
            while at < end:
                if at >= start + len(block):
                    start += len(block)
                    block = memoryview(next(stream))
                    continue
                part = block[at - start : end - start]
                b"".join([new(part[done : done + _VERITY]).digest() for done in range(0, len(part), _VERITY)])
                if is_new:
                    os.write(fd, part)
                at += len(part)
            if is_new:
                os.close(fd)
        for _ in stream:
            pass


if __name__ == "__main__":
    main(sys.argv[1], Path(sys.argv[2]), Path(sys.argv[3]))
