"""containers-policy.json(5), as podman and skopeo read it, but for two things that are stricter here.

All keys must load when the policy does, and a file of `keyPath` holds one key. `signedBy` (GPG) and `signedBaseLayer`
are read and never found met. The text of a refusal begins with the JSON path of what is wrong.
"""

from keelboot.image.refusal import Refused
from keelboot.image.strictjson import parse
from keelboot.trust.base64text import decode
from keelboot.trust.certificates import FulcioRule, PkiRule, parse_authorities
from keelboot.trust.exact import Exact
from keelboot.trust.identity import Identity, MatchRepoDigestOrExact, parse_identity
from keelboot.trust.keys import PublicKey
from keelboot.trust.policy import (
    AcceptAnything,
    Policy,
    Reject,
    Requirement,
    Ruling,
    Signed,
    TrustedKey,
    Unsupported,
    policy_hash,
)
from keelboot.trust.policyfiles import PolicyFiles, Read, one_key, usable
from keelboot.trust.scopes import TRANSPORTS, check_scope

_KEYS = ("keyPath", "keyPaths", "keyData", "keyDatas")
_LOG_KEYS = ("rekorPublicKeyPath", "rekorPublicKeyPaths", "rekorPublicKeyData", "rekorPublicKeyDatas")
_GPG = ("GPGKeys", "signedByGPGKeys", "X509Certificates", "signedByX509CAs")


def read_policy(data: bytes, source: str, read: Read) -> Policy:
    """The policy that DATA, from the file SOURCE, is. READ brings the files that it names, or raises OSError.

    Raises InvalidSettings.
    """
    with usable(source, "containers-policy.json(5)"):
        return parse_policy(data, source, read)


def parse_policy(data: bytes, source: str, read: Read) -> Policy:
    """As `read_policy`; raises Refused."""
    files = PolicyFiles(read)
    whole = Exact(parse(data), "", ("default",), ("transports",))
    default = _requirements(whole.value("default"), "default", files)
    rules: dict[tuple[str, str], Ruling] = {}
    for transport, path, value in _entries(whole.value("transports"), "transports", given=whole.given("transports")):
        if transport not in TRANSPORTS:
            raise Refused(f"{path}: there is no such transport")
        for scope, where, requirements in _entries(value, path, given=True):
            check_scope(transport, scope, where)
            rules[transport, scope] = Ruling(f"{source}: {where}", _requirements(requirements, where, files))
    return Policy(source, default, rules, policy_hash(data, files.contents))


def _entries(value: object, path: str, *, given: bool) -> list[tuple[str, str, object]]:
    """The members of an object whose names are free: name, JSON path, value."""
    if not given:
        return []
    if not isinstance(value, dict):
        raise Refused(f"{path} is not an object")
    return [(name, f'{path}["{ascii(name)[1:-1]}"]', item) for name, item in value.items()]


def _requirements(value: object, path: str, files: PolicyFiles) -> tuple[Requirement, ...]:
    if not isinstance(value, list):
        raise Refused(f"{path} is not a list of requirements")
    if not value:
        raise Refused(f'{path} is empty; say {{"type": "reject"}} or {{"type": "insecureAcceptAnything"}}')
    return tuple(_requirement(item, f"{path}[{index}]", files) for index, item in enumerate(value))


def _requirement(value: object, path: str, files: PolicyFiles) -> Requirement:
    if not isinstance(value, dict):
        raise Refused(f"{path} is not an object")
    match value.get("type"):
        case "insecureAcceptAnything":
            Exact(value, path, ("type",))
            return AcceptAnything()
        case "reject":
            Exact(value, path, ("type",))
            return Reject()
        case "signedBy":
            return _signed_by(value, path)
        case "signedBaseLayer":
            members = Exact(value, path, ("type", "baseLayerIdentity"))
            parse_identity(members.value("baseLayerIdentity"), members.where("baseLayerIdentity"))
            return Unsupported("signedBaseLayer is not supported, neither here nor by podman")
        case "sigstoreSigned":
            return _sigstore_signed(value, path, files)
        case other:
            raise Refused(f"{path}.type is {other!a}, which is no kind of requirement")


def _signed_by(value: object, path: str) -> Requirement:
    keys = ("keyPath", "keyPaths", "keyData")
    members = Exact(value, path, ("type", "keyType"), (*keys, "signedIdentity"))
    if members.text("keyType") not in _GPG:
        raise Refused(f"{members.where('keyType')} is {members.text('keyType')!a}, which is no type of keys")
    _sources(members, members.only(keys))
    _identity(members)
    return Unsupported("signatures by GPG (signedBy) are not supported")


