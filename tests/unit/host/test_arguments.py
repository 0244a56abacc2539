import pytest

from keelboot.assembly.settings import Settings
from keelboot.host.arguments import added, difference, effective, explained, removed

IMAGE = ("quiet2", "loglevel=3", "console=ttyS0")


@pytest.mark.parametrize(
    ("settings", "expected"),
    [
        (Settings(), IMAGE),
        (Settings(kargs=("a=1", "a=2")), (*IMAGE, "a=1", "a=2")),
        (Settings(kargs=("loglevel=3", "b")), ("quiet2", "console=ttyS0", "loglevel=3", "b")),
        (Settings(kargs=("b", "b")), (*IMAGE, "b")),
        (Settings(kargs_deleted=("loglevel",)), ("quiet2", "console=ttyS0")),
        (Settings(kargs_deleted=("loglevel=4",)), IMAGE),
        (Settings(kargs_deleted=("loglevel=3",), kargs=("loglevel=3",)), ("quiet2", "console=ttyS0", "loglevel=3")),
    ],
)
def test_effective(settings: Settings, expected: tuple[str, ...]) -> None:
    assert effective(IMAGE, settings) == expected


def test_an_upgrade_changes_the_images_part_only() -> None:
    """bootc's rule: what is new in the image is added, what is gone from it removed, the machine's stays."""
    settings = Settings(kargs=("mine=1",), kargs_deleted=("unwanted",))
    before, after = ("a", "old", "unwanted=1"), ("a", "new", "unwanted=2")
    assert difference(before, after) == (("new", "unwanted=2"), ("old", "unwanted=1"))
    assert effective(before, settings) == ("a", "old", "mine=1")
    assert effective(after, settings) == ("a", "new", "mine=1")


def test_explained_tells_who_gives_a_word() -> None:
    given = explained("amd64", IMAGE, Settings(kargs=("mine",)))
    assert given[0].by == "keelboot"
    assert [one.word for one in given if one.by == "image"] == list(IMAGE)
    assert given[-1] == ("mine", "machine")


@pytest.mark.parametrize(
    ("words", "kargs", "deleted"),
    [
        (["loglevel=7"], ("console=tty0", "keep", "loglevel=7"), ("quiet2",)),
        (["console=ttyS1", "console=ttyS2"], ("keep", "console=ttyS1", "console=ttyS2"), ("quiet2",)),
        (["quiet2"], ("console=tty0", "keep", "quiet2"), ()),
        (["keep", "keep"], ("console=tty0", "keep"), ("quiet2",)),
    ],
)
def test_added(words: list[str], kargs: tuple[str, ...], deleted: tuple[str, ...]) -> None:
    before = Settings(kargs=("console=tty0", "keep"), kargs_deleted=("quiet2",), unknown={"later": 1})
    after = added(before, words)
    assert (after.kargs, after.kargs_deleted, after.unknown) == (kargs, deleted, {"later": 1})
    assert added(after, words) == after


def test_dashes_and_underscores_are_one_name() -> None:
    assert added(Settings(kargs=("some-module.a_b=1",)), ["some_module.a-b=2"]).kargs == ("some_module.a-b=2",)


def test_removed() -> None:
    before = Settings(kargs=("loglevel=7", "mine=1", "mine=2"))
    assert removed(before, IMAGE, ["mine"]) == Settings(kargs=("loglevel=7",))
    assert removed(before, IMAGE, ["mine=1"]) == Settings(kargs=("loglevel=7", "mine=2"))
    assert removed(before, IMAGE, ["loglevel"]) == Settings(kargs=("mine=1", "mine=2"), kargs_deleted=("loglevel",))
    with pytest.raises(ValueError, match="asks for 'nothing'"):
        removed(before, IMAGE, ["nothing"])


@pytest.mark.parametrize("word", ["", "a b", "composefs=1", 'a="b c', "a\nb"])
def test_refuses_what_is_no_argument(word: str) -> None:
    with pytest.raises(ValueError, match=r"not a kernel argument|more than one|names the deployment|not closed"):
        added(Settings(), [word])
