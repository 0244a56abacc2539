"""Reads what `places` names: registries.conf, credentials and their helpers, certificates."""

import json
import ssl
from collections.abc import Iterator
from functools import cached_property
from pathlib import Path
from typing import Any

from keelboot import command
from keelboot.failure import Failure
from keelboot.registry.authfile import AuthFile, Credentials, Helper, parse_auth_file
from keelboot.registry.configuration import Configuration, parse_configuration
from keelboot.registry.name import Name
from keelboot.registry.origin import Origin
from keelboot.registry.places import Places

_FILE_MAX = 4 << 20  # bytes, of one file
_TOKEN_USER = "<token>"  # noqa: S105 - what helpers answer for a user when the secret is an identity token


class Settings:
    """The settings at PLACES; each file is read when it is first needed, and once."""

    def __init__(self, places: Places) -> None:
        self.places = places
        self._found: dict[Name, Credentials | None] = {}

    @cached_property
    def configuration(self) -> Configuration:
        """What the files registries.conf say together. Raises Failure."""
        files = []
        for path in self.places.configurations:
            content = self._read(path)
            if content is not None:
                files.append((str(path), content))
                break
        for directory in self.places.drop_ins:
            for path in _listed(directory, ".conf"):
                content = self._read(path)
                if content is not None:
                    files.append((str(path), content))
        return parse_configuration(files)

    def credentials(self, name: Name) -> Credentials | None:
        """Who the user is for the repository NAME; an empty path asks about the host. Raises Failure."""
        if name not in self._found:
            self._found[name] = self._credentials(name)
        return self._found[name]

    def _credentials(self, name: Name) -> Credentials | None:
        for file in self._auth_files:
            found = file.find(name)
            if isinstance(found, Helper):
                found = _ask(found)
            if found is not None:
                return found
        return None

    @cached_property
    def _auth_files(self) -> list[AuthFile]:
        read = ((str(path), self._read(path)) for path in self.places.auth_files)
        return [parse_auth_file(path, content) for path, content in read if content is not None and content.strip()]

    def certificates(self, origin: Origin) -> Path | None:
        """The directory of certs.d for ORIGIN; None where there is none."""
        host = f"[{origin.host}]" if ":" in origin.host else origin.host
        usual = origin.port == (443 if origin.scheme == "https" else 80)
        names = [f"{host}:{origin.port}", *([host] if usual else [])]
        for place in self.places.certificates:
            for name in names:
                if (place / name).is_dir():
                    return place / name
        return None

    def tls(self, origin: Origin, led_by: Origin, *, insecure: bool) -> ssl.SSLContext:
        """How to speak TLS with ORIGIN: the system's authorities and those of certs.d, and a certificate of one's own.

        The authorities of LED_BY, the registry that names ORIGIN as its token server or storage, count there too, as
        with podman: who has a private one for a registry has it for all of it. INSECURE takes any certificate. Raises
        Failure.
        """
        # OpenSSL itself heeds SSL_CERT_FILE and SSL_CERT_DIR for the system's authorities.
        context = ssl.create_default_context()
        # Python 3.13 is stricter by default than the one before, and than podman: it refuses an authority made by hand
        # for leaving out an identifier, and takes an intermediate one as an anchor. The same holds with every Python.
        context.verify_flags = (context.verify_flags | ssl.VERIFY_X509_PARTIAL_CHAIN) & ~ssl.VERIFY_X509_STRICT
        directory = self.certificates(origin)
        for place in {directory, self.certificates(led_by)}:
            for path in _listed(place, ".crt") if place else ():
                _load(path, lambda path=path: context.load_verify_locations(path))
        for path in _listed(directory, ".cert") if directory else ():
            _load(path, lambda path=path: context.load_cert_chain(path, path.with_suffix(".key")))
        if insecure:
            context.check_hostname = False
            context.verify_mode = ssl.CERT_NONE
        return context

    def _read(self, path: Path) -> bytes | None:
        try:
            with path.open("rb") as file:
                content = file.read(_FILE_MAX + 1)
        except (FileNotFoundError, NotADirectoryError) as error:
            if path in self.places.named:
                raise _unreadable(path, error) from error
            return None
        except OSError as error:
            raise _unreadable(path, error) from error
        if len(content) > _FILE_MAX:
            raise Failure(f"cannot use {path}", why=f"it is larger than {_FILE_MAX} bytes", fix="Mend it.")
        return content


def _ask(helper: Helper) -> Credentials | None:
    """What the credential helper answers (Docker's credential helper protocol); None where it knows nothing."""
    program = f"docker-credential-{helper.name}"
    # Its output may hold secrets: whatever its status is, it must not come into a message.
    done = command.run(
        [program, "get"],
        purpose=f"ask for the credentials of {helper.server}",
        stdin=helper.server.encode(),
        accept=range(256),
    )
    if done.returncode:
        if b"not found" in done.stdout + done.stderr:
            return None
        raise _silent(program, helper, f"it ended with exit status {done.returncode}")
    try:
        answer: Any = json.loads(done.stdout)
        user, secret = str(answer["Username"]), str(answer["Secret"])
    except (ValueError, KeyError, TypeError) as error:
        raise _silent(program, helper, "its answer is not what the protocol of credential helpers says") from error
    if user == _TOKEN_USER:
        return Credentials("", "", program, secret)
    return Credentials(user, secret, program)


def _silent(program: str, helper: Helper, why: str) -> Failure:
    return Failure(
        f"cannot ask for the credentials of {helper.server}",
        why=f"{program} gave none: {why}",
        fix=f"Try `echo {helper.server} | {program} get`, or log in with `podman login {helper.server}`.",
    )


def _listed(directory: Path, suffix: str) -> Iterator[Path]:
    try:
        paths = sorted(directory.iterdir())
    except (FileNotFoundError, NotADirectoryError):
        return
    except OSError as error:
        raise _unreadable(directory, error) from error
    yield from (path for path in paths if path.name.endswith(suffix))


def _load(path: Path, load: Any) -> None:  # noqa: ANN401 - two methods of SSLContext, neither of which returns anything
    try:
        load()
    except (OSError, ssl.SSLError) as error:
        raise Failure(
            f"cannot use the certificate {path}",
            why=error.strerror or str(error),
            fix="NAME.crt is an authority's certificate in PEM; NAME.cert and NAME.key beside it are one's own.",
        ) from error


def _unreadable(path: Path, error: OSError) -> Failure:
    return Failure(f"cannot read {path}", why=error.strerror or str(error), fix="Mend its mode, or move it away.")
