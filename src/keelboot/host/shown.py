"""The status for people: one screen, 24 lines of 100 columns, from the document that programs get.

All text that came from an image or a check's output is stripped of what a terminal would act on.
"""

from collections.abc import Callable, Mapping, Sequence
from datetime import datetime, timedelta, tzinfo
from typing import Any, Final

WIDTH: Final = 100
HEIGHT: Final = 24
_LABEL = 11
_ROOM = WIDTH - _LABEL - 1
_OTHERS_MAX = 3
_WARNINGS_MAX = 3
_BOLD, _RED, _GREEN, _YELLOW, _DIM, _PLAIN = "\x1b[1m", "\x1b[31m", "\x1b[32m", "\x1b[33m", "\x1b[2m", "\x1b[0m"
_STAGES = ("initramfs", "root", "init", "up", "good")  # of docs/formats/deployment.md

Document = Mapping[str, Any]


class _Screen:
    """Rows of a label and a text; colours only where they are wanted."""

    def __init__(self, *, colour: bool) -> None:
        self.lines: list[str] = []
        self._colour = colour

    def head(self, mark: str, label: str, text: str, style: str) -> None:
        """The first row of a block, set off from the one before."""
        if self.lines:
            self.lines.append("")
        self.lines.append(self.styled(f"{mark} {label:<{_LABEL - 2}} {_fitting(text)}", style))

    def row(self, label: str, text: str, style: str = "") -> None:
        self.lines.append(f"{'  ' + label:<{_LABEL}} {self.styled(_fitting(text), style)}")

    def styled(self, text: str, style: str) -> str:
        return f"{style}{text}{_PLAIN}" if self._colour and style else text


def screen(
    document: Document,
    *,
    now: datetime,
    zone: tzinfo | None = None,
    colour: bool = False,
    verbose: bool = False,
    command: str = "keelboot",
) -> str:
    """DOCUMENT for people, at NOW; times are those of ZONE, or the machine's own.

    VERBOSE tells digests whole and everything that is left out otherwise, whatever room it takes.
    """
    status = document["status"]
    shown = _Screen(colour=colour)
    if status["booted"] is None:
        return "This machine does not run a keelboot deployment: there is nothing to update or to go back to.\n"
    told = _Told(status, now, zone, verbose, command)
    _booted(shown, told)
    _update(shown, told)
    _staged(shown, told)
    _back(shown, told)
    _fallen(shown, told)
    warnings = told.extra.get("warnings") or []
    for text in warnings if verbose else warnings[:_WARNINGS_MAX]:
        shown.row("warning", text, _YELLOW)
    lines = shown.lines if verbose else _cut(shown.lines, command)
    return "\n".join(line.rstrip() for line in lines) + "\n"


class _Told:
    """The document and how it is told."""

    def __init__(self, status: Document, now: datetime, zone: tzinfo | None, verbose: bool, command: str) -> None:
        self.status, self.now, self.zone, self.verbose, self.command = status, now, zone, verbose, command
        self.extra: Document = status.get("keelboot") or {}

    def about(self, entry: Document) -> Document:
        """What keelboot knows of the deployment of ENTRY."""
        found: Document = (self.extra.get("deployments") or {}).get((entry.get("composefs") or {}).get("verity"), {})
        return found

    def version(self, entry: Document) -> str:
        image = entry.get("image")
        if image is None:
            return f"composefs {self.digest((entry.get('composefs') or {}).get('verity') or '')}"
        return f"version {image['version']}" if image["version"] else f"image of {self.when(image['timestamp'])}"

    def when(self, text: str | None) -> str:
        moment = _moment(text)
        return moment.astimezone(self.zone).strftime("%Y-%m-%d %H:%M") if moment else "an unknown time"

    def ago(self, text: str | None) -> str:
        moment = _moment(text)
        return f"{self.when(text)} ({_span(self.now - moment)})" if moment else self.when(text)

    def digest(self, text: str) -> str:
        algorithm, _, digits = text.rpartition(":")
        kept = digits if self.verbose else digits[:12]
        return f"{algorithm}:{kept}" if algorithm else kept


def _booted(shown: _Screen, told: _Told) -> None:
    entry = told.status["booted"]
    about, extra = told.about(entry), told.extra
    title = about.get("title")
    shown.head("*", "running", ", ".join(text for text in (told.version(entry), title) if text), _BOLD)
    _origin(shown, told, entry)
    _signed(shown, told, entry)
    _policy(shown, told)
    since = f"booted {told.ago(extra.get('since'))}"
    if extra.get("deployed"):
        since += f", first {told.ago(extra['deployed'])}"
    shown.row("since", since)
    state = about.get("state")
    if state == "staged":
        left, done = about.get("triesLeft"), about.get("triesDone")
        tries = f": try {done} of {left + done}" if isinstance(left, int) and isinstance(done, int) else ""
        shown.row("health", f"on trial{tries}; it counts as good once the health checks pass", _YELLOW)
    elif state == "bad":
        shown.row("health", "it failed its trial: `keelboot health` runs the checks again", _RED)
    elif extra.get("unhealthy"):
        shown.row("health", f"failed at this boot: {', '.join(extra['unhealthy'])}   (keelboot health)", _RED)
    elif state == "good":
        shown.row("health", "good")
    if extra.get("etcChanged") is not None:
        count = extra["etcChanged"]
        hint = "   (keelboot etc diff)" if count else ""
        shown.row("/etc", f"{count} {'path differs' if count == 1 else 'paths differ'} from the image's{hint}")
    overlay = told.status.get("usrOverlay")
    if overlay:
        mode = "writable" if overlay["accessMode"] == "readWrite" else "read-only"
        shown.row("/usr", f"a {mode} overlay lies over it until the next boot", _YELLOW)
    if told.status.get("readOnly"):
        shown.row("disk", "read-only: nothing can be changed; `dmesg` may tell why", _YELLOW)


