"""One repository at one place: every request with its redirects, its authentication and its second tries.

Credentials and tokens go to the registry's own origin (see `authorization`); whatever else a redirect or the Location
of an upload leads to gets neither.
"""

import random
import time
from collections.abc import Callable, Mapping
from dataclasses import dataclass, field
from typing import Final

from keelboot.failure import AccessDenied, Failure, ImageNotFound, NetworkFailed
from keelboot.image.refusal import Refused
from keelboot.registry.answers import Again, told
from keelboot.registry.authorization import Access, Authorization
from keelboot.registry.configuration import Place
from keelboot.registry.connections import Answer, Broken, Connections, Distrusted, Flow
from keelboot.registry.name import DOCKER_HUB
from keelboot.registry.origin import Origin, redirected
from keelboot.registry.patience import PASSING, Patience, retry_after
from keelboot.registry.settings import Settings

_HOPS_MAX: Final = 5
_REDIRECTS: Final = frozenset((301, 302, 303, 307, 308))
_READING: Final = Access()


@dataclass(frozen=True, slots=True)
class Clock:
    """Time and chance, for tests to replace."""

    now: Callable[[], float] = time.time
    sleep: Callable[[float], object] | None = None  # as the connections have it, which can be cut short
    chance: Callable[[], float] = random.random


@dataclass(frozen=True, slots=True, kw_only=True)
class Ask:
    """One request. `body` is there for every try, unless it is a Flow; `sent` is told of its bytes as they go."""

    method: str = "GET"
    headers: Mapping[str, str] = field(default_factory=dict)
    body: bytes | memoryview | Flow | None = None
    sent: Callable[[int], None] | None = None


