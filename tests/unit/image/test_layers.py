import gzip
import hashlib
import json
import os
import stat
import sys
import threading
import tracemalloc

import pytest
import zstandard
from hypothesis import HealthCheck, given, settings
from hypothesis import strategies as st

from keelboot.failure import InvalidImage
from keelboot.image.archive import Limits as ArchiveLimits
from keelboot.image.layers import Limits, read_tree
from keelboot.image.refusal import Refused
from keelboot.image.transports import open_image
from keelboot.image.tree import Directory, External, Regular, Special, Symlink, resolve, walk

# Each is a list of layers, lowest first; a layer is a list of entries.
REFUSED = {
    "L01 ..": lambda t: [[t.file(b"../x")]],
    "L01 .. in the middle": lambda t: [[t.dir(b"a"), t.file(b"a/../../x")]],
    "L01 .. inside": lambda t: [[t.dir(b"a"), t.file(b"a/../x")]],
    "L01 .. at the end": lambda t: [[t.dir(b"a"), t.dir(b"a/..")]],
    "L01 .. alone": lambda t: [[t.dir(b"..")]],
    "L02 entry below a symlink": lambda t: [[t.symlink(b"a", b"/etc"), t.file(b"a/passwd")]],
    "L02 entry below a lower symlink": lambda t: [[t.symlink(b"a", b"/etc")], [t.file(b"a/passwd")]],
    "L02 directory below a symlink": lambda t: [[t.symlink(b"a", b"."), t.dir(b"a/b")]],
    "L02 entry below a file": lambda t: [[t.file(b"a"), t.file(b"a/b")]],
    "L02 entry below a device": lambda t: [[t.header(b"a", b"3", major=1, minor=3), t.file(b"a/b")]],
    "L03 root as a symlink": lambda t: [[t.symlink(b"./", b"/")]],
    "L03 root as a named symlink": lambda t: [[t.symlink(b"/.", b"/")]],
    "L03 root as a file": lambda t: [[t.file(b".")]],
    "L03 root as a hard link": lambda t: [[t.file(b"a"), t.link(b".", b"a")]],
    "L05 hard link to ..": lambda t: [[t.link(b"a", b"../x")]],
    "L05 hard link to the host": lambda t: [[t.link(b"a", b"/etc/passwd")]],
    "L05 hard link through a symlink": lambda t: [
        [t.dir(b"d"), t.file(b"d/f"), t.symlink(b"s", b"d"), t.link(b"a", b"s/f")]
    ],
    "L06 hard link to itself": lambda t: [[t.link(b"a", b"a")]],
    "L06 hard link to itself, lower": lambda t: [[t.file(b"a")], [t.link(b"a", b"./a")]],
    "L06 hard link to a later entry": lambda t: [[t.link(b"a", b"b"), t.file(b"b")]],
    "L06 hard link to a directory": lambda t: [[t.dir(b"d"), t.link(b"a", b"d")]],
    "L06 hard link to the root": lambda t: [[t.link(b"a", b"/")]],
    "L06 chain": lambda t: [[t.file(b"a"), t.link(b"b", b"a"), t.link(b"c", b"b")]],
    "L06 hard link to a removed file": lambda t: [[t.file(b"a")], [t.file(b".wh.a"), t.link(b"b", b"a")]],
    "L06 hard link to a file removed later": lambda t: [[t.file(b"a")], [t.link(b"b", b"a"), t.file(b".wh.a")]],
    "L06 hard link to a replaced file": lambda t: [[t.file(b"a"), t.dir(b"a"), t.link(b"b", b"a")]],
    "L09 component over 255 bytes": lambda t: [[t.pax((b"path", b"x" * 256)) + t.file(b"x")]],
    "L09 directory over 255 bytes": lambda t: [[t.pax((b"path", b"x" * 256 + b"/y")) + t.file(b"x")]],
    "L09 10 000 levels": lambda t: [[t.pax((b"path", b"x/" * 10_000)) + t.dir(b"x")]],
    "L11 entry below a replaced directory": lambda t: [[t.dir(b"a"), t.dir(b"a/b")], [t.file(b"a"), t.file(b"a/b/c")]],
    "L12 entry in a hidden directory": lambda t: [[t.dir(b"a")], [t.file(b".wh.a"), t.file(b"a/b")]],
    "L12 entry in a directory hidden later": lambda t: [[t.dir(b"a")], [t.file(b"a/b"), t.file(b".wh.a")]],
    "L14 .wh.": lambda t: [[t.file(b".wh.")]],
    "L14 .wh..": lambda t: [[t.file(b".wh..")]],
    "L14 .wh...": lambda t: [[t.file(b".wh...")]],
    "L14 .wh..wh.plnk": lambda t: [[t.file(b".wh..wh.plnk")]],
    "L14 .wh..wh..opqx": lambda t: [[t.file(b".wh..wh..opqx")]],
    "L14 .wh.a/b": lambda t: [[t.file(b".wh.a/b")]],
    "L14 below .wh..wh..opq": lambda t: [[t.file(b".wh..wh..opq/b")]],
    "L14 hard link to .wh.a": lambda t: [[t.file(b".wh.a"), t.link(b"b", b".wh.a")]],
    "L15 whiteout that is a directory": lambda t: [[t.file(b"a")], [t.dir(b".wh.a")]],
    "L15 whiteout that is a symlink": lambda t: [[t.file(b"a")], [t.symlink(b".wh.a", b"a")]],
    "L15 whiteout that is a hard link": lambda t: [[t.file(b"a")], [t.link(b".wh.a", b"a")]],
    "L15 whiteout with content": lambda t: [[t.file(b"a")], [t.file(b".wh.a", b"x")]],
    "L15 opaque directory": lambda t: [[t.dir(b".wh..wh..opq")]],
    "missing parent": lambda t: [[t.file(b"a/b")]],
}


