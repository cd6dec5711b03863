#!/bin/sh
# Run nginx on a configuration that someone else writes, and have it read each new version.
#
#   run-nginx.sh FILE
#
# 'verl-agent-env nginx-config --watch --out FILE' writes the file, in a container of its own: this one needs nothing
# but nginx. A version that nginx refuses (a host has lost its address again) is not used; the watcher writes the next.
set -u
conf=${1:?give the configuration file}

# Each connection is an open file. nginx asks for as many as it needs, and gets none of them where that is too many.
ulimit -n "$(ulimit -H -n)" 2>/dev/null || true

# A signal ends this loop, too, before there is an nginx.
trap 'exit 0' TERM INT QUIT
until [ -s "$conf" ] && nginx -t -q -e stderr -c "$conf"; do
    sleep 1 &
    wait $!
done

seen=$(cksum <"$conf")
nginx -e stderr -c "$conf" &
nginx=$!
# Running requests are answered first.
trap 'kill -QUIT "$nginx"; wait "$nginx"; exit $?' TERM INT QUIT

while kill -0 "$nginx" 2>/dev/null; do
    # In the background, so that a signal is heeded at once.
    sleep 1 &
    wait $!
    now=$(cksum <"$conf") || continue
    if [ "$now" != "$seen" ] && nginx -t -q -e stderr -c "$conf"; then
        seen=$now
        kill -HUP "$nginx"
    fi
done
wait "$nginx"
