"""Whether one signature counts for one requirement, and if not, why: steps 5 to 11 of docs/trust.md."""

from collections.abc import Mapping
from datetime import datetime
from typing import NoReturn

from keelboot.image.digest import Digest
from keelboot.image.refusal import Refused
from keelboot.trust.artifact import CERTIFICATE, CHAIN, LOG, SIGNATURE
from keelboot.trust.base64text import decode, encode
from keelboot.trust.bundle import Bundle, Envelope, parse_bundle, parse_envelope
from keelboot.trust.certificates import FulcioRule, PkiRule, signer
from keelboot.trust.collecting import Bundled, Collected, Enveloped, Simple
from keelboot.trust.freshness import EXPIRES, STREAM, TIMESTAMP, VERSION, is_older, seconds, stale
from keelboot.trust.identity import Asked, parse_named
from keelboot.trust.keyless import KeylessRule, bundle_time, keyless_signer
from keelboot.trust.keys import PublicKey, pem_blocks
from keelboot.trust.policy import CertificateRule, Signed, TrustedKey
from keelboot.trust.rekor import Entered, Promise, check_promise, parse_promise, promised_time
from keelboot.trust.simplesigning import MEDIA_TYPE, Claim, go_json, parse_payload
from keelboot.trust.statement import PAYLOAD_TYPE, Attestation, parse_attestation, parse_signature
from keelboot.trust.verified import Counted