@pytest.mark.parametrize("case", REFUSED)
def test_refuses(case, tar):
    with pytest.raises(Refused) as refusal:
        tar.tree(*REFUSED[case](tar))
    assert str(refusal.value).isprintable()


# Layers, and the paths that there are in the end.
PATHS = {
    "L01 leading slash and dot": (
        lambda t: [[t.file(b"/a"), t.file(b"./b"), t.file(b".//./c")]],
        [b"/a", b"/b", b"/c"],
    ),
    "L01 slashes inside": (lambda t: [[t.dir(b"a//"), t.file(b"a/.//b")]], [b"/a", b"/a/b"]),
    "L02 a symlink is replaced": (
        lambda t: [[t.symlink(b"a", b"/etc")], [t.dir(b"a"), t.file(b"a/b")]],
        [b"/a", b"/a/b"],
    ),
    "L04 device directory as symlink": (
        lambda t: [[t.symlink(b"dev", b"/dev"), t.symlink(b"etc", b"/")]],
        [b"/dev", b"/etc"],
    ),
    "L10 file, directory, symlink": (
        lambda t: [[t.file(b"a"), t.dir(b"a"), t.file(b"a/b"), t.symlink(b"a", b"x")]],
        [b"/a"],
    ),
    "L10 directory over directory": (lambda t: [[t.dir(b"a"), t.file(b"a/b"), t.dir(b"a")]], [b"/a", b"/a/b"]),
    "L11 file over directory": (lambda t: [[t.dir(b"a"), t.file(b"a/b")], [t.file(b"a")]], [b"/a"]),
    "L11 directory over file": (lambda t: [[t.file(b"a")], [t.dir(b"a"), t.file(b"a/b")]], [b"/a", b"/a/b"]),
    "L11 directory, file, directory": (
        lambda t: [[t.dir(b"a"), t.file(b"a/old")], [t.dir(b"a"), t.file(b"a"), t.dir(b"a"), t.file(b"a/new")]],
        [b"/a", b"/a/new"],
    ),
    "L12 whiteout": (lambda t: [[t.file(b"a"), t.file(b"b")], [t.file(b".wh.a")]], [b"/b"]),
    "L12 whiteout before": (
        lambda t: [[t.dir(b"x"), t.file(b"x/old")], [t.file(b".wh.x"), t.dir(b"x"), t.file(b"x/new")]],
        [b"/x", b"/x/new"],
    ),
    "L12 whiteout after": (
        lambda t: [[t.dir(b"x"), t.file(b"x/old")], [t.dir(b"x"), t.file(b"x/new"), t.file(b".wh.x")]],
        [b"/x", b"/x/new"],
    ),
    "L12 whiteout of the same layer only": (lambda t: [[t.file(b"x"), t.file(b".wh.x")]], [b"/x"]),
    "L12 whiteout of a dot file": (
        lambda t: [[t.file(b".x"), t.file(b"..x")], [t.file(b".wh..x"), t.file(b".wh...x")]],
        [],
    ),
    "L13 opaque first": (
        lambda t: [[t.dir(b"a"), t.file(b"a/old")], [t.dir(b"a"), t.file(b"a/.wh..wh..opq"), t.file(b"a/new")]],
        [b"/a", b"/a/new"],
    ),
    "L13 opaque last": (
        lambda t: [[t.dir(b"a"), t.file(b"a/old")], [t.dir(b"a"), t.file(b"a/new"), t.file(b"a/.wh..wh..opq")]],
        [b"/a", b"/a/new"],
    ),
    "L13 opaque before its directory": (
        lambda t: [[t.dir(b"a"), t.file(b"a/old")], [t.file(b"a/.wh..wh..opq"), t.dir(b"a"), t.file(b"a/new")]],
        [b"/a", b"/a/new"],
    ),
    "L13 opaque root": (lambda t: [[t.file(b"a"), t.dir(b"b")], [t.file(b".wh..wh..opq"), t.file(b"c")]], [b"/c"]),
    "L13 opaque and a lower name again": (
        lambda t: [[t.dir(b"a"), t.file(b"a/x")], [t.file(b"a/.wh..wh..opq"), t.file(b"a/x")]],
        [b"/a", b"/a/x"],
    ),
    "L13 opaque directory that is new": (
        lambda t: [[t.symlink(b"a", b"/")], [t.dir(b"a"), t.file(b"a/.wh..wh..opq")]],
        [b"/a"],
    ),
    "L16 whiteout of nothing": (lambda t: [[t.file(b"a")], [t.file(b".wh.b"), t.file(b"no/.wh.c")]], [b"/a"]),
    "L16 whiteout below a symlink": (
        lambda t: [[t.file(b"x"), t.symlink(b"a", b"/")], [t.file(b"a/.wh.x")]],
        [b"/a", b"/x"],
    ),
    "L42 any bytes": (
        lambda t: [[t.file(b"\n\t\\\xff"), t.file("\u202egpj".encode())]],
        [b"/\n\t\\\xff", b"/\xe2\x80\xaegpj"],
    ),
    "L43 names that fold to one": (
        lambda t: [[t.file(b"A"), t.file(b"a"), t.file("\u00e9".encode()), t.file("e\u0301".encode())]],
        [b"/A", b"/a", b"/e\xcc\x81", b"/\xc3\xa9"],
    ),
}


