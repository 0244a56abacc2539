# What changes on a machine lives in /var: the image says with tmpfiles.d lines what has to be there, and brings copies.
# A machine that is upgraded to this image gets the same as one that was made from it.
set_aside() { # set_aside /home /var/home: the directory's content goes below /var, a link takes its place
    if [ -L "$1" ]; then return; fi
    mkdir -p "$1" "$(dirname "$2")"
    if [ -e "$2" ]; then
        cp -a "$1/." "$2/"
        rm -rf "$1"
    else
        mv "$1" "$2"
    fi
    ln -s "$3" "$1"
}
# Programs and data that the image brings in /usr/local and /srv stay in the image, and links lead to them: an upgrade
# brings new versions, while the directories themselves are the machine's to write to.
link_farm() { # link_farm /usr/local /usr/lib/keelboot/usrlocal
    if [ -L "$1" ] || [ ! -d "$1" ]; then return; fi
    mkdir -p "$2"
    (cd "$1" && find . -xdev ! -type d ! -type l) | while IFS= read -r file; do
        mkdir -p "$2/$(dirname "$file")"
        mv "$1/$file" "$2/$file"
        ln -s "$2/$file" "$1/$file"
    done
}
link_farm /usr/local /usr/lib/keelboot/usrlocal
link_farm /srv /usr/lib/keelboot/srv
set_aside /usr/local /var/usrlocal ../var/usrlocal
set_aside /srv /var/srv var/srv
set_aside /home /var/home var/home
set_aside /root /var/roothome var/roothome
set_aside /mnt /var/mnt var/mnt

# Logs, caches and leftovers of the build are nobody's data.
find /var/log /var/tmp -xdev -mindepth 1 -type f -delete
find /tmp -xdev -mindepth 1 -delete
find /run -xdev -mindepth 1 -type f ! -path '/run/secrets/*' -delete 2>/dev/null || :

factory=/usr/share/factory
lines=/usr/lib/tmpfiles.d/zz-keelboot-var.conf # after all others: what a package says of its own directories wins
rm -rf "$factory/var" "$lines"
quoted() { # as tmpfiles.d(5) wants it: C escapes between quotes, specifiers doubled
    printf '"%s"' "$(printf '%s' "$1" | sed 's/[\\"]/\\&/g; s/%/%%/g')"
}
# What a package declares itself is left to it; a second line would only be reported as a duplicate on every boot.
declared=$(mktemp)
cat /usr/lib/tmpfiles.d/*.conf | sed -n 's/^[a-zA-Z][^ \t]*[ \t]\{1,\}"\{0,1\}\(\/[^ \t"]*\).*/\1/p' >"$declared"
# /home and /srv are links here, so systemd's line that makes them directories has nothing to do.
mkdir -p /etc/tmpfiles.d
[ -e /etc/tmpfiles.d/home.conf ] || ln -s /dev/null /etc/tmpfiles.d/home.conf
LC_ALL=C find /var -xdev -mindepth 1 \( -type d -o -type f -o -type l \) \
    ! -path '/var/lib/dpkg/*' -printf '%y %m %u %g %p\n' | LC_ALL=C sort -k 5 |
    while read -r type mode user group path; do
        if grep -qxF -e "$path" "$declared"; then continue; fi
        case $type in
            d) echo "d $(quoted "$path") :$mode :$user :$group - -" ;;
            l) echo "L $(quoted "$path") - - - - $(readlink "$path" | sed 's/[\\]/\\&/g; s/%/%%/g')" ;;
            f)
                mkdir -p "$factory$(dirname "$path")"
                cp -a "$path" "$factory$path"
                echo "C $(quoted "$path") :$mode :$user :$group - $(printf '%s' "$factory$path" | sed 's/[\\]/\\&/g; s/%/%%/g')"
                ;;
        esac
    done >"$lines"
# Loader cache and users are up to date as built; without this file the first boot makes them again.
: >/etc/.updated
rm -f "$declared" /usr/lib/keelboot/finish.sh
