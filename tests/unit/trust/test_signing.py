"""What is signed, and what has to be pushed for it."""

import json

import pytest

from keelboot.failure import Failure
from keelboot.image.digest import Digest
from keelboot.image.documents import OCI_MANIFEST, Descriptor
from keelboot.trust.bundle import parse_bundle
from keelboot.trust.signing import attest, sign_bundle, sign_simple
from keelboot.trust.simplesigning import parse_payload
from keelboot.trust.statement import parse_signature
from signed_images import IMAGE, NOW, REPOSITORY


def test_simple_signing(key):
    done = sign_simple(IMAGE, REPOSITORY, key, {"version": "42"}, now=NOW)
    payload, config = done.blobs
    # containers/image wants a number here, and a string there.
    optional = {"creator": "keelboot", "timestamp": int(NOW.timestamp()), "version": "42"}
    assert json.loads(payload.data)["optional"] == optional
    assert parse_payload(payload.data).identity == "example.org/os/web"
    assert done.tag == f"sha256-{IMAGE.digest.hex}.sig"
    named = {stored.descriptor.digest for stored in done.blobs}
    manifest = json.loads(done.manifest.data)
    assert {Digest.parse(one["digest"]) for one in (manifest["config"], *manifest["layers"])} == named
    assert config.descriptor.media_type == "application/vnd.oci.image.config.v1+json"


def test_bundles(key):
    done = sign_bundle(IMAGE, REPOSITORY, key, {"version": "42"}, now=NOW)
    envelope = parse_bundle(done.blobs[0].data).envelope
    assert key.public.verifies(envelope.signature, envelope.signed)
    said = {"docker-reference": "example.org/os/web", "timestamp": str(int(NOW.timestamp())), "version": "42"}
    assert parse_signature(envelope.payload).annotations == said
    assert done.tag is None
    assert json.loads(done.manifest.data)["subject"]["digest"] == str(IMAGE.digest)


@pytest.mark.parametrize(
    ("said", "why"),
    [
        ({"timestamp": "1"}, "written by keelboot itself"),
        ({"docker-reference": "x"}, "written by keelboot itself"),
        ({"creator": "x"}, "written by keelboot itself"),
        ({"": "x"}, "written by keelboot itself"),
        ({"version": "v1"}, "can be compared with none"),
        ({"expires": "tomorrow"}, "not seconds"),
        ({"stream": ""}, "no name"),
    ],
)
def test_annotations_that_would_be_misunderstood(said, why, key):
    for sign in (sign_simple, sign_bundle):
        with pytest.raises(Failure, match=why):
            sign(IMAGE, REPOSITORY, key, said, now=NOW)


def test_a_bundle_names_images_by_sha256(key):
    image = Descriptor(OCI_MANIFEST, Digest("sha512", "0" * 128), 1)
    assert sign_simple(image, REPOSITORY, key, {}, now=NOW).tag == f"sha512-{'0' * 128}.sig"
    with pytest.raises(Failure, match="SHA-256 only"):
        sign_bundle(image, REPOSITORY, key, {}, now=NOW)
    with pytest.raises(Failure, match="SHA-256 only"):
        attest(image, REPOSITORY, "x", {}, key=key, now=NOW)


def test_keys_are_shown_by_their_fingerprint(key):
    assert repr(key.public) == f"PublicKey(ECDSA P-256, {key.public.fingerprint})"
    assert repr(key) == f"PrivateKey(public={key.public!r})"
