"""One repository at one place: every request with its redirects, its authentication and its second tries.

The rule for secrets: credentials go to the registry's own origin and to the token servers that `challenge.trusts`;
tokens go to the origin that asked for one; whatever else a redirect leads to gets neither.
"""

import random
import time
from collections.abc import Callable
from dataclasses import dataclass
from typing import Final
from urllib.parse import urlencode

from keelboot.failure import AccessDenied, Failure, ImageNotFound, NetworkFailed
from keelboot.image.refusal import Refused
from keelboot.image.strictjson import parse
from keelboot.registry.authfile import Credentials
from keelboot.registry.challenge import Basic, Bearer, may_ask, parse_challenges, parse_token, trusts
from keelboot.registry.configuration import Place
from keelboot.registry.connections import Answer, Broken, Connections, Distrusted
from keelboot.registry.name import DOCKER_HUB, Name
from keelboot.registry.origin import Origin, redirected
from keelboot.registry.patience import PASSING, Patience, retry_after
from keelboot.registry.settings import Settings

_HOPS_MAX: Final = 5
_REDIRECTS: Final = frozenset((301, 302, 303, 307, 308))
_BODY_MAX: Final = 1 << 20  # bytes of a token server's answer
_ERROR_MAX: Final = 16 << 10  # bytes of an error's text that are looked at
_CLIENT: Final = "keelboot"


@dataclass(frozen=True, slots=True)
class Clock:
    """Time and chance, for tests to replace."""

    now: Callable[[], float] = time.time
    sleep: Callable[[float], None] = time.sleep
    chance: Callable[[], float] = random.random


class Again(Exception):  # noqa: N818 - it is what may be done
    """A try failed, the next one may not; ASKED are the seconds after which the registry wants it."""

    def __init__(self, why: str, *, asked: float | None = None, reached: bool = True) -> None:
        super().__init__(why)
        self.why, self.asked, self.reached = why, asked, reached


