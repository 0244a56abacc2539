"""Kernel arguments of the image and of the machine, brought together: docs/formats/deployment.md, "host.json".

The image's come first, without those that the machine does without, then the machine's: where both set a value, the
kernel and systemd take the last. As each version has its own list and the machine's is kept apart, an upgrade adds what
is new in the image, removes what is gone from it, and leaves the machine's alone, as bootc has it.

A word without `=` in the machine's list of deleted ones stands for the bare word and for every value it is given:
`loglevel` stands for `loglevel=3` and `loglevel=4`, whichever the next image has.
"""

from collections.abc import Iterable, Sequence
from dataclasses import replace
from typing import NamedTuple

from keelboot.assembly.settings import Settings
from keelboot.boot import kernel_arguments


class Given(NamedTuple):
    """A word of the command line, and whose it is: keelboot's, the image's or the machine's."""

    word: str
    by: str


def effective(image: Iterable[str], settings: Settings) -> tuple[str, ...]:
    """What stands on the command line behind what every machine gets; each word once, the machine's last."""
    return tuple(given.word for given in _behind_defaults(image, settings))


def explained(architecture: str, image: Iterable[str], settings: Settings) -> tuple[Given, ...]:
    """The words of the command line in their order, but for the deployment's name, with who gives them."""
    defaults = (Given(word, "keelboot") for word in kernel_arguments.defaults(architecture))
    return (*defaults, *_behind_defaults(image, settings))


def difference(before: Sequence[str], after: Sequence[str]) -> tuple[tuple[str, ...], tuple[str, ...]]:
    """What an upgrade from an image that asks for BEFORE to one that asks for AFTER adds, and what it removes."""
    return tuple(word for word in after if word not in before), tuple(word for word in before if word not in after)


def added(settings: Settings, words: Sequence[str]) -> Settings:
    """SETTINGS with WORDS. They take the place of what the machine gave their names before; deleted no more.

    Words of one name that are given together are kept together: `console=tty0 console=ttyS0`. Raises ValueError for a
    word that is no kernel argument.
    """
    for word in words:
        kernel_arguments.check(word)
    names = {_name(word) for word in words}
    kept = [word for word in settings.kargs if _name(word) not in names]
    deleted = [word for word in settings.kargs_deleted if not any(_stands_for(word, new) for new in words)]
    return replace(settings, kargs=(*kept, *dict.fromkeys(words)), kargs_deleted=tuple(deleted))


def removed(settings: Settings, image: Sequence[str], words: Sequence[str]) -> Settings:
    """SETTINGS without WORDS: the machine's own are dropped, and those of the image IMAGE noted as deleted.

    Raises ValueError for a word that stands for nothing here: neither the machine nor the image asks for it.
    """
    kept, deleted = list(settings.kargs), list(settings.kargs_deleted)
    for word in words:
        own = [one for one in kept if _stands_for(word, one)]
        of_image = any(_stands_for(word, one) for one in image)
        if not own and not of_image:
            raise ValueError(f"neither this machine nor its image asks for {word!r}")
        kept = [one for one in kept if one not in own]
        if of_image and word not in deleted:
            deleted.append(word)
    return replace(settings, kargs=tuple(kept), kargs_deleted=tuple(deleted))


def _behind_defaults(image: Iterable[str], settings: Settings) -> Sequence[Given]:
    wanted = [word for word in image if not any(_stands_for(one, word) for one in settings.kargs_deleted)]
    machine = dict.fromkeys(settings.kargs)
    return [
        *(Given(word, "image") for word in dict.fromkeys(wanted) if word not in machine),
        *(Given(word, "machine") for word in machine),
    ]


def _name(word: str) -> str:
    """What WORD is about. The kernel takes - and _ for the same in names of parameters (kernel-parameters.rst)."""
    return word.partition("=")[0].replace("-", "_")


def _stands_for(pattern: str, word: str) -> bool:
    return pattern == word or ("=" not in pattern and _name(pattern) == _name(word))
