"""The outputs are those of the programs named, as they printed them."""

import pytest

from keelboot.build import diagnosis

CRUN_HYBRID = """\
STEP 1/2: FROM debian:trixie
STEP 2/2: RUN echo hi > /hi
error running container: from /usr/bin/crun creating container for [/bin/sh -c echo hi > /hi]: cgroups in hybrid mode \
not supported, drop all controllers from cgroupv2
: exit status 1
time="2025-06-01T14:08:30Z" level=error msg="did not get container create message from subprocess: EOF"
Error: building at STEP "RUN echo hi > /hi": while running runtime: exit status 1
"""
COMMAND_FAILED = """\
STEP 1/2: FROM debian:trixie
STEP 2/2: RUN false
Error: building at STEP "RUN false": while running runtime: exit status 1
"""
NO_REGISTRY = """\
STEP 1/2: FROM debian:nosuch
Resolved "debian" as an alias (/etc/containers/registries.conf.d/shortnames.conf)
Error: creating build container: initializing source docker://debian:nosuch: pinging container registry \
registry.invalid: Get "https://registry.invalid/v2/": dial tcp: lookup registry.invalid: no such host
"""
NO_SHORT_NAME = """\
[1/2] STEP 1/3: FROM --platform=linux/amd64 nosuch:1 AS build
Error: creating build container: short-name "nosuch:1" did not resolve to an alias and no unqualified-search \
registries are defined in "/etc/containers/registries.conf"
"""


@pytest.mark.parametrize(
    ("output", "why"),
    [
        (CRUN_HYBRID, "cgroups in hybrid mode not supported, drop all controllers from cgroupv2"),
        (
            "error: setrlimit `RLIMIT_NPROC`: Operation not permitted",
            "setrlimit `RLIMIT_NPROC`: Operation not permitted",
        ),
        (COMMAND_FAILED, None),
        (NO_REGISTRY, None),
        ("", None),
    ],
)
def test_tells_refused_isolation_from_a_failed_command(output: str, why: str | None) -> None:
    assert diagnosis.isolation_refused(output) == why


@pytest.mark.parametrize(
    ("output", "name"),
    [
        (NO_REGISTRY, "debian:nosuch"),
        (NO_SHORT_NAME, "nosuch:1"),
        (COMMAND_FAILED, None),
        (CRUN_HYBRID, None),
        ('STEP 1/1: FROM a\nError: building at STEP "RUN echo no such image": exit status 1', None),
    ],
)
def test_names_the_missing_base(output: str, name: str | None) -> None:
    assert diagnosis.missing_base(output) == name


def test_last_error_is_what_the_tool_said_itself() -> None:
    assert diagnosis.last_error(COMMAND_FAILED) == 'building at STEP "RUN false": while running runtime: exit status 1'
    assert diagnosis.last_error("a\nb\n") == "a\n  b"
    assert diagnosis.last_error("") == "it printed nothing"
