#!/bin/sh
# The server answers with its page.
exec python3 -c 'import urllib.request as r; print(r.urlopen("http://127.0.0.1/", timeout=20).read().decode())'
