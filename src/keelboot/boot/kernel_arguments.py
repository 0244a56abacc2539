"""The kernel command line: what keelboot sets, what the image asks for, what the operator adds, in this order.

An image asks with files of bootc's form, `/usr/lib/bootc/kargs.d/*.toml`: `kargs = ["..."]`, and `match-architectures`
to apply only there. Files are read in name order; a file that cannot be read as such is refused, not skipped.
"""

import tomllib
from collections.abc import Iterable, Mapping, Sequence

from keelboot.failure import InvalidImage

_SERIAL = {"amd64": "ttyS0,115200n8", "arm64": "ttyAMA0,115200n8"}
_RUST_NAMES = {"amd64": "x86_64", "arm64": "aarch64"}  # what bootc compares with


def defaults(architecture: str) -> Sequence[str]:
    """What every machine gets. ARCHITECTURE is OCI's name.

    The last console is the one that services and the emergency shell talk to; a machine without a serial port falls
    back to the display by itself. `systemd.firstboot` would ask questions on the console and wait for the answers.

    A panic, a crash of the init and a failure in the initramfs end in a restart, of a proven version as well: a counted
    try has to come to its end unattended, and what was late or loose may be there the next time. A shell would ask for
    a password that the initramfs does not know. `rd.shell=1` among the machine's own arguments, which come later,
    brings it back. (systemd 256 has crash_action=; what came before knows only crash_reboot=, which it still takes.)
    """
    consoles = ["console=tty0"] + ([f"console={_SERIAL[architecture]}"] if architecture in _SERIAL else [])
    restarts = ["panic=10", "systemd.crash_reboot=1", "rd.shell=0", "rd.emergency=reboot"]  # dracut.cmdline(7)
    return ["rw", *consoles, "quiet", "systemd.show_status=1", "systemd.firstboot=0", *restarts]


def of_image(files: Mapping[str, bytes], architecture: str) -> Sequence[str]:
    """The arguments that an image's kargs.d FILES (name -> content) ask for on ARCHITECTURE.

    Raises InvalidImage.
    """
    arguments: list[str] = []
    for name in sorted(files):
        if not name.endswith(".toml"):
            continue
        arguments += _of_file(name, files[name], architecture)
    return arguments


def command_line(digest: str, architecture: str, *, image: Iterable[str] = (), machine: Iterable[str] = ()) -> str:
    """The whole command line of the deployment DIGEST.

    Raises ValueError where an argument of the machine's is not one, or would name another deployment.
    """
    words = [f"composefs={digest}", *defaults(architecture), *image, *machine]
    for word in words[1:]:
        check(word)
    return " ".join(words)


def check(word: str) -> None:
    """Raise ValueError unless WORD is a single argument that may be added to a command line."""
    if not word or any(ord(character) < 0x20 for character in word):
        raise ValueError(f"not a kernel argument: {word!r}")
    if " " in word and word.count('"') % 2:
        raise ValueError(f"a quote is not closed in {word!r}")
    if " " in word and '"' not in word:
        raise ValueError(f"{word!r} is more than one argument: give each by itself")
    if word.partition("=")[0] in ("composefs", "composefs.digest"):
        raise ValueError(f"{word!r} names the deployment, which is keelboot's to say")


def _of_file(name: str, content: bytes, architecture: str) -> Sequence[str]:
    def refuse(why: str) -> InvalidImage:
        return InvalidImage(
            f"cannot use the kernel arguments in /usr/lib/bootc/kargs.d/{name}",
            why=why,
            fix='Such a file has kargs = ["..."] and, if wanted, match-architectures = ["x86_64"]. Correct the image.',
        )

    try:
        table = tomllib.loads(content.decode())
    except (tomllib.TOMLDecodeError, UnicodeDecodeError) as error:
        raise refuse(str(error)) from error
    unknown = sorted(set(table) - {"kargs", "match-architectures"})
    if unknown:
        raise refuse(f"unknown key {unknown[0]!r}")
    words, only = table.get("kargs"), table.get("match-architectures")
    if not isinstance(words, list) or not all(isinstance(word, str) for word in words):
        raise refuse("kargs is not a list of strings")
    if only is not None and not (isinstance(only, list) and all(isinstance(item, str) for item in only)):
        raise refuse("match-architectures is not a list of strings")
    if only is not None and _RUST_NAMES.get(architecture, architecture) not in only:
        return []
    for word in words:
        try:
            check(word)
        except ValueError as error:
            raise refuse(str(error)) from error
    return words
