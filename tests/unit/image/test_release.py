import pytest

from keelboot.failure import InvalidImage
from keelboot.image.release import Release, read_release
from keelboot.image.tree import Directory, External, ObjectId, Regular, Special, Symlink

DEBIAN = """\
PRETTY_NAME="Debian GNU/Linux 13 (trixie)"
NAME="Debian GNU/Linux"
VERSION_ID="13"
VERSION="13 (trixie)"
VERSION_CODENAME=trixie
ID=debian
HOME_URL="https://distribution.example/"
"""


def test_debian():
    release = Release.parse(DEBIAN)
    assert (release.id, release.version_id, release.version_codename) == ("debian", "13", "trixie")
    assert (release.pretty_name, release.name) == ("Debian GNU/Linux 13 (trixie)", "Debian GNU/Linux")
    assert release.like == ()


@pytest.mark.parametrize(
    ("text", "field", "value"),
    [
        ("ID_LIKE='ubuntu debian'", "like", ("ubuntu", "debian")),
        ("ID_LIKE=debian", "like", ("debian",)),
        ('NAME="a \\"b\\" \\$c \\\\ \\`"', "name", 'a "b" $c \\ `'),
        ("NAME='a \\b'", "name", "a \\b"),
        ("NAME=a\\ b", "name", "a b"),
        ("# ID=x\n\n  ID=arch  ", "id", "arch"),
        ("ID=a\nID=b", "id", "b"),
        ("", "id", "linux"),
        ("ID=", "id", "linux"),
        ("ID=../x", "id", "linux"),
        ("ID=Debian", "id", "linux"),
        ("ID=a b", "id", "linux"),
        ('ID="a', "id", "linux"),
        ('ID=a"b"', "id", "linux"),
        ("ID = a", "id", "linux"),
        ("NAME=$(reboot)", "name", "$(reboot)"),
        ("NAME=X", "pretty_name", "X"),
        ("", "pretty_name", "Linux"),
        ("VARIANT_ID=server", "variant_id", "server"),
    ],
)
def test_fields(text, field, value):
    assert getattr(Release.parse(text), field) == value


def _tree(**etc):
    return Directory(
        children={
            b"etc": Directory(children={name.replace("_", "-").encode(): node for name, node in etc.items()}),
            b"usr": Directory(children={b"lib": Directory(children={b"os-release": Regular(content=b"ID=usr")})}),
        }
    )


def _read(node):
    return node.content if isinstance(node.content, bytes) else b"ID=stored"


@pytest.mark.parametrize(
    ("node", "found"),
    [
        (Regular(content=b"ID=etc"), "etc"),
        (Regular(content=External(ObjectId("0" * 64), 500)), "stored"),
        (Symlink(target=b"../usr/lib/os-release"), "usr"),
        (Symlink(target=b"/usr/lib/os-release"), "usr"),
        (Symlink(target=b"../../../../usr/lib/os-release"), "usr"),
        (Symlink(target=b"os-release"), "usr"),
        (Symlink(target=b"/etc/shadow"), "usr"),
        (Special(kind=0o010000), "usr"),
        (Directory(), "usr"),
    ],
)
def test_l41_is_read_inside_the_tree(node, found):
    assert read_release(_tree(os_release=node), _read).id == found


def test_l41_a_large_file_is_not_read():
    node = Regular(content=External(ObjectId("0" * 64), 1 << 30))
    with pytest.raises(InvalidImage, match="1073741824 bytes"):
        read_release(_tree(os_release=node), lambda _: pytest.fail("it was read"))


def test_none():
    assert read_release(Directory(), _read) == Release()
