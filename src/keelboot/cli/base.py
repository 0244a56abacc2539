"""keelboot base: a base image from packages."""

import argparse

from keelboot.cli import surroundings
from keelboot.cli.terminal import Terminal

SUMMARY = "make a base image from a distribution's packages"
EXAMPLES = """
keelboot base debian:trixie
keelboot base debian:trixie --include ca-certificates --include curl -t localhost/debian:curl
keelboot base ubuntu:noble --mirror URL
keelboot base debian:trixie --refresh
"""


def arguments(parser: argparse.ArgumentParser) -> None:
    parser.add_argument("name", metavar="DISTRIBUTION:SUITE", help="debian or ubuntu, and the suite's code name")
    parser.add_argument(
        "-t", "--tag", metavar="NAME", action="append", default=[],
        help="the image's name; default: localhost/DISTRIBUTION:SUITE, which `FROM DISTRIBUTION:SUITE` finds",
    )  # fmt: skip
    parser.add_argument(
        "--include",
        metavar="PKG",
        action="append",
        default=[],
        help="a package to add; may be repeated, or a comma list",
    )
    parser.add_argument(
        "--mirror", metavar="URL", help="where the packages are; default: where apt of this machine looks"
    )
    parser.add_argument(
        "--variant", default="minbase", choices=("essential", "apt", "minbase", "important", "standard"),
        help="how much of the distribution, in mmdebstrap's words; default: %(default)s",
    )  # fmt: skip
    parser.add_argument("--refresh", action="store_true", help="make it again from the packages that are there today")
    parser.add_argument("--engine", choices=("podman", "buildah"), help="whose store; default: podman, if it is there")


def execute(arguments: argparse.Namespace, terminal: Terminal) -> int:
    from keelboot.build import base, engine
    from keelboot.cli.values import BadValue

    try:
        distribution, suite = base.parse(arguments.name)
    except ValueError as error:
        raise BadValue(
            "cannot make a base image", why=str(error), fix="`keelboot base --help` has examples."
        ) from error
    include = tuple(package for packages in arguments.include for package in packages.split(",") if package)
    request = base.Request(distribution, suite, include, arguments.variant, arguments.mirror)
    names = arguments.tag or [f"localhost/{request.name}"]
    told = engine.Told(echo=terminal.echo, note=terminal.note)
    made = base.make(
        request,
        names,
        engine=engine.find(arguments.engine, told=told),
        scratch=surroundings.scratch(),
        refresh=arguments.refresh,
        stage=terminal.note,
    )
    if terminal.json_wanted:
        terminal.json(
            {"image": made.image, "names": names, "published": made.published.isoformat(), "made": not made.was_there}
        )
    elif made.was_there:
        terminal.note(f"{names[0]} is there already; --refresh makes it from today's packages")
    else:
        terminal.note(
            f"{names[0]} is ready: a Containerfile can start with `FROM {names[0].removeprefix('localhost/')}`"
        )
    if not terminal.json_wanted:
        terminal.out(made.image)
    return 0
