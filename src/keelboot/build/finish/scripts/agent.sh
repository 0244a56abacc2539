# The agent: the package is in place, and Python with what it imports was installed.
/usr/bin/python3 -c 'import sys; sys.exit(sys.version_info < (3, 11))' ||
    refuse "$(/usr/bin/python3 --version) is too old: the agent needs Python 3.11 or later"
# A cache that is judged by its source's time is no use here: all times in an image are set to one. Where Python came
# with the agent, all of it is compiled; a Python that the image had is left as it is.
PYTHONHASHSEED=0 /usr/bin/python3 -I -m compileall -q -f --invalidation-mode unchecked-hash \
    $([ -n "$python_before" ] || echo /usr/lib/python3.[0-9]*) /usr/lib/python3/dist-packages >/dev/null ||
    refuse "the agent does not compile with $(/usr/bin/python3 --version)"
[ -e /usr/bin/bootc ] || ln -s ../lib/keelboot/bootc /usr/bin/bootc
