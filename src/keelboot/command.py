"""The one way to run a program of another project.

The environment is made from a short list, so that a user's settings reach podman, and nothing else leaks in or changes
the language of messages that are parsed. Standard input is empty unless given. A failure is reported once, with the
command to paste.
"""

import os
import shlex
import shutil
import subprocess
from collections.abc import Mapping, Sequence
from pathlib import Path
from typing import IO

from keelboot.failure import CommandFailed, MissingTool

_PASSED_ON = (
    "HOME", "USER", "LOGNAME", "PATH", "TMPDIR", "TERM", "SSL_CERT_FILE", "SSL_CERT_DIR",
    "http_proxy", "https_proxy", "no_proxy", "HTTP_PROXY", "HTTPS_PROXY", "NO_PROXY", "all_proxy", "ALL_PROXY",
    "XDG_RUNTIME_DIR", "XDG_CONFIG_HOME", "XDG_DATA_HOME", "XDG_CACHE_HOME", "DBUS_SESSION_BUS_ADDRESS",
    "REGISTRY_AUTH_FILE", "CONTAINERS_CONF", "CONTAINERS_CONF_OVERRIDE", "CONTAINERS_STORAGE_CONF",
    "CONTAINERS_REGISTRIES_CONF", "STORAGE_DRIVER", "STORAGE_OPTS", "BUILDAH_FORMAT",
    "_CONTAINERS_USERNS_CONFIGURED", "_CONTAINERS_ROOTLESS_UID", "_CONTAINERS_ROOTLESS_GID",
)  # fmt: skip
# Debian keeps filesystem tools out of an ordinary user's PATH, and they work for one all the same.
_SBIN = ("/usr/local/sbin", "/usr/sbin", "/sbin")


def environment(extra: Mapping[str, str] | None = None) -> dict[str, str]:
    """The environment that programs get: the user's relevant settings, a fixed language, sbin in the path."""
    chosen = {name: os.environ[name] for name in _PASSED_ON if name in os.environ}
    chosen["PATH"] = os.pathsep.join([chosen.get("PATH", os.defpath), *_SBIN])
    return chosen | {"LC_ALL": "C.UTF-8"} | dict(extra or {})


def find(program: str) -> Path | None:
    """Where PROGRAM is, or None."""
    path = shutil.which(program, path=environment()["PATH"])
    return Path(path) if path else None


def require(program: str, *, purpose: str) -> Path:
    """Where PROGRAM is.

    Raises MissingTool if it is not installed.
    """
    path = find(program)
    if path is None:
        raise MissingTool(
            f"cannot {purpose}", why=f"{program} is not installed", fix="`keelboot doctor` tells what installs it."
        )
    return path


def run(
    argv: Sequence[str | os.PathLike[str]],
    *,
    purpose: str,
    stdin: bytes | None = None,
    extra_environment: Mapping[str, str] | None = None,
    cwd: Path | None = None,
    accept: Sequence[int] = (0,),
) -> subprocess.CompletedProcess[bytes]:
    """Run ARGV to its end and return what it printed.

    PURPOSE completes the sentence "cannot ...". Raises MissingTool, and CommandFailed when the exit status is not one
    of ACCEPT.
    """
    require(os.fspath(argv[0]), purpose=purpose)
    done = subprocess.run(
        [os.fspath(word) for word in argv],
        input=stdin if stdin is not None else b"",
        capture_output=True,
        env=environment(extra_environment),
        cwd=cwd,
        check=False,
    )
    if done.returncode not in accept:
        raise failed(argv, done.returncode, done.stderr or done.stdout, purpose=purpose)
    return done


def start(
    argv: Sequence[str | os.PathLike[str]],
    *,
    purpose: str,
    stdin: int | IO[bytes] = subprocess.DEVNULL,
    stdout: int | IO[bytes] | None = subprocess.PIPE,
    stderr: int | IO[bytes] | None = subprocess.PIPE,
    extra_environment: Mapping[str, str] | None = None,
    cwd: Path | None = None,
    pass_fds: Sequence[int] = (),
    own_session: bool = False,
) -> subprocess.Popen[bytes]:
    """Start ARGV and return at once; the caller waits. OWN_SESSION keeps the terminal's Ctrl-C from reaching it.

    Raises MissingTool.
    """
    require(os.fspath(argv[0]), purpose=purpose)
    return subprocess.Popen(
        [os.fspath(word) for word in argv],
        stdin=stdin,
        stdout=stdout,
        stderr=stderr,
        env=environment(extra_environment),
        cwd=cwd,
        pass_fds=pass_fds,
        start_new_session=own_session,
    )


def failed(argv: Sequence[str | os.PathLike[str]], status: int, output: bytes, *, purpose: str) -> CommandFailed:
    """The failure that tells of a program's unexpected exit, with its last lines and the command to try by hand."""
    lines = output.decode(errors="replace").strip().splitlines()[-8:] or ["it printed nothing"]
    ended = f"exit status {status}" if status >= 0 else f"signal {-status}"
    return CommandFailed(
        f"cannot {purpose}",
        why=f"{Path(os.fspath(argv[0])).name} ended with {ended}:\n  " + "\n  ".join(lines),
        fix="The command was: " + shlex.join([os.fspath(word) for word in argv]),
    )