class Endpoint:
    """A repository's place. Methods raise NetworkFailed, AccessDenied, Failure for settings, and Refused."""

    def __init__(
        self, place: Place, settings: Settings, connections: Connections, patience: Patience, clock: Clock
    ) -> None:
        self.name = place.name
        self.patience = patience
        self._insecure = place.insecure
        self._settings, self._connections, self._clock = settings, connections, clock
        host = "registry-1.docker.io" if self.name.host == DOCKER_HUB else self.name.host
        secure = Origin.of(f"https://{host}")
        # certs.d of a host says that it speaks TLS, wherever it is.
        plain = secure.is_loopback and settings.certificates(secure) is None
        self.origin = Origin.of(f"http://{host}") if plain else secure
        self._scheme_known = not (place.insecure and self.origin.scheme == "https")
        self._reached = False
        self._authorization: str | None = None

    @property
    def _credentials(self) -> Credentials | None:
        return self._settings.credentials(self.name)

    def get(self, path: str, *, accept: str | None = None, offset: int = 0) -> Answer:
        """The answer to PATH below the repository, from byte OFFSET on if the registry can.

        Its status is one that asking again does not change, and it is neither a redirect nor a call for authentication.
        """
        headers = {"Accept": accept} if accept else {}
        if offset:
            headers["Range"] = f"bytes={offset}-"
        failures = 0
        while True:
            try:
                return self._ask(f"/v2/{self.name.path}/{path}", headers)
            except Again as again:
                failures += 1
                self.wait(again, failures)

    def wait(self, again: Again, failures: int) -> None:
        """Pause before the next try after FAILURES; raises NetworkFailed when there were enough."""
        self._reached = self._reached or again.reached
        if failures >= (self.patience.tries if self._reached else self.patience.first_tries):
            raise self._unreachable(f"{again.why}, {failures} times in a row") from again
        self._clock.sleep(self.patience.pause(failures, again.asked, self._clock.chance()))

    def _unreachable(self, why: str) -> NetworkFailed:
        return NetworkFailed(
            f"cannot read from {self.origin}",
            why=why,
            fix="Check the registry's name, the network and the proxy settings, then run the same command again.",
        )

    def _ask(self, path: str, headers: dict[str, str]) -> Answer:
        """One try. Raises Again too."""
        answer = self._follow(path, headers)
        if answer.status == 401 and Origin.of(answer.url) == self.origin:
            # Nothing was sent, or a token that has run out.
            challenge = parse_challenges(answer.all_headers("WWW-Authenticate"))
            self._authorization = self._answer(challenge, _told(answer))
            answer = self._follow(path, headers)
        if answer.status in PASSING:
            asked = retry_after(answer.header("Retry-After"), self._clock.now())
            raise Again(f"it answered {answer.status}{_told(answer)}", asked=asked)
        return answer

    def _follow(self, path: str, headers: dict[str, str]) -> Answer:
        """The answer at PATH or where it redirects to."""
        answer = self._first(path, headers)
        for _ in range(_HOPS_MAX):
            location = answer.header("Location")
            if answer.status not in _REDIRECTS or location is None:
                return answer
            answer.close()
            url = redirected(answer.url, location)
            answer = self._request("GET", url, self._authorized(url, headers))
        answer.close()
        raise Refused(f"it redirects more than {_HOPS_MAX} times")

    def _first(self, path: str, headers: dict[str, str]) -> Answer:
        url = f"{self.origin}{path}"
        if self._scheme_known:
            return self._request("GET", url, self._authorized(url, headers))
        try:
            answer = self._request("GET", url, self._authorized(url, headers))
        except Again:
            # registries.conf(5): `insecure` allows TLS that cannot be trusted, and no TLS at all.
            plain = Origin.of(f"http://{self.name.host}")
            answer = self._request("GET", f"{plain}{path}", headers)
            self.origin = plain
        self._scheme_known = True
        return answer

    def _authorized(self, url: str, headers: dict[str, str]) -> dict[str, str]:
        if self._authorization is None or Origin.of(url) != self.origin:
            return headers
        return {**headers, "Authorization": self._authorization}

    def _request(self, method: str, url: str, headers: dict[str, str], body: bytes | None = None) -> Answer:
        insecure = self._insecure and Origin.of(url).host == self.origin.host
        try:
            answer = self._connections.request(method, url, headers, body=body, insecure=insecure)
        except Distrusted as error:
            raise self._distrusted(Origin.of(url), str(error)) from error
        except Broken as error:
            raise Again(_at(url, self.origin) + str(error), reached=error.reached) from error
        self._reached = True
        return answer

    def _distrusted(self, origin: Origin, why: str) -> NetworkFailed:
        host = f"{origin.host}:{origin.port}" if origin.port != 443 else origin.host
        return NetworkFailed(
            f"cannot trust {origin}",
            why=f"its certificate is not accepted: {why}",
            fix=f"If its authority is a private one, put its certificate at /etc/containers/certs.d/{host}/ca.crt. "
            "If it is expired or not valid yet, compare this machine's clock (`date`).",
        )

    def _answer(self, challenge: Basic | Bearer | None, told: str) -> str | None:
        """The value of Authorization that satisfies CHALLENGE."""
        if challenge is None:
            raise self._denied(told)
        if isinstance(challenge, Bearer):
            return self._token(challenge)
        credentials = self._credentials
        if credentials is None or not credentials.user:
            raise self._denied(told)
        return credentials.basic

    def _token(self, challenge: Bearer) -> str:
        realm = challenge.origin
        if not may_ask(self.origin, realm):
            raise AccessDenied(
                f"cannot log in to {self.origin}",
                why=f"it sends its users to {realm} for a token, over plain http, and anyone on the way could read it",
                fix="Nothing was sent there. The registry has to name a token server with https.",
            )
        trusted = trusts(self.origin, realm)
        port = "" if realm.port in (80, 443) else f":{realm.port}"
        credentials = self._credentials if trusted else self._settings.credentials(Name(realm.host + port, ""))
        scope = f"repository:{self.name.path}:pull"
        if credentials and credentials.identity_token is not None:
            form = {
                "grant_type": "refresh_token",
                "refresh_token": credentials.identity_token,
                "client_id": _CLIENT,
                **challenge.query(scope),
            }
            headers = {"Content-Type": "application/x-www-form-urlencoded"}
            answer = self._request("POST", challenge.realm, headers, urlencode(form).encode())
        else:
            headers = {"Authorization": credentials.basic} if credentials else {}
            answer = self._request("GET", challenge.url(scope), headers)
        if answer.status in PASSING:
            asked = retry_after(answer.header("Retry-After"), self._clock.now())
            raise Again(f"its token server {realm} answered {answer.status}{_told(answer)}", asked=asked)
        if answer.status != 200:
            told = f" (its token server {realm} answered {answer.status}{_told(answer)})"
            if answer.status in (400, 401, 403):
                withheld = not trusted and self._credentials is not None
                raise self._denied(told, realm if withheld else None)
            raise self._unreachable(f"there is no token for it{told}")
        try:
            return f"Bearer {parse_token(read_body(answer, _BODY_MAX))}"
        except Refused as error:
            raise self._unreachable(f"{realm}: {error}") from error

    def _denied(self, told: str, withheld_from: Origin | None = None) -> AccessDenied:
        what = f"cannot read {self.name}"
        if withheld_from is not None:
            return AccessDenied(
                what,
                why=f"the registry wants a token from {withheld_from}, another host, which does not get "
                f"the credentials for {self.name.host}{told}",
                fix=f"If they belong there too, add an entry for {withheld_from.host} to the file with credentials.",
            )
        credentials = self._credentials
        if credentials is None:
            places = ", ".join(map(str, self._settings.places.auth_files))
            return AccessDenied(
                what,
                why=f"the registry wants to know who asks, or has no such image{told}; "
                f"no credentials for it are in {places}",
                fix=f"Check the name, or log in with `podman login {self.name.host}`.",
            )
        who = f"{credentials.user!a}" if credentials.user else "the identity token"
        return AccessDenied(
            what,
            why=f"the registry refuses {who}, with the credentials from {credentials.source}{told}",
            fix=f"Check the name and that user's rights, or log in again with `podman login {self.name.host}`.",
        )

    def failure(self, answer: Answer, what: str) -> Failure:
        """Why ANSWER is no good; WHAT is what was asked for."""
        status, told = answer.status, _told(answer)
        if status in (401, 403) and Origin.of(answer.url) == self.origin:
            return self._denied(told)
        if status in (401, 403):
            return AccessDenied(
                f"cannot read {what}",
                why=f"{Origin.of(answer.url)}, where the registry redirects to, answered {status}{told}",
                fix="The registry's storage refuses it; its administrator can tell why.",
            )
        if status == 404:
            return ImageNotFound(
                f"cannot open {what}", why=f"{self.origin} does not have it{told}", fix="Check its name and tag."
            )
        if status == 400 and self.origin.scheme == "http":
            return NetworkFailed(
                f"cannot read from {self.origin}",
                why=f"it does not understand plain http{told}",
                fix="If it speaks TLS, put the certificate of its authority at "
                f"/etc/containers/certs.d/{self.name.host}/ca.crt.",
            )
        return self._unreachable(f"it answered {status} when asked for {what}{told}")