class Judge:
    """Judges signatures of the image DIGEST, asked for as IMAGE, at the time NOW, by what REQUIREMENT wants."""

    def __init__(self, image: Asked, digest: Digest, now: datetime, requirement: Signed) -> None:
        self._image, self._digest, self._now, self._requirement = image, digest, now, requirement

    def all(self, collected: Collected) -> tuple[Mapping[PublicKey, Counted], list[str]]:
        """The signatures that count, one for each key: keys count, not signatures. And why the others do not."""
        counted: dict[PublicKey, Counted] = {}
        reasons = []
        candidates: tuple[Simple | Bundled, ...] = (*collected.simple, *collected.bundles)
        for one in candidates:
            try:
                key, found = self._simple(one) if isinstance(one, Simple) else self._bundled(one)
            except Refused as error:
                reasons.append(f"{one.where}: {error}")
                continue
            # Of several by one key that with a version is kept, else the newest: it may be signed again, to be fresh.
            if key not in counted or _telling(found) > _telling(counted[key]):
                counted[key] = found
        return counted, reasons

    def attestation(self, one: Bundled | Enveloped) -> tuple[PublicKey, Attestation]:
        """What ONE says about the image, and who says so. Raises Refused."""
        envelope, trusted, _ = self._enveloped(one) if isinstance(one, Bundled) else self._bare(one)
        said = parse_attestation(envelope.payload, self._digest)
        self._check_identity(said.identity, trusted)
        return trusted.key, said

    def _bare(self, one: Enveloped) -> tuple[Envelope, TrustedKey, datetime | None]:
        """As `_enveloped`, for what is in no bundle."""
        envelope = _statement(parse_envelope(one.data))
        promise = parse_promise(one.annotations[LOG]) if self._logged and LOG in one.annotations else None
        chain = _chain(one.annotations) if self._requirement.certificate else ()
        entered = Entered(envelope.signed, envelope.signature, b"", envelope.payload)
        return envelope, *self._signer(entered, chain, promise)

    def _simple(self, one: Simple) -> tuple[PublicKey, Counted]:
        text = one.annotations.get(SIGNATURE)
        if text is None:
            raise Refused("it has no signature")
        signature = decode(text, "its signature")
        promise = parse_promise(one.annotations[LOG]) if self._logged and LOG in one.annotations else None
        chain = _chain(one.annotations) if self._requirement.certificate else ()
        trusted, logged = self._signer(Entered(one.payload, signature, b""), chain, promise)
        return self._counted(one.where, parse_payload(one.payload), trusted, logged, _as_dir_signature(one))

    def _bundled(self, one: Bundled) -> tuple[PublicKey, Counted]:
        envelope, trusted, logged = self._enveloped(one)
        return self._counted(one.where, parse_signature(envelope.payload), trusted, logged, one.data)

    def _enveloped(self, one: Bundled) -> tuple[Envelope, TrustedKey, datetime | None]:
        """The envelope of a bundle, which a key of the policy signed, and when the log entered it."""
        bundle = parse_bundle(one.data)
        envelope = _statement(bundle.envelope)
        if bool(bundle.certificates) != bool(self._requirement.certificate):
            other = "a certificate" if bundle.certificates else "a plain key"
            raise Refused(f"it is by {other}, which is not what the policy wants")
        entered = Entered(envelope.signed, envelope.signature, b"", envelope.payload)
        rule = self._requirement.certificate
        if isinstance(rule, KeylessRule):
            logged = bundle_time(rule, one.data, bundle)
            return envelope, self._certified(rule, entered, bundle.certificates, logged), logged
        promise = _promised(bundle) if self._logged else None
        return envelope, *self._signer(entered, bundle.certificates, promise)

    @property
    def _logged(self) -> bool:
        """Whether entries of logs are looked at."""
        return bool(self._requirement.log_keys) or isinstance(self._requirement.certificate, KeylessRule)

    def _signer(
        self, entered: Entered, chain: tuple[bytes, ...], promise: Promise | None
    ) -> tuple[TrustedKey, datetime | None]:
        """Which key of the policy made the signature, and when the log entered it."""
        rule = self._requirement.certificate
        logged = None
        if rule is not None:
            if not chain:
                raise Refused("it has no certificate")
            if not isinstance(rule, PkiRule):
                logged = self._entered(entered, chain[0], promise)
            return self._certified(rule, entered, chain, logged or self._now), logged
        found = [one for one in self._requirement.keys if one.key.verifies(entered.signature, entered.signed)]
        if not found:
            raise Refused("it is by none of the policy's keys")
        trusted = self._fitting(found[0])
        if self._requirement.log_keys:
            logged = self._entered(entered, trusted.key.der, promise)
        return trusted, logged

    def _certified(
        self, rule: CertificateRule, entered: Entered, chain: tuple[bytes, ...], when: datetime
    ) -> TrustedKey:
        """The key of the certificate, valid WHEN, that made the signature."""
        if isinstance(rule, KeylessRule):
            trusted = self._fitting(TrustedKey(keyless_signer(rule, chain, when), rule.repositories))
        else:
            trusted = TrustedKey(signer(rule, chain, when))
        if not trusted.key.verifies(entered.signature, entered.signed):
            raise Refused("it is not by the key of its certificate")
        return trusted

    def _fitting(self, trusted: TrustedKey) -> TrustedKey:
        if not trusted.fits(self._image):
            raise Refused(f"the key {trusted.key.fingerprint} signs for other repositories")
        return trusted

    def _entered(self, entered: Entered, by: bytes, promise: Promise | None) -> datetime:
        if promise is None:
            raise Refused("it has no entry of a log, which the policy wants")
        complete = Entered(entered.signed, entered.signature, by, entered.payload)
        rule, log_keys = self._requirement.certificate, self._requirement.log_keys
        if isinstance(rule, KeylessRule):
            log_keys = rule.root.log_keys(promised_time(promise))
        return check_promise(promise, complete, log_keys)

    def _counted(
        self, where: str, claim: Claim, trusted: TrustedKey, logged: datetime | None, evidence: bytes
    ) -> tuple[PublicKey, Counted]:
        """The signature counts when its claim is about this image and says what the policy wants."""
        if claim.digest != self._digest:
            raise Refused(f"it is about another image, {claim.digest}")
        self._check_identity(claim.identity, trusted)
        made = self._check_claims(claim, logged)
        key, who = trusted.key, _who(self._requirement, trusted.key)
        return key, Counted(where, key.fingerprint, who, claim.identity, claim.annotations, made, evidence)

    def _check_identity(self, identity: str | None, trusted: TrustedKey) -> None:
        if identity is None:
            if trusted.repositories is None:
                raise Refused(
                    "it does not say which repository it is for, and its key is not bound to one "
                    "(docs/formats/trust-policy.md)"
                )
            return
        signed = parse_named(identity)
        if not self._requirement.identity.accepts(signed, self._image):
            kind = type(self._requirement.identity).__name__
            raise Refused(f"it is for {str(signed)!a}, which {kind[0].lower()}{kind[1:]} does not accept")

    def _check_claims(self, claim: Claim, logged: datetime | None) -> datetime | None:
        """When it was made, if what it says besides is what the policy wants."""
        wanted, said = self._requirement.claims, claim.annotations
        if wanted.stream is not None and said.get(STREAM) != wanted.stream:
            _differs("stream", said.get(STREAM), wanted.stream)
        if wanted.minimum_version is not None:
            version = said.get(VERSION)
            if version is None or is_older(version, wanted.minimum_version):
                _differs("version", version, f"{wanted.minimum_version} or later")
        made = logged
        if made is None and TIMESTAMP in said:
            made = seconds(said[TIMESTAMP], TIMESTAMP)
        expires = seconds(said[EXPIRES], EXPIRES) if EXPIRES in said else None
        old = stale(made, self._now, wanted.max_age, expires)
        if old is not None:
            raise Refused(old)
        return made


