import pytest

from keelboot.disk import ext4
from keelboot.disk.contents import Directory, Entry, File, Sealed, Symlink
from keelboot.image.tree import ObjectId


@pytest.mark.parametrize(
    ("entry", "expected"),
    [
        (Directory(path=b"/a"), [b'mkdir "/a"', b'set_inode_field "/a" mode 040755']),
        (Directory(path=b"/", mode=0o700), [b'set_inode_field "/" mode 040700']),
        (
            File(path=b'/a "b"', content=b"x", mode=0o4755, uid=100_000, gid=5),
            [
                b'write source "/a ""b"""',
                b'set_inode_field "/a ""b""" mode 0104755',
                b'set_inode_field "/a ""b""" uid 100000',
                b'set_inode_field "/a ""b""" gid 5',
            ],
        ),
        (Symlink(path=b"/a", target=b"../b c"), [b'symlink "/a" "../b c"']),
        (
            Sealed(path=b"/a", object=ObjectId("0" * 64), size=7),
            [
                b'write source "/a"',
                b'set_inode_field "/a" size 7',
                b'set_inode_field "/a" flags 0x180000',
                b'set_inode_field "/a" mode 0100644',
            ],
        ),
    ],
)
def test_commands(entry: Entry, expected: list[bytes]) -> None:
    assert list(ext4.commands(entry, "source")) == expected


@pytest.mark.parametrize(
    "entry",
    [
        Directory(path=b"/a\nrm /etc"),
        Symlink(path=b"/a", target=b"b\nrm /etc"),
        Symlink(path=b"/" + b"a" * 4000, target=b"t" * 4000),
    ],
)
def test_refuses_what_would_break_a_line(entry: Entry) -> None:
    with pytest.raises(ValueError, match="debugfs"):
        list(ext4.commands(entry))
