"""A package imports only packages before it, and a pure module imports no door to the outside.

The two tables place every module of the package. One that is in neither fails: a new module has to be placed.
"""

import ast
from collections.abc import Iterator
from pathlib import Path

import pytest

PACKAGE = Path(__file__).resolve().parents[2] / "src/keelboot"

# In order. What stands in one row has the same rank: these do not import one another.
ORDER = (
    ("", "failure", "progress"),
    ("command", "durable"),
    ("image",),
    ("composefs",),
    ("store",),
    ("build",),
    ("lint", "report", "sbom", "registry", "disk", "boot"),
    ("trust",),
    ("transfer",),
    ("assembly",),
    ("host",),
    ("fleet",),
    ("vm",),
    ("cli",),
    ("initramfs",),  # data only
)
RANK = {package: rank for rank, row in enumerate(ORDER) for package in row}

# By package. Pure: bytes and values in, values out. Doors: files, programs, the clock, the network. "." is __init__.
PURE = {
    "": ". failure progress",
    "image": """. archive bootable changes checked compression digest documents extended layers needs
        opened readahead reference refusal release remote strictjson tree""",
    "composefs": ". bodies directories dump erofs inodes ondisk overlay reader sealing table trees verity xattrs",
    "store": ". imagerecord layerrecord meta names naming",
    "build": ". diagnosis flags finish finish.adapter finish.debian",
    "sbom": ". contents cyclonedx dpkg spdx subject",
    "registry": ". authfile bookmark challenge configuration name origin outcome patience places referrers",
    "trust": """. artifact attesting base64text bundle certificates collecting containerspolicy decision evidence
        exact freshness identity judging keyfiles keyless keys logproof policy policyfiles predicates rekor scopes
        signing simplesigning statement transparency trustedroot trustpolicy verified""",
    "disk": ". contents ext4_verity gpt identifiers layout",
    "boot": ". entries kernel_arguments",
    "transfer": ". destination parcel",
    "assembly": ". measured record seeded settings verification",
    "host": """. accounts admitted arguments autoupdate boots checks clock enforced failed install
        install.configuration install.device install.initramfs install.plan install.stack install.where
        install.wishes mounts record retention shown status sysroot""",
    "vm": ". announcement console credentials forward machine monitor",
    "cli": ".",
    "initramfs": ".",
}
DOORS = {
    "": "command durable",
    "image": """transports transports.dockerarchive transports.folder transports.layout transports.opening
        transports.storage""",
    "composefs": "folder",
    "store": """check crew draft garbage kernel_verity objects partial pull reading references repair repository
        survey writeback""",
    "build": "base driver engine finish.finishing finish.measuring finish.stage layout mirror watch",
    "registry": """answers authorization blob client connections endpoint opening publisher settings throttle
        upload""",
    "trust": "publishing shelf",
    "transfer": """attached bookmarks copying crew known packing source toarchive todockerarchive tolayout toregistry
        tostorage""",
    "disk": "drafts esp ext4 formats sealed_objects writer",
    "boot": "esp systemd_boot",
    "assembly": "deployment disk inspection staged stored system",
    "host": """admission automatic bless cached carryover command_line conflicts etc etcdiff factory facts garbage
        health install.deploying install.existing install.firmware install.given install.look install.partitioning
        install.probe install.temporary install.todisk install.tofilesystem journal kept merge mounting namespace
        nextroot policies published records restart restore rollback sides signatures soundness space stage trial
        upgrade usr""",
    "vm": "acceleration firmware lifetime ports scratch ssh startup terminal",
    "cli": """attest base bootc bootc_container build completion composefs composefs_create copy disk doctor etc
        factory_reset fsck gc health inspect install install_wishes internals kargs keygen main pin progress_lines
        pull push registries rollback run sbom sign signatures status store surroundings switch terminal tools
        transfers trusting unpin update_window upgrade usr_overlay values verify verify_attestation yaml_text""",
}
# What only a door has a use for. `os` and `pathlib` are missing: pure modules take their constants and types.
EFFECTS = {
    *("asyncio", "fcntl", "http", "mmap", "random", "secrets", "select", "selectors", "shutil", "signal", "socket"),
    *("subprocess", "tempfile", "time", "urllib"),
}


def placed(table: dict[str, str]) -> set[str]:
    return {
        ".".join(part for part in (package, module.removeprefix(".")) if part)
        for package, modules in table.items()
        for module in modules.split()
    }


def name_of(path: Path) -> str:
    """The module's name below keelboot: "" for the package itself, image.tree, image.transports."""
    parts = path.relative_to(PACKAGE).with_suffix("").parts
    return ".".join(parts[:-1] if parts[-1] == "__init__" else parts)


MODULES = {name_of(path): path for path in sorted(PACKAGE.rglob("*.py"))}


def imports(source: str) -> Iterator[tuple[int, str]]:
    """Each import in SOURCE, wherever it stands: its line, and the module's full name."""
    for node in ast.walk(ast.parse(source)):
        if isinstance(node, ast.Import):
            yield from ((node.lineno, alias.name) for alias in node.names)
        elif isinstance(node, ast.ImportFrom):
            assert node.level == 0, f"line {node.lineno}: relative import"
            for alias in node.names:
                inner = f"{node.module}.{alias.name}"
                yield node.lineno, inner if inner.removeprefix("keelboot.") in MODULES else str(node.module)


def package_of(name: str) -> str:
    return name.partition(".")[0]


def test_every_module_is_placed_once() -> None:
    pure, doors = placed(PURE), placed(DOORS)
    assert not pure & doors
    assert MODULES.keys() - pure - doors == set(), "place these in PURE or DOORS of this file"
    assert pure | doors <= MODULES.keys(), "these are gone"


def faults(name: str, source: str) -> list[str]:
    """What the module NAME may not import but does."""
    wrong = []
    for line, full in imports(source):
        where = f"{MODULES[name].relative_to(PACKAGE.parent)}:{line}: {name or 'keelboot'} imports {full}"
        if package_of(full) != "keelboot":
            if name in placed(PURE) and package_of(full) in EFFECTS and full != "urllib.parse":
                wrong.append(f"{where}, but is pure")
            continue
        other = full.removeprefix("keelboot").removeprefix(".")
        own_package, its_package = package_of(name), package_of(other)
        if own_package != its_package and RANK[own_package] <= RANK[its_package]:
            wrong.append(f"{where}, which comes after it or beside it")
        if name in placed(PURE) and other in placed(DOORS):
            wrong.append(f"{where}, a door, but is pure")
    return wrong


@pytest.mark.parametrize("name", MODULES)
def test_imports(name: str) -> None:
    wrong = faults(name, MODULES[name].read_text())
    assert not wrong, "\n".join(wrong)


@pytest.mark.parametrize(
    ("name", "source"),
    [
        ("image.tree", "import subprocess"),
        ("image.tree", "def late():\n    from tempfile import mkdtemp"),
        ("image.tree", "from keelboot import command"),
        ("image.tree", "from keelboot.image import transports"),
        ("image.transports.storage", "from keelboot.composefs import erofs"),
        ("disk.writer", "import keelboot.boot.entries"),
        ("boot.entries", "from keelboot.disk.gpt import anything"),
        ("command", "from keelboot.durable import replacing"),
    ],
)
def test_a_fault_is_found(name: str, source: str) -> None:
    assert len(faults(name, source)) == 1
