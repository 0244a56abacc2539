#!/usr/bin/env python3
"""From examples/web/Containerfile to a running, verified machine, with the commands a person would type.

Every step can be interrupted and repeated; what is done already is not done again. `make demo` calls this.
"""

import json
import socket
import subprocess
import sys
import time
import urllib.error
import urllib.request
from pathlib import Path

HERE = Path(__file__).resolve().parent
CACHE = HERE.parent.parent / ".cache" / "demo"
IMAGE = "localhost/keelboot-demo/web:1"
DISK = CACHE / "web.img"

# What the machine is asked once it is up. Each line prints `name: value`.
QUESTIONS = r"""
booted=$(sed -n 's/^composefs:\([0-9a-f]*\) \/ overlay .*/\1/p' /proc/mounts)
echo "booted digest: $booted"
echo "system state: $(systemctl is-system-running)"
echo "kernel: $(uname -r)"
if touch /usr/keelboot-was-here 2>/dev/null; then echo "/usr: WRITABLE"; else echo "/usr: read-only"; fi
if grep -q '^composefs:[0-9a-f]* / overlay ro,.*verity=require' /proc/mounts
then echo "verity: required on every read"; else echo "verity: NOT ENFORCED"; fi
for service in nginx ssh; do echo "service $service: $(systemctl is-active $service)"; done
echo "boot time: $(systemd-analyze | head -n 1 | sed 's/.*= //')"
echo "asked: everything"
"""


def main() -> int:
    """Run the steps; 0 when the page came and every answer is as it has to be."""
    CACHE.mkdir(parents=True, exist_ok=True)
    times: list[tuple[str, float]] = []

    def step(title: str, *words: str, capture: bool = False) -> str:
        announce(*words)
        started = time.monotonic()
        done = subprocess.run(words, check=False, text=True, stdout=subprocess.PIPE if capture else None)
        if done.returncode:
            sys.exit(done.returncode)
        times.append((title, time.monotonic() - started))
        return done.stdout or ""

    keelboot = str(Path(sys.executable).with_name("keelboot"))
    step("base image", keelboot, "base", "debian:trixie")
    step("build", keelboot, "build", "-t", IMAGE, str(HERE))
    facts = json.loads(step("inspect", keelboot, "inspect", "--json", IMAGE, capture=True))
    print(f"{facts['release']['pretty_name']}, Linux {', '.join(facts['kernels'])}, bootable: {facts['bootable']}")
    print(f"composefs digest: {facts['composefs']}")
    step("disk", keelboot, "disk", IMAGE, "-o", str(DISK), "--force")

    started = time.monotonic()
    answers, page, port = boot(keelboot)
    times.append(("boot, ask, stop", time.monotonic() - started))

    print(f"\nhttp://127.0.0.1:{port}/ answered:\n")
    print("\n".join(f"    {line}" for line in page.strip().splitlines()))
    print("\nthe machine says of itself:\n")
    print("\n".join(f"    {name:<16} {value}" for name, value in answers.items()))
    print("\ntimes:\n")
    print("\n".join(f"    {title:<16} {seconds:6.1f} s" for title, seconds in times))
    print(f"    {'all':<16} {sum(seconds for _, seconds in times):6.1f} s")

    wrong = [
        *(["the page is not the one in examples/web"] if page != (HERE / "index.html").read_text() else []),
        *(["another digest was booted"] if answers.get("booted digest") != facts["composefs"] else []),
        *(["/usr can be written"] if answers.get("/usr") != "read-only" else []),
        *(["the root is not verified"] if answers.get("verity") != "required on every read" else []),
        *([f"the system is {answers.get('system state')}"] if answers.get("system state") != "running" else []),
    ]
    if wrong:
        print("\nnot as it has to be: " + "; ".join(wrong), file=sys.stderr)
        return 1
    relative = DISK.relative_to(HERE.parent.parent)
    print(f"""
The booted digest is the one that `inspect` printed before the machine existed. Next:

    . .venv/bin/activate
    keelboot run -p 8080:80 {relative}            # boots it again; Ctrl-C switches it off
    keelboot run --console {relative}             # its serial console
    keelboot run --ssh {relative}                 # a shell in it
    keelboot run --ssh {relative} -- nginx -v     # one command, and its exit code
    $EDITOR examples/web/Containerfile && make demo
""")
    return 0


def announce(*words: str) -> None:
    """Show a command as a person in this checkout, with .venv activated, would type it."""
    root = f"{HERE.parent.parent}/"
    shown = f"$ {' '.join(words)}".replace(f"{root}.venv/bin/", "").replace(root, "")
    print(f"\n\033[1m{shown}\033[0m" if sys.stdout.isatty() else f"\n{shown}", flush=True)


def boot(keelboot: str) -> tuple[dict[str, str], str, int]:
    """Boot the disk, ask the questions over SSH and fetch the page; the machine is stopped again at the end."""
    port = free_port()
    words = [keelboot, "run", "--ssh", "-p", f"{port}:80", str(DISK), "--", "sh", "-s"]
    announce(*words)
    with subprocess.Popen(words, stdin=subprocess.PIPE, stdout=subprocess.PIPE, text=True) as machine:
        assert machine.stdin
        assert machine.stdout
        machine.stdin.write(QUESTIONS)
        machine.stdin.flush()
        answers: dict[str, str] = {}
        for line in machine.stdout:
            name, _, value = line.strip().partition(": ")
            if name == "asked":
                break
            answers[name] = value
        page = fetch(f"http://127.0.0.1:{port}/") if answers else ""
        machine.stdin.write("exit 0\n")
        machine.stdin.close()
        status = machine.wait()
    if status:
        sys.exit(status)
    return answers, page, port


def fetch(url: str) -> str:
    """The page at URL; nginx may need a moment longer than SSH."""
    deadline = time.monotonic() + 60
    while True:
        try:
            with urllib.request.urlopen(url, timeout=10) as response:  # noqa: S310 - our own http address
                text: str = response.read().decode()
                return text
        except (urllib.error.URLError, ConnectionError, TimeoutError):
            if time.monotonic() > deadline:
                raise
            time.sleep(0.5)


def free_port() -> int:
    """8080 if nobody listens there, else any other."""
    for wanted in (8080, 0):
        with socket.socket() as listener:
            try:
                listener.bind(("127.0.0.1", wanted))
            except OSError:
                continue
            return int(listener.getsockname()[1])
    raise AssertionError("the system has no free port")


if __name__ == "__main__":
    try:
        sys.exit(main())
    except KeyboardInterrupt:
        print("\ninterrupted; `make demo` again goes on from here", file=sys.stderr)
        sys.exit(130)
