"""A QEMU that only talks: monitor, console and announcement as the real one has them, with a guest from a script.

The guest is the JSON list in the file GUEST beside this program, of
["serial", TEXT], ["announce", TEXT], ["event", NAME], ["sleep", SECONDS], ["stderr", TEXT], ["exit", STATUS].
The power button ends it.
"""

import json
import os
import socket
import sys
import threading
import time
from pathlib import Path


def main() -> None:
    ends = {}
    for word in sys.argv:
        if word.startswith("socket,id="):
            name, fd = word.removeprefix("socket,id=").split(",fd=")
            ends[name] = socket.socket(fileno=int(fd))
    threading.Thread(target=play, args=(ends,), daemon=True).start()
    monitor = ends["monitor"]
    monitor.sendall(b'{"QMP": {"version": {}, "capabilities": []}}\r\n')
    for line in monitor.makefile():
        request = json.loads(line)
        monitor.sendall(json.dumps({"return": {}, "id": request["id"]}).encode() + b"\r\n")
        if request["execute"] == "system_powerdown":
            monitor.sendall(b'{"event": "SHUTDOWN", "data": {"guest": true}}\r\n')
            break


def play(ends: dict[str, socket.socket]) -> None:
    for verb, what in json.loads(Path(__file__).with_name("guest").read_text()):
        if verb == "serial":
            ends["serial"].sendall(what.encode())
        elif verb == "announce":
            ends["announcement"].sendall(what.encode())
        elif verb == "event":
            ends["monitor"].sendall(json.dumps({"event": what, "data": {}}).encode() + b"\r\n")
        elif verb == "stderr":
            sys.stderr.write(what)
            sys.stderr.flush()
        elif verb == "exit":
            os._exit(what)
        else:
            time.sleep(what)


main()