class Endpoint:
    """A repository's place, for any number of threads.

    Methods raise NetworkFailed, AccessDenied, Failure for settings, and Refused.
    """

    def __init__(
        self,
        place: Place,
        settings: Settings,
        connections: Connections,
        patience: Patience,
        clock: Clock,
        *,
        access: Access = _READING,
    ) -> None:
        self.name = place.name
        self.patience = patience
        self._insecure = place.insecure
        self._connections, self._clock, self._access = connections, clock, access
        host = "registry-1.docker.io" if self.name.host == DOCKER_HUB else self.name.host
        secure = Origin.of(f"https://{host}")
        # certs.d of a host says that it speaks TLS, wherever it is.
        plain = secure.is_loopback and settings.certificates(secure) is None
        self.origin = Origin.of(f"http://{host}") if plain else secure
        self._scheme_known = not (place.insecure and self.origin.scheme == "https")
        self._reached = False
        self._authorization = Authorization(self.name, access, settings, clock.now)

    def get(self, path: str, *, accept: str | None = None, offset: int = 0) -> Answer:
        """The answer to PATH below the repository, from byte OFFSET on if the registry can.

        Its status is one that asking again does not change, and it is neither a redirect nor a call for authentication.
        """
        headers = {"Accept": accept} if accept else {}
        if offset:
            headers["Range"] = f"bytes={offset}-"
        return self.ask(path, Ask(headers=headers))

    def ask(self, path: str, ask: Ask) -> Answer:
        """The answer to ASK at PATH below the repository, or at a URL: as `get` has it."""
        failures = 0
        while True:
            try:
                return self.once(path, ask)
            except Again as again:
                failures += 1
                self.wait(again, failures)

    def wait(self, again: Again, failures: int) -> None:
        """Pause before the next try after FAILURES; raises NetworkFailed when there were enough."""
        self._reached = self._reached or again.reached
        if failures >= (self.patience.tries if self._reached else self.patience.first_tries):
            raise self._unreachable(f"{again.why}, {failures} times in a row") from again
        sleep = self._clock.sleep or self._connections.pause
        sleep(self.patience.pause(failures, again.asked, self._clock.chance()))

    def _unreachable(self, why: str) -> NetworkFailed:
        return NetworkFailed(
            f"cannot {'write to' if self._access.writes else 'read from'} {self.origin}",
            why=why,
            fix="Check the registry's name, the network and the proxy settings, then run the same command again.",
        )

    def once(self, path: str, ask: Ask) -> Answer:
        """One try. Raises Again too."""
        shown = self._authorization.value
        answer = self._follow(path, ask)
        if answer.status == 401 and Origin.of(answer.url) == self.origin:
            # Nothing was sent, or a token that has run out or is not good for this.
            self._authorization.renew(answer, self.origin, self._request, instead_of=shown)
            if isinstance(ask.body, Flow):
                raise Again("its token ran out")
            answer = self._follow(path, ask)
        if answer.status in PASSING:
            asked = retry_after(answer.header("Retry-After"), self._clock.now())
            raise Again(f"it answered {answer.status}{told(answer)}", asked=asked)
        return answer

    def _follow(self, path: str, ask: Ask) -> Answer:
        """The answer at PATH or where it redirects to; who writes is told where to by Location, not by redirects."""
        answer = self._first(path, ask)
        for _ in range(_HOPS_MAX):
            location = answer.header("Location")
            if answer.status not in _REDIRECTS or location is None or ask.method not in ("GET", "HEAD"):
                return answer
            answer.close()
            answer = self._send(redirected(answer.url, location), ask)
        answer.close()
        raise Refused(f"it redirects more than {_HOPS_MAX} times")

    def _first(self, path: str, ask: Ask) -> Answer:
        if "://" in path:
            return self._send(path, ask)
        path = f"/v2/{self.name.path}/{path}"
        if self._scheme_known:
            return self._send(f"{self.origin}{path}", ask)
        try:
            answer = self._send(f"{self.origin}{path}", ask)
        except Again:
            # registries.conf(5): `insecure` allows TLS that cannot be trusted, and no TLS at all.
            plain = Origin.of(f"http://{self.name.host}")
            answer = self._request(ask.method, f"{plain}{path}", ask.headers, ask.body, ask.sent)
            self.origin = plain
        self._scheme_known = True
        return answer

    def _send(self, url: str, ask: Ask) -> Answer:
        shown = self._authorization.value
        own = {} if shown is None or Origin.of(url) != self.origin else {"Authorization": shown}
        return self._request(ask.method, url, {**ask.headers, **own}, ask.body, ask.sent)

    def _request(
        self,
        method: str,
        url: str,
        headers: Mapping[str, str],
        body: bytes | memoryview | Flow | None = None,
        sent: Callable[[int], None] | None = None,
    ) -> Answer:
        insecure = self._insecure and Origin.of(url).host == self.origin.host
        try:
            answer = self._connections.request(
                method, url, headers, body=body, sent=sent, led_by=self.origin, insecure=insecure
            )
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

    def failure(self, answer: Answer, what: str) -> Failure:
        """Why ANSWER is no good; WHAT is what was asked for."""
        status, words = answer.status, told(answer)
        if status in (401, 403) and Origin.of(answer.url) == self.origin:
            return self._authorization.denied(words)
        if status in (401, 403):
            return AccessDenied(
                f"cannot {self._access.verb} {what}",
                why=f"{Origin.of(answer.url)}, where the registry redirects to, answered {status}{words}",
                fix="The registry's storage refuses it; its administrator can tell why.",
            )
        if status == 404 and answer.method not in ("GET", "HEAD"):
            return AccessDenied(
                f"cannot push to {self.name}",
                why=f"{self.origin} has no such repository and makes none for this user{words}",
                fix="Check the name; some registries want a repository to be made before it is pushed to.",
            )
        if status == 404:
            return ImageNotFound(
                f"cannot open {what}", why=f"{self.origin} does not have it{words}", fix="Check its name and tag."
            )
        if status == 400 and self.origin.scheme == "http" and not words:
            return NetworkFailed(
                f"cannot {'write to' if self._access.writes else 'read from'} {self.origin}",
                why="it does not understand plain http",
                fix="If it speaks TLS, put the certificate of its authority at "
                f"/etc/containers/certs.d/{self.name.host}/ca.crt.",
            )
        return self._unreachable(f"it answered {status} when asked for {what}{words}")


def _at(url: str, origin: Origin) -> str:
    """Whom a message is about, if it is not the registry itself."""
    other = Origin.of(url)
    return "" if other == origin else f"{other}: "