@pytest.mark.parametrize("case", PATHS)
def test_paths(case, tar):
    layers, paths = PATHS[case]
    assert tar.paths(*layers(tar)) == paths


def test_l03_root_takes_the_metadata_of_its_entry(tar):
    root = tar.tree([tar.dir(b"./", mode=0o711, uid=3, gid=4, mtime=5), tar.file(b"a")])
    assert (root.permissions, root.uid, root.gid, root.mtime, list(root.children)) == (0o711, 3, 4, 5, [b"a"])


def test_l06_hard_links_are_one_node(tar):
    root = tar.tree([tar.file(b"a", b"1"), tar.dir(b"d"), tar.link(b"d/b", b"./a")], [tar.link(b"c", b"/d/b")])
    assert root.children[b"a"] is root.children[b"c"] is resolve(root, "d/b")


def test_l06_replacing_one_name_leaves_the_others(tar):
    root = tar.tree([tar.file(b"a", b"1"), tar.link(b"b", b"a")], [tar.file(b"a", b"2"), tar.link(b"c", b"b")])
    assert (root.children[b"a"].content, root.children[b"b"].content) == (b"2", b"1")
    assert root.children[b"b"] is root.children[b"c"]


def test_l06_a_replaced_link_is_a_file_again(tar):
    root = tar.tree([tar.file(b"a", b"1"), tar.link(b"b", b"a"), tar.file(b"b", b"2"), tar.link(b"c", b"b")])
    assert root.children[b"c"] is root.children[b"b"]
    assert (root.children[b"a"].content, root.children[b"c"].content) == (b"1", b"2")


