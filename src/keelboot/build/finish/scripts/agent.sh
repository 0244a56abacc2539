# The agent: the package is in place, and Python with what it imports was installed.
/usr/bin/python3 -c 'import sys; sys.exit(sys.version_info < (3, 11))' ||
    refuse "$(/usr/bin/python3 --version) is too old: the agent needs Python 3.11 or later"
# A cache that is judged by its source's time is no use here: all times of this layer are set to one, and some builds do
# that to all layers. Every start would compile all that it imports. Where Python came with the agent, its own library is
# compiled too; a Python that the image had gets what is missing or out of date. Not all that lies there is Python 3.
compile() {
    /usr/bin/python3 -I -m compileall -q --invalidation-mode unchecked-hash "$@" >/dev/null
}
compile $([ -n "$python_before" ] || echo -f) /usr/lib/python3.[0-9]* || :
compile -f /usr/lib/python3/dist-packages || :
compile -f /usr/lib/python3/dist-packages/keelboot ||
    refuse "the agent does not compile with $(/usr/bin/python3 --version)"
[ -e /usr/bin/bootc ] || ln -s ../lib/keelboot/bootc /usr/bin/bootc