def read_body(answer: Answer, limit: int) -> bytes:
    """All of ANSWER's body, and the connection given back. Raises Refused when it has more than LIMIT bytes, Again."""
    pieces, size = [], 0
    try:
        if (encoding := answer.header("Content-Encoding")) not in (None, "", "identity"):
            raise Refused(f"it came encoded as {encoding[:40]!a}, which was not asked for")
        while piece := answer.some(min(64 << 10, limit + 1 - size)):
            pieces.append(piece)
            size += len(piece)
            if size > limit:
                raise Refused(f"it has more than {limit} bytes")
        if not pieces and answer.length is None:
            # Where a connection ends among the headers, http.client takes those that came for all of them.
            raise Again("the answer is empty")
    except Broken as error:
        raise Again(str(error)) from error
    finally:
        answer.close()
    return b"".join(pieces)


def _at(url: str, origin: Origin) -> str:
    """Whom a message is about, if it is not the registry itself."""
    other = Origin.of(url)
    return "" if other == origin else f"{other}: "


def _told(answer: Answer) -> str:
    """What an error's body says, in parentheses and safe for a terminal, if it is what OCI's specification asks for."""
    try:
        value = parse(read_body(answer, _ERROR_MAX))
    except (Refused, Again):
        return ""
    errors = value.get("errors") if isinstance(value, dict) else None
    first = errors[0] if isinstance(errors, list) and errors else None
    if not isinstance(first, dict):
        return ""
    words = [str(first[name])[:200] for name in ("code", "message") if isinstance(first.get(name), str)]
    return f" ({ascii(': '.join(words))[1:-1]})" if words else ""