def test_l06_hard_link_to_a_symlink_is_that_symlink(tar):
    root = tar.tree([tar.file(b"a"), tar.symlink(b"s", b"a"), tar.link(b"b", b"s")])
    assert root.children[b"b"] is root.children[b"s"]


def test_l09_the_longest_path_is_walked(tar):
    parts = [b"x"] * 2000
    layer = [
        tar.pax((b"path", b"/".join(parts[:depth]))) + tar.dir(b"x") for depth in range(1, len(parts) + 1)
    ]  # fmt: skip
    assert sum(1 for _ in walk(tar.tree(layer))) == 2001


def test_l10_directory_over_directory_takes_the_new_metadata(tar):
    root = tar.tree(
        [tar.pax((b"SCHILY.xattr.user.old", b"1")) + tar.dir(b"a", mode=0o700, uid=1), tar.file(b"a/b")],
        [tar.pax((b"SCHILY.xattr.user.new", b"2")) + tar.dir(b"a", mode=0o751, gid=2, mtime=3)],
    )
    a = root.children[b"a"]
    assert (a.permissions, a.uid, a.gid, a.mtime, a.xattrs) == (0o751, 0, 2, 3, {b"user.new": b"2"})
    assert list(a.children) == [b"b"]


def test_l17_a_0_0_device_is_a_device(tar):
    root = tar.tree([tar.file(b"a")], [tar.header(b"a", b"3", major=0, minor=0)])
    node = root.children[b"a"]
    assert isinstance(node, Special)
    assert (node.kind, node.rdev) == (stat.S_IFCHR, 0)


def test_l18_overlay_attributes_are_data(tar):
    records = ((b"SCHILY.xattr.trusted.overlay.opaque", b"y"), (b"SCHILY.xattr.user.overlay.whiteout", b""))
    root = tar.tree([tar.dir(b"a"), tar.file(b"a/b")], [tar.pax(*records) + tar.dir(b"a")])
    assert root.children[b"a"].xattrs == {b"trusted.overlay.opaque": b"y", b"user.overlay.whiteout": b""}
    assert list(root.children[b"a"].children) == [b"b"]


def test_l33_modes_owners_and_capabilities_are_the_archives(tar):
    capability = bytes.fromhex("0100000200200000000000000000000000000000")
    layer = [tar.pax((b"SCHILY.xattr.security.capability", capability)) + tar.file(b"a", mode=0o6755, uid=7, gid=8)]
    node = tar.tree(layer).children[b"a"]
    assert (node.permissions, node.uid, node.gid, node.xattrs) == (0o6755, 7, 8, {b"security.capability": capability})


def test_l46_every_kind_of_file(tar, sink):
    layer = [
        tar.header(b"mem", b"3", mode=0o640, major=1, minor=1), tar.header(b"sda", b"4", major=8, minor=0),
        tar.header(b"pipe", b"6"), tar.symlink(b"link", b"../\xff"), tar.file(b"small", b"s" * 64),
        tar.file(b"large", b"l" * 65),
    ]  # fmt: skip
    found = tar.tree(layer, sink=sink).children
    assert (found[b"mem"].kind, found[b"mem"].rdev) == (stat.S_IFCHR, os.makedev(1, 1))
    assert (found[b"sda"].kind, found[b"sda"].rdev) == (stat.S_IFBLK, os.makedev(8, 0))
    assert found[b"pipe"].kind == stat.S_IFIFO
    assert isinstance(found[b"link"], Symlink)
    assert found[b"link"].target == b"../\xff"
    assert found[b"small"].content == b"s" * 64
    assert isinstance(found[b"large"].content, External)
    assert sink.contents == {found[b"large"].content.object: b"l" * 65}


_watched: list[str] | None = None


def _watch(event, arguments):
    """Note every attempt to change the host's files; a hook cannot be taken away, so it looks at a flag."""
    if _watched is None:
        return
    writes = event == "open" and arguments[2] is not None and arguments[2] & (os.O_WRONLY | os.O_RDWR | os.O_CREAT)
    if writes or event.startswith(("os.", "shutil.", "subprocess.", "tempfile.", "socket.")):
        _watched.append(event)


sys.addaudithook(_watch)


@pytest.mark.parametrize("case", REFUSED | PATHS)
def test_l07_l08_no_path_of_the_host_is_touched(case, tar):
    global _watched  # noqa: PLW0603 - the hook above is for the whole process
    layers = (REFUSED.get(case) or PATHS[case][0])(tar)
    _watched = []
    try:
        tar.tree(*layers)
    except Refused:
        pass
    finally:
        seen, _watched = _watched, None
    assert seen == []