def _sigstore_signed(value: object, path: str, files: PolicyFiles) -> Requirement:
    names = (*_KEYS, "fulcio", "pki")
    members = Exact(value, path, ("type",), (*names, *_LOG_KEYS, "signedIdentity"))
    signer = members.only(names)
    logs = [name for name in _LOG_KEYS if members.given(name)]
    if len(logs) > 1:
        raise Refused(f"{path} may have one of {', '.join(_LOG_KEYS)}")
    if signer == "fulcio" and not logs:
        raise Refused(f"{path} has fulcio, so it must have one of {', '.join(_LOG_KEYS)}")
    if signer == "pki" and logs:
        raise Refused(f"{path} has pki, so it may not have {logs[0]}")
    identity = _identity(members)
    log_keys = _keys(members, logs[0], files) if logs else ()
    if any(not key.kind.startswith("ECDSA") for key in log_keys):
        raise Refused(f"{members.where(logs[0])}: a log's key is ECDSA")
    if signer in _KEYS:
        keys = tuple(TrustedKey(key) for key in _keys(members, signer, files))
        return Signed(keys, identity, log_keys=log_keys)
    rule: FulcioRule | PkiRule
    if signer == "fulcio":
        rule = _fulcio(members.value("fulcio"), members.where("fulcio"), files)
    else:
        rule = _pki(members.value("pki"), members.where("pki"), files)
    return Signed((), identity, log_keys=log_keys, certificate=rule)


def _identity(members: Exact) -> Identity:
    if not members.given("signedIdentity"):
        return MatchRepoDigestOrExact()
    return parse_identity(members.value("signedIdentity"), members.where("signedIdentity"))


def _sources(members: Exact, name: str) -> list[tuple[str, str]]:
    """What the member NAME, a string or a list of strings, says, each with its JSON path."""
    if name.endswith("s"):
        texts = [(path, item) for path, item in members.items(name) if isinstance(item, str) and item]
        if not texts or len(texts) != len(members.items(name)):
            raise Refused(f"{members.where(name)} is not a list of strings, or is empty")
        return [(path, str(item)) for path, item in texts]
    return [(members.where(name), members.required_text(name))]


def _contents(members: Exact, name: str, files: PolicyFiles) -> list[tuple[str, bytes]]:
    """The bytes that the member NAME, by its ending a path or data, stands for, each with its JSON path."""
    by_path = "Path" in name
    found = _sources(members, name)
    return [(path, files.get(text, path) if by_path else decode(text, path)) for path, text in found]


def _keys(members: Exact, name: str, files: PolicyFiles) -> tuple[PublicKey, ...]:
    found: dict[PublicKey, None] = {}
    for path, data in _contents(members, name, files):
        found[one_key(data, path)] = None  # podman would take the first one of several
    return tuple(found)


def _authorities(members: Exact, name: str, files: PolicyFiles) -> tuple[bytes, ...]:
    found: list[bytes] = []
    for path, data in _contents(members, name, files):
        try:
            found += parse_authorities(data)
        except Refused as error:
            raise Refused(f"{path}: {error}") from error
    return tuple(found)


def _fulcio(value: object, path: str, files: PolicyFiles) -> FulcioRule:
    members = Exact(value, path, ("oidcIssuer", "subjectEmail"), ("caPath", "caData"))
    roots = _authorities(members, members.only(("caPath", "caData")), files)
    return FulcioRule(roots, members.required_text("oidcIssuer"), members.required_text("subjectEmail"))


def _pki(value: object, path: str, files: PolicyFiles) -> PkiRule:
    roots, between = ("caRootsPath", "caRootsData"), ("caIntermediatesPath", "caIntermediatesData")
    members = Exact(value, path, (), (*roots, *between, "subjectEmail", "subjectHostname"))
    email = members.required_text("subjectEmail") if members.given("subjectEmail") else None
    hostname = members.required_text("subjectHostname") if members.given("subjectHostname") else None
    if email is None and hostname is None:
        raise Refused(f"{path} must have subjectEmail or subjectHostname")
    has_between = any(members.given(name) for name in between)
    return PkiRule(
        _authorities(members, members.only(roots), files),
        _authorities(members, members.only(between), files) if has_between else (),
        email,
        hostname,
    )
