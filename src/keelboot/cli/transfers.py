"""What push, pull and copy have in common: their options, and what they print."""

import argparse
import time
from typing import TYPE_CHECKING

from keelboot.cli.terminal import Terminal

if TYPE_CHECKING:
    from collections.abc import Callable, Mapping

    from keelboot.image.reference import Reference
    from keelboot.registry.opening import Registries
    from keelboot.transfer.copying import Copied, Moved

SOURCES = "containers-storage:NAME, oci:DIR, oci-archive:FILE, docker-archive:FILE, docker://NAME"
DESTINATIONS = (
    "docker://NAME, oci:DIR[:NAME], oci-archive:FILE[:NAME], docker-archive:FILE[:NAME], containers-storage:NAME"
)


def add_options(parser: argparse.ArgumentParser) -> None:
    """Declare the options that all three have."""
    which = parser.add_mutually_exclusive_group()
    which.add_argument("--arch", metavar="ARCH", help="the image for amd64, arm64, ... (default: this machine's)")
    which.add_argument("--all", action="store_true", help="an index as it is, with the images for all architectures")
    parser.add_argument("--jobs", metavar="N", type=_jobs, default=4, help="blobs at once (default: 4)")
    parser.add_argument(
        "--limit-rate",
        metavar="RATE",
        help="bytes a second from and to registries, like 500K or 2M (default: $KEELBOOT_LIMIT_RATE, or none)",
    )
    parser.add_argument("--dry-run", action="store_true", help="only tell what would be sent")


def _jobs(text: str) -> int:
    number = int(text)
    if not 1 <= number <= 32:
        raise ValueError(text)
    return number


def execute(
    source: "Reference",
    destination: "Reference",
    arguments: argparse.Namespace,
    terminal: Terminal,
    sign: "Callable[[Registries, Copied], Mapping[str, object]] | None" = None,
) -> int:
    """Copy, and say what came of it; SIGN is done after that, and tells what came of it."""
    from keelboot.cli import registries, surroundings
    from keelboot.registry.outcome import How
    from keelboot.transfer.copying import Wishes, copy
    from keelboot.transfer.known import Known

    wishes = Wishes(
        architecture=arguments.arch,
        whole=arguments.all,
        jobs=arguments.jobs,
        dry_run=arguments.dry_run,
        replace=getattr(arguments, "force", False),
        attached=getattr(arguments, "attached", False),
        scratch=surroundings.scratch(),
    )
    known = Known(surroundings.cache() / "transfers.json")
    started = time.monotonic()
    through = registries.registries(limit_rate=arguments.limit_rate)
    copied = copy(source, destination, through, wishes, known=known, progress=terminal.progress)
    try:
        signed = sign(through, copied) if sign and not arguments.dry_run else None
    finally:
        through.close()
    seconds = round(time.monotonic() - started, 2)
    if terminal.json_wanted:
        ends = {"source": str(source), "destination": str(destination)}
        more = {} if signed is None else {"signed": signed}
        terminal.json(ends | _copied(copied) | {"seconds": seconds, "dryRun": arguments.dry_run} | more)
        return 0
    if arguments.dry_run:
        for one in copied.blobs:
            if one.how is not How.THERE:
                terminal.out(_planned(one))
    terminal.out(f"{'would copy' if arguments.dry_run else 'copied'} {destination}")
    terminal.out(f"digest {copied.digest or 'not known before its layers are compressed'}")
    counts = {how: [one for one in copied.blobs if one.how is how] for how in How}
    parts = [
        f"{len(counts[how])} {word} ({copied.bytes(how) / 1e6:.1f} MB)"
        for how, word in ((How.SENT, "sent"), (How.MOUNTED, "mounted"), (How.THERE, "there already"))
        if counts[how]
    ]
    if copied.attached:
        parts.append(f"{copied.attached} attached documents")
    terminal.out(f"{', '.join(parts)}, in {seconds} s")
    if signed is not None:
        terminal.out(f"signed as {signed['name']} by {signed['key']}")
    return 0


def _planned(one: "Moved") -> str:
    if one.digest is None:
        return f"{one.how} {one.kind} {one.content}, compressed"
    return f"{one.how} {one.kind} {one.digest} {one.size}"


def _copied(copied: "Copied") -> dict[str, object]:
    from keelboot.registry.outcome import How

    return {
        "digest": str(copied.digest) if copied.digest else None,
        "mediaType": copied.media_type,
        "images": copied.images,
        "attached": copied.attached,
        "bytesSent": copied.bytes(How.SENT),
        "bytesMounted": copied.bytes(How.MOUNTED),
        "bytesThere": copied.bytes(How.THERE),
        "blobs": [
            {
                "kind": one.kind,
                "digest": str(one.digest) if one.digest else None,
                "size": one.size,
                "how": str(one.how),
                "diffId": str(one.content) if one.content else None,
            }
            for one in copied.blobs
        ],
    }