# Images ---


def _read(layout, sink, **options):
    with open_image(layout.reference()) as image:
        return read_tree(image, sink, **options)


@pytest.mark.parametrize("jobs", [1, 2])
@pytest.mark.parametrize("compress", ["gzip", None])
def test_reads_an_image(jobs, compress, layout, tar, sink):
    layout.image(
        tar.end(tar.dir(b"a"), tar.file(b"a/x", b"x" * 3_000_000), tar.file(b"b", b"b")),
        tar.end(tar.file(b".wh.b"), tar.file(b"a/y", b"y" * 70)),
        compress=compress,
    )
    root = _read(layout, sink, jobs=jobs)
    assert [path for path, _ in walk(root)] == [b"/", b"/a", b"/a/x", b"/a/y"]
    assert {name: len(content) for name, content in sink.contents.items()} == {
        resolve(root, "a/x").content.object: 3_000_000,
        resolve(root, "a/y").content.object: 70,
    }


def _zstd_layer(data, **options):
    compressor = zstandard.ZstdCompressor(compression_params=zstandard.ZstdCompressionParameters(**options))
    return compressor.compress(data)


def _image_of(layout, blob, data, suffix):
    """An image with one layer, stored as BLOB, that is declared to be DATA compressed as SUFFIX says."""
    layer = layout.blob(blob, "application/vnd.oci.image.layer.v1.tar" + suffix)
    diff_id = "sha256:" + hashlib.sha256(data).hexdigest()
    layout.image(b"", compress=None, diff_ids=[diff_id], manifest={"layers": [layer]})


# The start of a frame that asks for a window of 2**31 bytes.
HUGE_WINDOW = b"\x28\xb5\x2f\xfd\x00" + bytes([(31 - 10) << 3]) + b"\x01\0\0"
SKIPPABLE = b"\x50\x2a\x4d\x18\x05\0\0\0hello"


@pytest.mark.parametrize(
    "pack",
    [
        pytest.param(lambda d: (gzip.compress(d), "+gzip"), id="gzip"),
        pytest.param(lambda d: (gzip.compress(d[:700]) + gzip.compress(d[700:]), "+gzip"), id="gzip members"),
        pytest.param(lambda d: (_zstd_layer(d, compression_level=3), "+zstd"), id="zstd"),
        pytest.param(lambda d: (_zstd_layer(d[:700]) + SKIPPABLE + _zstd_layer(d[700:]) + SKIPPABLE, "+zstd"),
                     id="L40 zstd frames with tables nobody reads"),
    ],
)  # fmt: skip
def test_expands(pack, layout, tar, sink):
    data = tar.end(tar.file(b"a", bytes(range(256)) * 5000))
    blob, suffix = pack(data)
    _image_of(layout, blob, data, suffix)
    root = _read(layout, sink)
    assert sink.read(root.children[b"a"]) == bytes(range(256)) * 5000


DAMAGE = {
    "L36 garbage after gzip": lambda d: (gzip.compress(d) + b"garbage", "+gzip"),
    "L36 one byte after gzip": lambda d: (gzip.compress(d) + b"\0", "+gzip"),
    "L36 gzip cut short": lambda d: (gzip.compress(d)[:-9], "+gzip"),
    "L36 gzip with a wrong checksum": lambda d: (gzip.compress(d)[:-8] + bytes(8), "+gzip"),
    "L36 nested gzip": lambda d: (gzip.compress(gzip.compress(d)), "+gzip"),
    "L36 garbage after zstd": lambda d: (_zstd_layer(d) + b"garbage!", "+zstd"),
    "L36 zstd cut short": lambda d: (_zstd_layer(d)[:-9], "+zstd"),
    "L36 zstd with a huge window": lambda _: (HUGE_WINDOW, "+zstd"),
    "L38 gzip declared, zstd stored": lambda d: (_zstd_layer(d), "+gzip"),
    "L38 zstd declared, gzip stored": lambda d: (gzip.compress(d), "+zstd"),
    "L38 gzip declared, plain stored": lambda d: (d, "+gzip"),
    "L38 plain declared, gzip stored": lambda d: (gzip.compress(d), ""),
    "L38 plain declared, zstd stored": lambda d: (_zstd_layer(d), ""),
    "L38 something else": lambda d: (b"BZh9" + d, "+gzip"),
    "L39 wrong diff_id": lambda d: (gzip.compress(d + bytes(512)), "+gzip"),
    "L39 wrong diff_id of a plain layer": lambda d: (d + bytes(512), ""),
    "empty blob": lambda _: (b"", "+gzip"),
}  # fmt: skip


