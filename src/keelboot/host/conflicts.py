"""What this machine changed in /etc, and a new version changes too: told, or a reason not to stage it."""

from keelboot.failure import EtcConflict
from keelboot.host import etc, stage
from keelboot.host.stage import Candidate
from keelboot.host.sysroot import Sysroot
from keelboot.image.tree import ObjectId


def judge(sysroot: Sysroot, booted: ObjectId, candidate: Candidate) -> tuple[tuple[str, ...], tuple[str, ...]]:
    """Files in /etc that this machine and the new image both changed, and remarks. Raises EtcConflict."""
    upper, repository = sysroot.deployment(booted) / "etc/upper", candidate.repository
    if not upper.is_dir():
        return (), ()
    found = etc.preflight(
        stage.tree_of(repository, booted),
        upper,
        candidate.tree,
        lambda node: stage.small_file(repository.objects, node),
    )
    if found.conflicts:
        raise EtcConflict(
            f"cannot stage {candidate.system.image}",
            why="Merge conflicts found in etc: a file on one side is a directory on the other: "
            + _shown([f"/etc/{path}" for path in found.conflicts]),
            fix="Move what this machine has there out of the way, or take the image's: `keelboot etc reset PATH`.",
        )
    remarks = (
        (
            "Users or groups have other numbers on this machine than in the image, which has files of theirs: "
            + _shown(list(found.foreign)),
        )
        if found.foreign
        else ()
    )
    return found.both, remarks


def _shown(paths: list[str]) -> str:
    return ", ".join(paths[:5]) + (f" and {len(paths) - 5} more" if len(paths) > 5 else "")
