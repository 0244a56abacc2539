"""What the policies demand of the image that a machine follows, in outline, and of what one has to be warned. Pure.

For `status`: no key is loaded, as that takes longer than all the rest of it. Whoever decides reads them whole.
"""

from collections.abc import Mapping
from datetime import datetime, timedelta
from typing import Final

from keelboot.assembly.record import Record
from keelboot.assembly.verification import Basis, Verification
from keelboot.host import clock
from keelboot.image.refusal import Refused
from keelboot.image.strictjson import parse

_SOON: Final = timedelta(days=7)


def outline(own: tuple[str, bytes] | None, containers: tuple[str, bytes] | None, image: str) -> dict[str, str]:
    """What each of the two policies, a path and bytes, demands of IMAGE, a full name with its tag or digest.

    By path; a policy that says nothing about it is missing. Raises Refused.
    """
    if own is None and containers is None:
        return {}
    from keelboot.trust.identity import Asked, Named, parse_named  # noqa: PLC0415 - of no use without a policy
    from keelboot.trust.scopes import scopes  # noqa: PLC0415

    named = parse_named(image)
    within = scopes(Asked("docker", Named(named.repository, "latest") if named.bare else named))
    found = {}
    if own:
        whole = _object(parse(own[1]))
        images = _object(whole.get("images"))
        rule = next((images[scope] for scope in within if scope in images), None)
        if rule is not None:
            found[own[0]] = _own(_object(rule))
        elif whole.get("otherwise") != "containers-policy":
            found[own[0]] = "rejects it"
            return found
    if containers:
        whole = _object(parse(containers[1]))
        rules = _object(_object(whole.get("transports", {})).get("docker", {}))
        listed = next((rules[scope] for scope in within if scope in rules), whole.get("default"))
        kinds = [str(_object(one).get("type")) for one in listed] if isinstance(listed, list) else []
        demand = {"insecureAcceptAnything": "", "reject": "rejects it"}
        words = [word for word in (demand.get(kind, f"wants {kind}") for kind in kinds) if word]
        found[containers[0]] = " and ".join(words) or "accepts it"
    return found


def cautions(booted: Record | None, staged: Record | None, now: datetime) -> list[str]:
    """What to warn of: exceptions that were made, signatures that are about to be too old, a clock that is wrong."""
    found = []
    for record, which in ((booted, "what runs"), (staged, "what boots next")):
        verification = record.verification if record else None
        if verification and verification.basis is Basis.ALLOWED:
            found.append(f"{which} is not signed: it was taken with --allow-unsigned")
        if verification and verification.downgrade:
            found.append(f"{which} was taken although {verification.downgrade}")
    if booted:
        found += _ages(booted.verification, now) if booted.verification else []
        wrong = clock.trouble(clock.moment(booted.created), now)
        found += [wrong] if wrong else []
    return found


def _ages(verification: Verification, now: datetime) -> list[str]:
    until = clock.moment(verification.until)
    times = [time for one in verification.signatures if (time := clock.moment(one.time))]
    if until is None:
        return []
    fix = "have it signed again, then run `keelboot upgrade`"
    if now > until:
        return [f"the signatures of what runs are too old for the policy since {until:%Y-%m-%d %H:%M} UTC: {fix}"]
    room = min([_SOON, *((until - time) / 4 for time in times)])
    if now > until - room:
        return [f"the signatures of what runs will be too old for the policy on {until:%Y-%m-%d %H:%M} UTC: {fix}"]
    return []


def _own(rule: Mapping[str, object]) -> str:
    if rule.get("unsigned") is True:
        return "wants no signature"
    if "keyless" in rule:
        return f"wants it signed by {_object(rule['keyless']).get('identity')}"
    keys = rule.get("keys")
    names = ", ".join(map(str, keys)) if isinstance(keys, list) else "nobody"
    count = rule.get("threshold", 1)
    return f"wants it signed by {names}" if count == 1 and "," not in names else f"wants {count} of the keys {names}"


def _object(value: object) -> Mapping[str, object]:
    if not isinstance(value, dict):
        raise Refused("it is no policy: an object is missing in it")
    return value