@pytest.mark.parametrize("jobs", [1, 2])
@pytest.mark.parametrize("case", DAMAGE)
def test_refuses_damage(case, jobs, layout, tar, sink):
    data = tar.end(tar.file(b"a", b"x" * 100_000))
    blob, suffix = DAMAGE[case](data)
    _image_of(layout, blob, data, suffix)
    with pytest.raises(InvalidImage, match="cannot use") as failure:
        _read(layout, sink, jobs=jobs)
    assert "layer 1 of 1" in failure.value.why


def test_l39_digest_and_size_of_the_blob(layout, tar, sink):
    descriptor = layout.image(tar.end(tar.file(b"a", b"x" * 100_000)), compress=None)
    manifest = json.loads((layout.path / "blobs/sha256" / descriptor["digest"][7:]).read_text())
    blob = layout.path / "blobs/sha256" / manifest["layers"][0]["digest"][7:]
    good = blob.read_bytes()
    for bad in (good[:-512], good + bytes(512), good.replace(b"x", b"y", 1)):
        blob.write_bytes(bad)
        with pytest.raises(InvalidImage, match="cannot use"):
            _read(layout, sink)
    blob.write_bytes(good)
    _read(layout, sink)


@pytest.mark.parametrize(
    ("change", "why"),
    [
        ({"size": 1}, "longer than"),
        ({"size": -1}, "longer than"),
        ({"size": 1 << 40}, "its descriptor says"),
        ({"digest": None}, "its digest is"),
    ],
)
def test_d09_descriptor_of_a_layer(change, why, layout, tar, sink):
    """The content is right, and the blob is not the one the manifest names."""
    data = tar.end(tar.file(b"a", b"x" * 100_000))
    packed = gzip.compress(data)
    layer = layout.blob(packed, "application/vnd.oci.image.layer.v1.tar+gzip")
    if "digest" in change:
        blob = layout.path / "blobs/sha256" / layer["digest"][7:]
        blob.write_bytes(packed[:9] + b"\x07" + packed[10:])  # the byte that names the operating system
    else:
        layer["size"] = change["size"] if change["size"] > 0 else layer["size"] - 1
    diff_id = "sha256:" + hashlib.sha256(data).hexdigest()
    layout.image(b"", compress=None, diff_ids=[diff_id], manifest={"layers": [layer]})
    with pytest.raises(InvalidImage, match=why):
        _read(layout, sink)


@pytest.mark.parametrize("count", [0, 2])
def test_l39_number_of_diff_ids(count, layout, tar, sink):
    data = tar.end(tar.file(b"a"))
    digest = "sha256:" + hashlib.sha256(data).hexdigest()
    layout.image(data, config={"rootfs": {"type": "layers", "diff_ids": [digest] * count}})
    with pytest.raises(InvalidImage, match="layers, and digests of"):
        _read(layout, sink)


@pytest.mark.parametrize("suffix", ["+gzip", "+zstd"])
def test_l36_a_bomb_costs_neither_memory_nor_time(suffix, layout, tar):
    """Zeros that pack a thousandfold and better: refused on the way, with a few blocks in memory."""
    size = 256 << 20
    head = tar.header(b"a", size=size)
    if suffix == "+gzip":
        packer = gzip.zlib.compressobj(9, wbits=31)
    else:
        packer = zstandard.ZstdCompressor(level=1).compressobj()
    blob = packer.compress(head) + b"".join(packer.compress(bytes(1 << 24)) for _ in range(size >> 24)) + packer.flush()
    _image_of(layout, blob, b"", suffix)
    seen = 0

    class Counting:
        def add(self, _, chunks):
            nonlocal seen
            for chunk in chunks:
                seen += len(chunk)
            raise AssertionError("the layer should have been refused")

    tracemalloc.start()
    with pytest.raises(InvalidImage, match="expands to more than"):
        _read(layout, Counting(), limits=Limits(unrated=16 << 20, ratio=50))
    peak = tracemalloc.get_traced_memory()[1]
    tracemalloc.stop()
    assert seen <= 17 << 20
    assert peak < 24 << 20


