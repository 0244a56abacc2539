"""keelboot's own policy, trust.json: thresholds, bound keys, freshness, versions (docs/formats/trust-policy.md).

What containers-policy.json(5) has no words for. The two can be used together (`policy.Both`).
"""

import re
from datetime import timedelta

from keelboot.image.refusal import Refused
from keelboot.image.strictjson import parse
from keelboot.trust.exact import Exact
from keelboot.trust.freshness import version_numbers
from keelboot.trust.identity import MatchRepository, parse_identity, parse_named
from keelboot.trust.keyless import KeylessRule
from keelboot.trust.policy import (
    AcceptAnything,
    Claims,
    Policy,
    Reject,
    Requirement,
    Ruling,
    Signed,
    TrustedKey,
    policy_hash,
)
from keelboot.trust.policyfiles import PolicyFiles, Read, one_key, usable
from keelboot.trust.scopes import check_scope
from keelboot.trust.trustedroot import parse_trusted_root

_KEY_NAME = re.compile("[a-z0-9][a-z0-9_.-]{0,63}")
_AGE = re.compile("([1-9][0-9]{0,3})([hd])")
_STREAM = re.compile(r"[!-~]{1,200}")
_IMAGE = (
    "keys", "keyless", "unsigned", "threshold", "logKeys", "signedIdentity", "stream", "minimumVersion", "maxAge",
    "maxJump",
)  # fmt: skip
_ELSEWHERE = "containers-policy"


def read_trust_policy(data: bytes, source: str, read: Read) -> Policy:
    """The policy that DATA, from the file SOURCE, is. READ brings the files that it names, or raises OSError.

    Raises InvalidSettings.
    """
    with usable(source, "docs/formats/trust-policy.md"):
        return parse_trust_policy(data, source, read)


def parse_trust_policy(data: bytes, source: str, read: Read) -> Policy:
    """As `read_trust_policy`; raises Refused."""
    files = PolicyFiles(read)
    whole = Exact(parse(data), "", ("version", "keys", "images"), ("otherwise",))
    if whole.integer("version") != 1:
        raise Refused(f"version is {whole.value('version')!a}; 1 is the one that is known")
    keys = _keys(whole, files)
    rules: dict[tuple[str, str], Ruling] = {}
    for scope, path, value in _members(whole, "images"):
        if not scope:
            raise Refused(f"{path}: name a host, a namespace, a repository or an image")
        check_scope("docker", scope, path)
        rules["docker", scope] = _image(value, path, keys, files, source)
    otherwise = whole.text("otherwise") if whole.given("otherwise") else "reject"
    if otherwise not in ("reject", _ELSEWHERE):
        raise Refused(f"otherwise is {otherwise!a}; it may be 'reject' or {_ELSEWHERE!a}")
    bindings = {one.key: one.repositories for one in keys.values() if one.repositories is not None}
    hashed = policy_hash(data, files.contents)
    return Policy(source, (Reject(),), rules, hashed, defers=otherwise == _ELSEWHERE, bindings=bindings)


def _members(whole: Exact, name: str) -> list[tuple[str, str, object]]:
    """The members of the object NAME, whose names are free: name, JSON path, value."""
    value = whole.value(name)
    if not isinstance(value, dict):
        raise Refused(f"{name} is not an object")
    return [(key, f'{name}["{ascii(key)[1:-1]}"]', item) for key, item in value.items()]


def _keys(whole: Exact, files: PolicyFiles) -> dict[str, TrustedKey]:
    found: dict[str, TrustedKey] = {}
    paths: dict[str, str] = {}
    for name, path, value in _members(whole, "keys"):
        if not _KEY_NAME.fullmatch(name):
            raise Refused(f"{path}: a key's name has small letters, digits, dots, dashes and underscores")
        members = Exact(value, path, (), ("path", "data", "repositories"))
        source = members.only(("path", "data"))
        text, where = members.required_text(source), members.where(source)
        key = one_key(files.get(text, where) if source == "path" else text.encode("utf-8"), where)
        if key.fingerprint in paths:  # or a threshold would count it twice
            raise Refused(f"{path} is the same key as {paths[key.fingerprint]}")
        paths[key.fingerprint] = path
        found[name] = TrustedKey(key, _repositories(members) if members.given("repositories") else None)
    return found


