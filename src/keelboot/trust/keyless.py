"""Signatures without keys: a certificate for minutes, given to whom an issuer vouched for, and public logs of it all.

Certificate, its log, issuer and name are judged here, and so are entries of Rekor 1, whose log signs the time. What has
its time from a timestamp only (RFC 3161), as with Rekor 2, is judged by the library `sigstore`, which is optional: it
is told what to trust, and asks nobody. Before it sees a bundle, that has passed `bundle`, which is stricter.
"""

import json
from collections.abc import Sequence
from dataclasses import dataclass
from datetime import UTC, datetime

from keelboot.failure import MissingTool
from keelboot.image.refusal import Refused
from keelboot.trust.bundle import Bundle, LogEntry
from keelboot.trust.certificates import follow, vouched_by
from keelboot.trust.keys import PublicKey
from keelboot.trust.logproof import check_proof
from keelboot.trust.rekor import Entered, Promise, check_promise, promised_time
from keelboot.trust.transparency import check_timestamps
from keelboot.trust.trustedroot import TrustedRoot


@dataclass(frozen=True, slots=True)
class KeylessRule:
    """Who may sign: `identity`, an e-mail address or a URI, whole, by the word of `issuer`, whole.

    Bound to `repositories` (full names) where these are given, like a key.
    """

    root: TrustedRoot
    issuer: str
    identity: str
    repositories: tuple[str, ...] | None = None


def keyless_signer(rule: KeylessRule, chain: Sequence[bytes], when: datetime) -> PublicKey:
    """The key that the first certificate of CHAIN gives to whom RULE means, valid WHEN it signed. Raises Refused."""
    authorities = [one.certificates for one in rule.root.authorities if one.window.covers(when)]
    between = [der for certificates in authorities for der in certificates[:-1]]
    leaf = follow(chain[:1], [certificates[-1] for certificates in authorities], between, when)
    check_timestamps(leaf.certificate, leaf.issuer, rule.root.certificate_logs)
    issuer = vouched_by(leaf)
    if issuer != rule.issuer:
        raise Refused(f"{issuer[:200]!a} vouched for who signed, not {rule.issuer!a}")
    if rule.identity not in (*leaf.emails, *leaf.uris):
        names = ", ".join(ascii(name[:200]) for name in (*leaf.emails, *leaf.uris)) or "nobody"
        raise Refused(f"its certificate is for {names}, not for {rule.identity!a}")
    return leaf.key


def bundle_time(rule: KeylessRule, data: bytes, bundle: Bundle, file: bytes | None = None) -> datetime:
    """When the BUNDLE, parsed from DATA, was signed, as a log or an authority of RULE's trusted root says.

    The log entry is verified then, and that it is about this signature, over FILE where it is that of a file; the
    certificate is `keyless_signer`'s. Raises Refused, and MissingTool where the library is needed and missing.
    """
    if not bundle.certificates:
        raise Refused("it is by a plain key, which is not what the policy wants")
    if len(bundle.entries) != 1:
        raise Refused(f"it has {len(bundle.entries)} log entries, and one is needed")
    entry = bundle.entries[0]
    if entry.promise is not None and entry.time:
        return _logged(rule, bundle, entry, file)
    if len(bundle.timestamps) != 1:
        raise Refused(f"no log says when it was signed, and {len(bundle.timestamps)} timestamps do; one is needed")
    when = _timestamp(bundle.timestamps[0])
    check_by_library(rule, data, bundle, when, file)
    return when


def _logged(rule: KeylessRule, bundle: Bundle, entry: LogEntry, file: bytes | None) -> datetime:
    """When a log of Rekor 1 entered the signature; with its promise, and with the proof that it was kept."""
    promise = Promise(entry.body, entry.log_id.hex(), entry.index, entry.time or 0, entry.promise or b"")
    when = promised_time(promise)
    leaf = bundle.certificates[0]
    if bundle.envelope is not None:
        entered = Entered(bundle.envelope.signed, bundle.envelope.signature, leaf, bundle.envelope.payload)
    else:
        entered = Entered(file or b"", bundle.file_signature or b"", leaf)
    check_promise(promise, entered, rule.root.log_keys(when))
    logs = [log for log in rule.root.logs if log.id == entry.log_id and log.window.covers(when)]
    if entry.proof is None or not logs:
        raise Refused("it has no proof that the log kept its entry")
    check_proof(entry.proof, entry.body, logs[0].id, logs[0].key)
    return when


def check_by_library(rule: KeylessRule, data: bytes, bundle: Bundle, when: datetime, file: bytes | None) -> None:
    """That the library verifies the BUNDLE, parsed from DATA, by what counted WHEN. Raises Refused and MissingTool."""
    try:
        from sigstore.models import Bundle as TheirBundle  # noqa: PLC0415 - optional, and 0.7 s
        from sigstore.models import ClientTrustConfig  # noqa: PLC0415
        from sigstore.verify import Verifier, policy  # noqa: PLC0415
    except ImportError as error:
        raise _missing() from error
    try:
        trusted = ClientTrustConfig.from_json(_configuration(rule.root, when)).trusted_root
        verifier, theirs = Verifier(trusted_root=trusted), TheirBundle.from_json(data)
        wanted = policy.Identity(identity=rule.identity)
        if file is not None:
            verifier.verify_artifact(file, theirs, wanted)
            return
        kind, payload = verifier.verify_dsse(theirs, wanted)
    except Exception as error:  # whatever goes wrong in another's parsers, it is not verified
        raise Refused(f"it does not verify: {str(error)[:300]!a}") from error
    if bundle.envelope is None or (kind, payload) != (bundle.envelope.payload_type, bundle.envelope.payload):
        raise Refused("it is read in two ways")


def _timestamp(data: bytes) -> datetime:
    """The time in the timestamp DATA (RFC 3161)."""
    try:
        from rfc3161_client import decode_timestamp_response  # noqa: PLC0415 - comes with sigstore
    except ImportError as error:
        raise _missing() from error
    try:
        return decode_timestamp_response(data).tst_info.gen_time.astimezone(UTC)
    except Exception as error:  # as below
        raise Refused("a timestamp of it cannot be read") from error


def _configuration(root: TrustedRoot, when: datetime) -> str:
    """What the library wants around a trusted root; it gets only what counted WHEN."""
    selector = {"selector": "ANY"}
    return json.dumps(
        {
            "mediaType": "application/vnd.dev.sigstore.clienttrustconfig.v0.1+json",
            "trustedRoot": root.narrowed(when),
            "signingConfig": {
                "mediaType": "application/vnd.dev.sigstore.signingconfig.v0.2+json",
                "rekorTlogConfig": selector,
                "tsaConfig": selector,
            },
        }
    )


def _missing() -> MissingTool:
    return MissingTool(
        "cannot verify a signature without keys",
        why="the Python library sigstore is not installed",
        fix="Install it: `pip install keelboot[keyless]`.",
    )