def _origin(shown: _Screen, told: _Told, entry: Document) -> None:
    image = entry.get("image")
    composefs = entry.get("composefs") or {}
    if image is None:
        shown.row(
            "image", "unknown: its record is gone; `keelboot upgrade` or `switch` makes a new deployment", _YELLOW
        )
        return
    reference = image["image"]
    name = (
        reference["image"] if reference["transport"] == "registry" else f"{reference['transport']}:{reference['image']}"
    )
    shown.row("image", name)
    shown.row(
        "", f"{told.digest(image['imageDigest'])}  built {told.when(image['timestamp'])}  {image['architecture']}"
    )
    if told.verbose:
        about = told.about(entry)
        verified = "not required" if composefs.get("missingVerityAllowed") else "required"
        shown.row("composefs", f"{composefs.get('verity')}")
        shown.row("", f"fs-verity {verified}; kernel {about.get('kernel') or 'unknown'}")
        shown.row("", f"pinned: {_yes(entry['pinned'])}; soft reboot: {_yes(entry['softRebootCapable'])}")


def signed(
    verification: Document, *, when: Callable[[str | None], str] = lambda text: text or "an unknown time"
) -> str:
    """Who signed an image, or why nobody had to, in one line; VERIFICATION is as the document has it."""
    match verification.get("basis"):
        case "signed":
            by = "; ".join(f"{_signer(one)}, {when(one.get('time'))}" for one in verification["signatures"])
            return f"by {by}   ({_file(verification)})"
        case "policy":
            return f"not needed: {_file(verification)} wants no signature"
        case "local":
            return "not looked for: it did not come from a registry"
        case "unchecked":
            return "NOT CHECKED: no policy is about it"
        case "allow-unsigned":
            return "NO: it was taken with --allow-unsigned, and no policy is about it"
    return "unknown: nothing was recorded about its signatures"


def _file(verification: Document) -> str:
    return str(verification.get("policy") or "").partition(": ")[0]


def _signer(signature: Document) -> str:
    """What the policy calls the key, or who the certificate is for, or the key's fingerprint."""
    key, signer = str(signature.get("key") or "")[:19], str(signature.get("signer") or "")
    if signature.get("name"):
        return f"{signature['name']} ({key})"
    return signer if "(" in signer else f"{key} ({signer})"


def _signed(shown: _Screen, told: _Told, entry: Document) -> None:
    verification = told.about(entry).get("verification")
    if verification is None:
        return
    styles = {"allow-unsigned": _RED, "unchecked": _YELLOW}
    shown.row("signed", signed(verification, when=told.when), styles.get(verification.get("basis"), ""))
    if verification.get("downgrade"):
        shown.row("", f"taken with --allow-downgrade: {verification['downgrade']}", _RED)


def _policy(shown: _Screen, told: _Told) -> None:
    """What holds for the image that is followed, if it is in a registry."""
    policy = told.extra.get("policy") or {}
    demands = policy.get("demands")
    if demands is None:
        return
    words = [f"{file} {demand}" for file, demand in demands.items()]
    if not words:
        bare = (
            "nothing that comes from a registry is verified"
            if told.command == "bootc"
            else "unsigned images are refused"
        )
        words = [f"none is about this image: {bare}"]
    if policy.get("strict"):
        words.append("one has to be enforced")
    shown.row("policy", "; ".join(words))


def _update(shown: _Screen, told: _Told) -> None:
    entry = told.status["staged"] or told.status["booted"]
    cached = entry.get("cachedUpdate") or told.status["booted"].get("cachedUpdate")
    own = (entry.get("image") or {}).get("imageDigest")
    if cached and cached["imageDigest"] != own:
        version = f"version {cached['version']}, " if cached["version"] else ""
        shown.row("update", f"{version}{told.digest(cached['imageDigest'])}   ({told.command} upgrade)", _GREEN)
    updates = told.extra.get("updates")
    if updates:
        opens = _moment(updates.get("opens"))
        window = f"; restarts from {opens:%a %Y-%m-%d %H:%M}" if opens else ""
        shown.row("automatic", f"{updates['mode']}{window}")


