"""`podman build`'s command line, read just far enough to find the context, the names, and what must not be said twice.

Nothing is judged here: a word that podman does not know is podman's to refuse. An option that is absent from the table
is taken to be a switch; its value, if it has one, then looks like a positional word, and since the context is the last
one it is still found.
"""

from collections.abc import Sequence
from dataclasses import dataclass
from typing import Self

# podman-build(1) and buildah-build(1), versions 4.3 to 5.8 and 1.28 to 1.43: the options that are followed by a value.
_WITH_VALUE = frozenset(
    """
    add-host annotation arch authfile build-arg build-arg-file build-context cache-from cache-to cache-ttl cap-add
    cap-drop cert-dir cgroup-parent cgroupns cpp-flag cpu-period cpu-quota cpu-shares cpuset-cpus cpuset-mems creds cw
    decryption-key device dns dns-option dns-search env file format from hooks-dir ignorefile iidfile iidfile-raw ipc
    isolation jobs label layer-label logfile manifest memory memory-swap metadata-file network os os-feature os-version
    output pid platform retry retry-delay rewrite-policy runtime runtime-flag sbom sbom-image-output
    sbom-image-purl-output sbom-merge-strategy sbom-output sbom-purl-output sbom-scanner-command sbom-scanner-image
    secret security-opt shm-size sign-by source-date-epoch source-policy-file ssh tag target timestamp
    transient-run-mount ulimit unsetannotation unsetenv unsetlabel userns userns-gid-map userns-gid-map-group
    userns-uid-map userns-uid-map-user uts variant volume
    """.split()  # noqa: SIM905 - ninety words, one a line or quoted, are harder to compare with the manual
)
_LONG_OF_SHORT = {
    "c": "cpu-shares", "f": "file", "m": "memory", "o": "output", "t": "tag", "v": "volume",
    "D": "disable-compression", "q": "quiet", "h": "help",
}  # fmt: skip


# The name of a part that is no option.
_WORD = ""


@dataclass(frozen=True, slots=True)
class Part:
    """One option, with its long name, its value (None for a switch) and the words it was written with; or a word."""

    name: str
    value: str | None
    words: tuple[str, ...]


@dataclass(frozen=True, slots=True)
class Line:
    """What stands after `build`, in order."""

    parts: tuple[Part, ...]

    @classmethod
    def parse(cls, words: Sequence[str], *, own: frozenset[str] = frozenset()) -> Self:
        """Read WORDS; OWN are further options with a value, which podman does not have.

        Raises ValueError where the last option lacks its value.
        """
        parts: list[Part] = []
        rest = list(words)
        while rest:
            word = rest.pop(0)
            if word == "--":
                parts += [Part("--", None, (word,)), *(Part(_WORD, after, (after,)) for after in rest)]
                break
            if word == "-" or not word.startswith("-"):
                parts.append(Part(_WORD, word, (word,)))
            elif word.startswith("--"):
                parts.append(_long(word, rest, _WITH_VALUE | own))
            else:
                parts += _short(word, rest)
        return cls(tuple(parts))

    @property
    def positional(self) -> tuple[str, ...]:
        """The words that belong to no option; the last is the context."""
        return self.values(_WORD)

    def values(self, *names: str) -> tuple[str, ...]:
        """What the options NAMES were given, in order."""
        return tuple(part.value or "" for part in self.parts if part.name in names)

    def has(self, *names: str) -> bool:
        return any(part.name in names for part in self.parts)

    def without(self, *names: str) -> Self:
        """The same line, less the options NAMES."""
        return type(self)(tuple(part for part in self.parts if part.name not in names))

    def words(self) -> list[str]:
        """The line as words again."""
        return [word for part in self.parts for word in part.words]


def _long(word: str, rest: list[str], with_value: frozenset[str]) -> Part:
    name, equals, value = word[2:].partition("=")
    if equals:
        return Part(name, value, (word,))
    if name not in with_value:
        return Part(name, None, (word,))
    if not rest:
        raise ValueError(f"{word} needs a value")
    value = rest.pop(0)
    return Part(name, value, (word, value))


def _short(word: str, rest: list[str]) -> list[Part]:
    parts: list[Part] = []
    letters = word[1:]
    while letters:
        letter, letters = letters[0], letters[1:]
        name = _LONG_OF_SHORT.get(letter, letter)
        if name not in _WITH_VALUE:
            parts.append(Part(name, None, (f"-{letter}",)))
            continue
        # The value is the rest of the word (an equals sign may stand between), or the next word.
        if letters:
            parts.append(Part(name, letters.removeprefix("="), (f"-{letter}{letters}",)))
        elif rest:
            value = rest.pop(0)
            parts.append(Part(name, value, (f"-{letter}", value)))
        else:
            raise ValueError(f"-{letter} needs a value")
        break
    return parts
