"""Who one is for one repository: credentials, the token they are changed for, and the failure where neither will do.

The rule for secrets: credentials go to the registry's own origin and to the token servers that `challenge.trusts`;
tokens go to the origin that asked for one.
"""

import threading
from collections.abc import Callable, Mapping
from dataclasses import dataclass
from typing import Final
from urllib.parse import urlencode

from keelboot.failure import AccessDenied, NetworkFailed
from keelboot.image.refusal import Refused
from keelboot.registry.answers import Again, read_body, told
from keelboot.registry.authfile import Credentials
from keelboot.registry.challenge import Bearer, may_ask, parse_challenges, parse_token, trusts
from keelboot.registry.connections import Answer
from keelboot.registry.name import Name
from keelboot.registry.origin import Origin
from keelboot.registry.patience import PASSING, retry_after
from keelboot.registry.settings import Settings

_BODY_MAX: Final = 1 << 20  # bytes of a token server's answer
_CLIENT: Final = "keelboot"

# One request to a token server: method, URL, headers, body.
Request = Callable[[str, str, Mapping[str, str], bytes | None], Answer]


@dataclass(frozen=True, slots=True)
class Access:
    """What is to be done with a repository: read it, or write it too, with blobs of the repositories `also` there."""

    writes: bool = False
    also: tuple[str, ...] = ()

    @property
    def verb(self) -> str:
        """As messages have it."""
        return "push to" if self.writes else "read"

    def scopes(self, path: str) -> tuple[str, ...]:
        """What a token for the repository PATH has to be good for."""
        own = f"repository:{path}:{'pull,push' if self.writes else 'pull'}"
        return (own, *(f"repository:{other}:pull" for other in self.also))


class Authorization:
    """What requests for the repository NAME show at its own origin; threads share it."""

    def __init__(self, name: Name, access: Access, settings: Settings, now: Callable[[], float]) -> None:
        self.value: str | None = None  # of the header Authorization
        self._name, self._access, self._settings, self._now = name, access, settings, now
        self._lock = threading.Lock()

    @property
    def _credentials(self) -> Credentials | None:
        return self._settings.credentials(self._name)

    def renew(self, refused: Answer, origin: Origin, request: Request, *, instead_of: str | None) -> None:
        """Satisfy REFUSED, the answer 401 of the registry at ORIGIN to the value INSTEAD_OF.

        REQUEST asks a token server. Raises AccessDenied, NetworkFailed, Refused, Again, Failure for settings.
        """
        challenge = parse_challenges(refused.all_headers("WWW-Authenticate"))
        words = told(refused)
        with self._lock:
            if self.value != instead_of:
                return  # another thread was faster
            if challenge is None:
                raise self.denied(words)
            self.value = (
                self._token(challenge, origin, request) if isinstance(challenge, Bearer) else self._basic(words)
            )

    def _basic(self, words: str) -> str:
        credentials = self._credentials
        if credentials is None or not credentials.user:
            raise self.denied(words)
        return credentials.basic

    def _token(self, challenge: Bearer, origin: Origin, request: Request) -> str:
        realm = challenge.origin
        if not may_ask(origin, realm):
            raise AccessDenied(
                f"cannot log in to {origin}",
                why=f"it sends its users to {realm} for a token, over plain http, and anyone on the way could read it",
                fix="Nothing was sent there. The registry has to name a token server with https.",
            )
        trusted = trusts(origin, realm)
        port = "" if realm.port in (80, 443) else f":{realm.port}"
        credentials = self._credentials if trusted else self._settings.credentials(Name(realm.host + port, ""))
        answer = self._ask(challenge, credentials, request)
        if answer.status in PASSING:
            asked = retry_after(answer.header("Retry-After"), self._now())
            raise Again(f"its token server {realm} answered {answer.status}{told(answer)}", asked=asked)
        if answer.status != 200:
            words = f" (its token server {realm} answered {answer.status}{told(answer)})"
            if answer.status in (400, 401, 403):
                withheld = not trusted and self._credentials is not None
                raise self.denied(words, realm if withheld else None)
            raise _no_token(origin, f"there is no token for it{words}")
        try:
            return f"Bearer {parse_token(read_body(answer, _BODY_MAX))}"
        except Refused as error:
            raise _no_token(origin, f"{realm}: {error}") from error

    def _ask(self, challenge: Bearer, credentials: Credentials | None, request: Request) -> Answer:
        access = self._access
        # A registry that is written names the scope of one request, and the next one needs another.
        asked = challenge.asking(access.scopes(self._name.path), more=access.writes)
        if credentials and credentials.identity_token is not None:
            form = {
                "grant_type": "refresh_token",
                "refresh_token": credentials.identity_token,
                "client_id": _CLIENT,
                **challenge.form(asked),
            }
            headers = {"Content-Type": "application/x-www-form-urlencoded"}
            return request("POST", challenge.realm, headers, urlencode(form).encode())
        headers = {"Authorization": credentials.basic} if credentials else {}
        return request("GET", challenge.url(asked), headers, None)

    def denied(self, words: str, withheld_from: Origin | None = None) -> AccessDenied:
        """Why the registry, which said WORDS, or a token server WITHHELD_FROM, does not let the user in."""
        what, host = f"cannot {self._access.verb} {self._name}", self._name.host
        if withheld_from is not None:
            return AccessDenied(
                what,
                why=f"the registry wants a token from {withheld_from}, another host, which does not get "
                f"the credentials for {host}{words}",
                fix=f"If they belong there too, add an entry for {withheld_from.host} to the file with credentials.",
            )
        credentials = self._credentials
        if credentials is None:
            places = ", ".join(map(str, self._settings.places.auth_files))
            missing = "" if self._access.writes else ", or has no such image"
            return AccessDenied(
                what,
                why=f"the registry wants to know who asks{missing}{words}; no credentials for it are in {places}",
                fix=f"Check the name, or log in with `podman login {host}`.",
            )
        who = f"{credentials.user!a}" if credentials.user else "the identity token"
        return AccessDenied(
            what,
            why=f"the registry refuses {who}, with the credentials from {credentials.source}{words}",
            fix=f"Check the name and that user's rights, or log in again with `podman login {host}`.",
        )


def _no_token(origin: Origin, why: str) -> NetworkFailed:
    return NetworkFailed(
        f"cannot log in to {origin}",
        why=why,
        fix="Check the registry's name, the network and the proxy settings, then run the same command again.",
    )