def test_l35_entries_of_all_layers_count(layout, tar, sink):
    layer = tar.end(*(tar.file(b"f%d" % number) for number in range(30)))
    layout.image(layer, layer)
    _read(layout, sink, limits=Limits(layers=ArchiveLimits(entries=60)))
    with pytest.raises(InvalidImage, match=r"layer 2 of 2.*entries"):
        _read(layout, sink, limits=Limits(layers=ArchiveLimits(entries=59)))


def test_refusal_names_layer_and_place(layout, tar, sink):
    layout.image(tar.end(tar.file(b"a")), tar.end(tar.file(b"a/b")))
    with pytest.raises(InvalidImage) as failure:
        _read(layout, sink)
    assert str(layout.path) in failure.value.what
    assert "layer 2 of 2" in failure.value.why
    assert "'/a/b'" in failure.value.why


def test_a_failing_sink_stops_the_second_thread(layout, tar):
    layout.image(tar.end(tar.file(b"a", os.urandom(12_000_000))), compress=None)

    class Full:
        def add(self, _, chunks):
            next(iter(chunks))
            raise OSError(28, "No space left on device")

    before = threading.active_count()
    with pytest.raises(OSError, match="No space"):
        _read(layout, Full())
    assert threading.active_count() == before


def test_progress_adds_up(layout, tar, sink):
    layout.image(tar.end(tar.file(b"a", os.urandom(3_000_000))), tar.end(tar.file(b"b")))
    told = []

    class Recorder:
        def step(self, _, total=None):
            told.append(total)
            return self

        def __enter__(self):
            return self

        def __exit__(self, *_):
            return None

        def advance(self, amount):
            told.append(amount)

    _read(layout, sink, progress=Recorder())
    assert told[0] > 3_000_000
    assert sum(told[1:]) == told[0]


# Random trees ---

_NAME = st.sampled_from([b"a", b"b", b"c", b".x"])
_OPERATIONS = st.lists(
    st.tuples(st.sampled_from(["file", "dir", "symlink", "hide", "opaque"]), st.lists(_NAME, min_size=1, max_size=3)),
    max_size=8,
)


@settings(max_examples=150, deadline=None, suppress_health_check=[HealthCheck.function_scoped_fixture])
@given(layers=st.lists(_OPERATIONS, min_size=1, max_size=4), chance=st.randoms(use_true_random=False))
def test_layers_follow_a_plain_model(layers, chance, tar):
    """Against a model of few lines: a dict of paths; whiteouts first; and the order of whiteouts never matters."""
    model: dict[tuple, str] = {}
    made = []
    for operations in layers:
        lower = dict(model)
        for kind, path in operations:
            for known in list(lower):
                below = known[: len(path)] == tuple(path)
                hides = kind == "hide" and below
                empties = kind == "opaque" and below and known != tuple(path) and lower.get(tuple(path)) == "dir"
                if hides or empties:
                    del lower[known]
        entries, marks = [], []
        model = lower
        for kind, path in operations:
            name = b"/".join(path)
            where = tuple(path)
            if kind in ("hide", "opaque"):
                parent, _, last = name.rpartition(b"/")
                marks.append(tar.file((parent + b"/" if parent else b"") + b".wh." + last if kind == "hide"
                                      else name + b"/.wh..wh..opq"))  # fmt: skip
                continue
            if any(model.get(where[:depth]) != "dir" for depth in range(1, len(where))):
                continue
            if not (kind == "dir" and model.get(where) == "dir"):
                model = {known: what for known, what in model.items() if known[: len(where)] != where}
            model[where] = kind
            entries.append({"file": tar.file, "dir": tar.dir}.get(kind, lambda n: tar.symlink(n, b"a"))(name))
        for mark in marks:
            entries.insert(chance.randint(0, len(entries)), mark)
        made.append(entries)
    kinds = {Regular: "file", Directory: "dir", Symlink: "symlink"}
    found = {tuple(path[1:].split(b"/")): kinds[type(node)] for path, node in walk(tar.tree(*made)) if path != b"/"}
    assert found == model
