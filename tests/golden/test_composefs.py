"""Images byte for byte: texts whose images other composefs writers agree on, kept as hashes.

`composefs/` here holds a few: NAME.dump is the text, NAME.v0.sha256 and NAME.v1.sha256 are plain hashes of its images
as mkcomposefs 1.0.8 wrote them. The vectors of the composefs project are used too where they lie beside the checkout.
"""

import gzip
import hashlib
from pathlib import Path

import pytest

from keelboot.composefs import dump, erofs, reader
from keelboot.composefs.inodes import Inode
from keelboot.composefs.verity import Algorithm, measure
from keelboot.failure import InvalidImage

OWN = Path(__file__).parent / "composefs"
SHARED = Path(__file__).resolve().parents[2] / "../shared/vectors/composefs"
NAMES = ["empty", "links", "placement", "simple", "whiteouts", "wide"]
REFUSED = [
    "dot-name", "empty-xattr-key", "long-link", "long-xattr-value", "no-ftype", "self-hardlink", "too-big"
]  # fmt: skip
ACCEPTED = [
    "bigfile-xattr.dump",
    "bigfile.dump",
    "config.dump.gz",
    "honggfuzz-chardev-nonzero-size.dump",
    "honggfuzz-longlink-unterminated.dump",
    "longlink.dump",
    "no-newline.dump",
    "special.dump",
    "special_v1.dump",
]
EMPTY_SHA512 = (
    "ae399f4c2c5c1fed2238affa1ca9240f064dac53117d6eb67ee3c81f44d74560"
    "64a7443925b1d6ab309b694d2ae6808e2afebb96202fc5025f13bb00f3f138e2"
)
FSVERITY: list[tuple[str, int, Algorithm, str]] = [
    ("empty", 0, "sha256", "8f589e8f57ecb88823736b0d857ddca1e1068a23e264fad164b28f7038eb3682"),
    ("empty", 1, "sha256", "14a26c957c84f6eb774b91205476adc13196c7c33b9dd97d08d43725ecb90b63"),
    ("empty", 0, "sha512", EMPTY_SHA512),
    ("simple", 0, "sha256", "9f3f5620ee0c54708516467d0d58741e7963047c7106b245d94c298259d0fa01"),
    ("simple", 1, "sha256", "ad6db6427568a1e4fdc772cbab7b6063f5eb4b33cb62982a740ba9213e5962b5"),
]


def check(root: Inode, version: int, sha256: str) -> None:
    """The image has the hash, and is what it is read as."""
    image = erofs.image_bytes(root, version)
    assert hashlib.sha256(image).hexdigest() == sha256
    contents = reader.read(image)
    assert contents.version == version
    assert erofs.image_bytes(contents.root, version) == image
    assert erofs.image_bytes(dump.parse(dump.format_dump(contents.root)), version) == image


@pytest.mark.parametrize("name", NAMES)
@pytest.mark.parametrize("version", [0, 1])
def test_image(name: str, version: int) -> None:
    text = (OWN / f"{name}.dump").read_bytes()
    check(dump.parse(text), version, (OWN / f"{name}.v{version}.sha256").read_text().strip())


@pytest.mark.parametrize(("name", "version", "algorithm", "digest"), FSVERITY)
def test_fsverity_digest(name: str, version: int, algorithm: Algorithm, digest: str) -> None:
    image = erofs.image_bytes(dump.parse((OWN / f"{name}.dump").read_bytes()), version)
    assert measure([image], algorithm).object.hex == digest


def test_every_text_is_used() -> None:
    assert sorted(path.name.removesuffix(".dump") for path in OWN.glob("*.dump")) == NAMES


def shared(name: str) -> bytes:
    path = SHARED / name
    if not path.is_file():
        pytest.skip(f"the composefs project's vector {name} is not beside the checkout")
    data = path.read_bytes()
    return gzip.decompress(data) if name.endswith(".gz") else data


@pytest.mark.parametrize("name", ACCEPTED)
def test_vector_of_composefs(name: str) -> None:
    """Without a NAME.version, the writer of composefs may choose version 0 or 1."""
    root = dump.parse(shared(name))
    named = SHARED / f"{name}.version"
    version = int(named.read_text()) if named.is_file() else erofs.needed_version(root)
    check(root, version, shared(f"{name}.sha256").decode().split()[0])


@pytest.mark.parametrize("name", REFUSED)
def test_refused_by_composefs(name: str) -> None:
    with pytest.raises(InvalidImage, match="line 2"):
        dump.parse(shared(f"should-fail-{name}.dump"))