def _staged(shown: _Screen, told: _Told) -> None:
    entry = told.status["staged"]
    if entry is None:
        return
    about = told.about(entry)
    if entry["downloadOnly"]:
        hint = f"only downloaded: `{told.command} upgrade --from-downloaded` stages it"
    else:
        tries = about.get("triesLeft")
        hint = f"the next boot runs it{f', with {tries} tries' if tries else ''}   (systemctl reboot)"
    shown.head("+", "staged", f"{told.version(entry)}, {told.ago(about.get('staged'))}", _BOLD)
    _origin(shown, told, entry)
    _signed(shown, told, entry)
    shown.row("", hint, _GREEN)


def _back(shown: _Screen, told: _Told) -> None:
    rollback = told.status["rollback"]
    others = told.status.get("otherDeployments") or []
    if rollback is None:
        if not told.extra.get("warnings") and len(told.extra.get("deployments") or {}) <= 1:
            shown.row("back to", "nothing yet: this is the only deployment")
        return
    queued = told.status["rollbackQueued"]
    label, hint = ("next boot", "queued") if queued else ("back to", f"{told.command} rollback")
    shown.head("-", label, f"{_brief(told, rollback)}   ({hint})", _BOLD)
    if told.verbose:
        _origin(shown, told, rollback)
    for entry in others if told.verbose else others[:_OTHERS_MAX]:
        shown.row("", f"{_brief(told, entry)}")
        if told.verbose:
            _origin(shown, told, entry)
    if len(others) > _OTHERS_MAX and not told.verbose:
        shown.row("", f"and {len(others) - _OTHERS_MAX} more   ({told.command} status -v)")


def _brief(told: _Told, entry: Document) -> str:
    image, about = entry.get("image") or {}, told.about(entry)
    words = [told.version(entry), told.digest(image.get("imageDigest") or "")]
    verification = about.get("verification") or {}
    if verification.get("basis") == "signed":
        words.append(f"signed by {', '.join(one.get('name') or _signer(one) for one in verification['signatures'])}")
    elif verification.get("basis") == "allow-unsigned":
        words.append("NOT SIGNED")
    if about.get("staged"):
        words.append(f"from {told.when(about['staged'])}")
    if entry["pinned"]:
        words.append("pinned")
    if about.get("rolledBack"):
        words.append("you went back from it")
    return ", ".join(word for word in words if word)


def _fallen(shown: _Screen, told: _Told) -> None:
    """The last automatic rollback: which version, when, how often it was tried, how far it came, and why."""
    failures = told.extra.get("failures") or []
    if not failures:
        return
    last = failures[-1]
    version = f"version {last['version']}" if last.get("version") else told.digest(last.get("imageDigest") or "?")
    tries = last.get("tries")
    times = f" after {tries} {'try' if tries == 1 else 'tries'}" if tries else ""
    shown.head("!", "failed", f"{version}, {told.ago(last.get('last'))}: fell back{times}", _RED)
    if last.get("reason"):
        shown.row("why", last["reason"])
    lines = [line for line in (last.get("detail") or "").splitlines() if line.strip()]
    for line in lines if told.verbose else lines[-1:]:
        shown.row("", line.strip())
    shown.row("came to", f"{last.get('stage') or 'none'} of the stages {', '.join(_STAGES)}")
    booted = (told.status["booted"].get("composefs") or {}).get("verity")
    if last.get("composefs") and last["composefs"] != booted:
        shown.row("", "it is not staged again by itself; by hand: `keelboot upgrade --retry-failed`")
    if told.verbose:
        for older in failures[-2::-1]:
            name = older.get("version") or told.digest(older.get("imageDigest") or "?")
            shown.row("before", f"{name}, {told.when(older.get('last'))}: {older.get('reason') or 'reason unknown'}")


def _cut(lines: Sequence[str], command: str) -> Sequence[str]:
    """LINES in one screen: first without the empty ones, then without the last ones."""
    if len(lines) <= HEIGHT:
        return lines
    dense = [line for line in lines if line]
    if len(dense) <= HEIGHT:
        return dense
    return [*dense[: HEIGHT - 1], f"{'':<{_LABEL}} ... and more   ({command} status -v)"]


def _fitting(text: str) -> str:
    """TEXT on one line and in its room, without control characters."""
    clean = "".join(character if character.isprintable() else " " for character in text)
    return clean if len(clean) <= _ROOM else clean[: _ROOM - 3] + "..."


def _moment(text: str | None) -> datetime | None:
    try:
        return datetime.fromisoformat(text) if text else None
    except ValueError:
        return None


def _span(span: timedelta) -> str:
    minutes = int(span.total_seconds()) // 60
    if minutes < 0:
        return "ahead of the clock"
    for unit, size in (("day", 24 * 60), ("hour", 60), ("minute", 1)):
        if minutes >= size:
            count = minutes // size
            return f"{count} {unit}{'' if count == 1 else 's'} ago"
    return "just now"


def _yes(value: bool) -> str:
    return "yes" if value else "no"