def _repositories(members: Exact) -> tuple[str, ...]:
    texts = members.texts("repositories")
    if not texts:
        raise Refused(f"{members.where('repositories')} is empty")
    for path, item in members.items("repositories"):
        try:
            named = parse_named(str(item))
        except Refused as error:
            raise Refused(f"{path}: {error}") from error
        if not named.bare or named.repository != item:
            raise Refused(f"{path} is {item!a}; its full name without tag is {named.repository!a}")
    return texts


def _image(value: object, path: str, keys: dict[str, TrustedKey], files: PolicyFiles, source: str) -> Ruling:
    members, where = Exact(value, path, (), _IMAGE), f"{source}: {path}"
    kind = members.only(("keys", "keyless", "unsigned"))
    if kind == "unsigned":
        Exact(value, path, ("unsigned",))
        if members.value("unsigned") is not True:
            raise Refused(f"{members.where('unsigned')} is not true; leave it out")
        return Ruling(where, (AcceptAnything(),))
    jump = members.integer("maxJump") if members.given("maxJump") else None
    given = members.given("signedIdentity")
    identity_path = members.where("signedIdentity")
    identity = parse_identity(members.value("signedIdentity"), identity_path) if given else MatchRepository()
    requirement: Requirement
    if kind == "keyless":
        for name in ("threshold", "logKeys"):
            if members.given(name):
                raise Refused(f"{members.where(name)} goes with keys, not with keyless")
        rule = _keyless(members.value("keyless"), members.where("keyless"), files)
        requirement = Signed((), identity, certificate=rule, claims=_claims(members))
        return Ruling(where, (requirement,), jump)
    named = _known(members, "keys", keys)
    threshold = members.integer("threshold") if members.given("threshold") else 1
    if not 1 <= threshold <= len(named):
        raise Refused(f"{members.where('threshold')} is {threshold}, and there are {len(named)} keys")
    logs = tuple(one.key for one in _known(members, "logKeys", keys)) if members.given("logKeys") else ()
    requirement = Signed(named, identity, threshold, logs, claims=_claims(members))
    return Ruling(where, (requirement,), jump)


def _keyless(value: object, path: str, files: PolicyFiles) -> KeylessRule:
    members = Exact(value, path, ("trustedRoot", "issuer", "identity"), ("repositories",))
    where = members.where("trustedRoot")
    try:
        root = parse_trusted_root(files.get(members.required_text("trustedRoot"), where))
    except Refused as error:
        raise Refused(str(error) if str(error).startswith(where) else f"{where}: {error}") from error
    repositories = _repositories(members) if members.given("repositories") else None
    return KeylessRule(root, members.required_text("issuer"), members.required_text("identity"), repositories)


def _known(members: Exact, name: str, keys: dict[str, TrustedKey]) -> tuple[TrustedKey, ...]:
    found: dict[str, TrustedKey] = {}
    for path, item in members.items(name):
        if not isinstance(item, str) or item not in keys:
            raise Refused(f"{path} is {item!a}, which is no name in keys")
        if item in found:
            raise Refused(f"{path} is {item!a} for the second time")
        found[item] = keys[item]
    if not found:
        raise Refused(f"{members.where(name)} is empty")
    return tuple(found.values())


def _claims(members: Exact) -> Claims:
    stream = members.required_text("stream") if members.given("stream") else None
    if stream is not None and not _STREAM.fullmatch(stream):
        raise Refused(f"{members.where('stream')} is {stream!a}, which is no name of a stream")
    version = members.required_text("minimumVersion") if members.given("minimumVersion") else None
    if version is not None and version_numbers(version) is None:
        raise Refused(f"{members.where('minimumVersion')} is {version!a}; it has digits, with dots or dashes between")
    age = None
    if members.given("maxAge"):
        found = _AGE.fullmatch(members.required_text("maxAge"))
        if found is None:
            raise Refused(f"{members.where('maxAge')} is {members.text('maxAge')!a}; write 12h or 30d")
        age = timedelta(hours=int(found[1]) * (24 if found[2] == "d" else 1))
    return Claims(stream, version, age)