def _statement(envelope: Envelope | None) -> Envelope:
    if envelope is None:
        raise Refused("it is the signature of a file, not of an image")
    if envelope.payload_type != PAYLOAD_TYPE:
        raise Refused(f"what it signs is {envelope.payload_type[:100]!a}, not a statement")
    return envelope


def _who(requirement: Signed, key: PublicKey) -> str:
    match requirement.certificate:
        case FulcioRule(_, issuer, email):
            return f"{email} ({issuer})"
        case KeylessRule() as rule:
            return f"{rule.identity} ({rule.issuer})"
        case PkiRule() as rule:
            return rule.email or rule.hostname or ""
        case _:
            return key.kind


def _telling(one: Counted) -> tuple[bool, float]:
    return VERSION in one.annotations, one.time.timestamp() if one.time else 0.0


def _differs(what: str, said: str | None, wanted: str) -> NoReturn:
    shown = f"its {what} is {said[:100]!a}" if said is not None else f"it does not say its {what}"
    raise Refused(f"{shown}, and the policy wants {wanted}")


def _chain(annotations: Mapping[str, str]) -> tuple[bytes, ...]:
    if CERTIFICATE not in annotations:
        raise Refused("it has no certificate")
    leaf = pem_blocks(annotations[CERTIFICATE].encode("utf-8"))
    chain = pem_blocks(annotations[CHAIN].encode("utf-8")) if annotations.get(CHAIN) else []
    if len(leaf) != 1 or any(label != "CERTIFICATE" for label, _ in (*leaf, *chain)):
        raise Refused("its certificates are not what they should be")
    return tuple(der for _, der in (*leaf, *chain))


def _promised(bundle: Bundle) -> Promise | None:
    """The promise of a bundle that has exactly one entry."""
    if len(bundle.entries) != 1:
        return None
    entry = bundle.entries[0]
    if entry.promise is None or entry.time is None:
        return None
    return Promise(entry.body, entry.log_id.hex(), entry.index, entry.time, entry.promise)


def _as_dir_signature(one: Simple) -> bytes:
    """The form that containers' `dir:` transport keeps."""
    document = {"mimeType": MEDIA_TYPE, "payload": encode(one.payload), "annotations": dict(one.annotations)}
    return b"\0sigstore-json\n" + go_json(document)
