"""What the output of a failed build means: the messages of podman 4.3 to 5.8 and buildah 1.28 to 1.43, as printed."""

import re

# The runtime (crun, runc) could not make the container at all. A command that fails inside one prints none of these.
_ISOLATION = (
    re.compile(r"error running container: .*creating container for \[.*\]: (?P<why>.+)"),
    re.compile(r"(?P<why>cgroups in hybrid mode not supported.*)"),
    re.compile(r"(?P<why>setrlimit.*: Operation not permitted)", re.IGNORECASE),
    re.compile(r"(?P<why>error setting (?:up )?rlimits?.*)", re.IGNORECASE),
    re.compile(r"(?P<why>crun: .*)"),
    re.compile(r"(?P<why>(?:runc|container_linux\.go).*: .*(?:unable to start|can't|cannot) .*)"),
    re.compile(r"(?P<why>did not get container create message from subprocess.*)"),
    re.compile(r"(?P<why>(?:could not find|cannot find|exec:) \"?(?:slirp4netns|pasta|crun|runc|netavark)\"?.*)"),
    re.compile(r"(?P<why>(?:error )?(?:creating|configuring) (?:network namespace|rootless network).*)"),
)
_FROM = re.compile(r"STEP \d+(?:/\d+)?: FROM (?:--\S+ )*(?P<name>\S+)")
_NO_BASE = ("initializing source docker://", "short-name", "unable to copy from source docker://", "no such image")
_NO_SPACE = re.compile(r"no space left on device", re.IGNORECASE)


def isolation_refused(output: str) -> str | None:
    """Why no container could be made with the isolation in use, or None where something else failed."""
    for pattern in _ISOLATION:
        if found := pattern.search(output):
            return found["why"].rstrip(": ")
    return None


def missing_base(output: str) -> str | None:
    """The name after FROM that is neither in the store nor to be had from a registry, or None."""
    error = last_error(output)
    if error.startswith("building at STEP") or not any(sign in error for sign in _NO_BASE):
        return None
    names = _FROM.findall(output)
    return names[-1] if names else None


def no_space(output: str) -> bool:
    return _NO_SPACE.search(output) is not None


def last_error(output: str) -> str:
    """The lines in which the tool itself says what went wrong; the last ones where it says nothing recognizable."""
    lines = [line.strip() for line in output.splitlines() if line.strip()]
    errors = [line.removeprefix("Error: ") for line in lines if line.startswith("Error: ")]
    return errors[-1] if errors else "\n  ".join(lines[-5:]) or "it printed nothing"
