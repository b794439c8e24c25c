#!/usr/bin/env bash
# Tries the Debian package in a Debian of its own, which boots: installed, configured, upgraded while it runs, removed, purged.
# Usage, as root: deploy/debian/try.sh PACKAGE.deb [FOLDER]
# Needs mmdebstrap and systemd-container. In FOLDER the Debian stays for the next time; without one it is made and goes away.
set -euo pipefail

package=$(readlink -f "$1")
folder=${2:-$(mktemp -d)}
[ $# -gt 1 ] || trap 'rm -rf "$folder"' EXIT
root=$folder/root
if [ ! -e "$folder/debian.tar" ]; then
    mmdebstrap --variant=minbase --include=systemd,systemd-sysv,dbus,adduser bookworm "$folder/debian.tar"
fi
rm -rf "$root"
mkdir -p "$root"
tar -C "$root" -xf "$folder/debian.tar"
cp "$package" "$root/root/first.deb"
# The same as a later version.
dpkg-deb -R "$package" "$folder/next"
sed -i 's/^Version: .*/&.1/' "$folder/next/DEBIAN/control"
dpkg-deb -Znone -b "$folder/next" "$root/root/second.deb" >/dev/null
rm -rf "$folder/next"

cat >"$root/etc/systemd/system/trial.service" <<'UNIT'
[Unit]
After=multi-user.target
[Service]
Type=oneshot
ExecStart=/root/trial.sh
StandardOutput=file:/root/told
StandardError=inherit
ExecStopPost=/bin/systemctl poweroff --no-block
TimeoutStartSec=120
UNIT
cat >"$root/root/trial.sh" <<'TRIAL'
#!/bin/bash
set -euxo pipefail
export DEBIAN_FRONTEND=noninteractive
config=/etc/switchyard/config.toml
until_active() { for _ in $(seq 100); do switchyard healthcheck && return; sleep 0.2; done; false; }
kept() { [ "$(stat -c '%U:%G %a' $config)" = "root:switchyard 640" ]; }
cd /

: installed, it has its user and its configuration, and nothing runs
dpkg -i /root/first.deb
kept
! systemctl is-enabled switchyard.service
! systemctl is-active switchyard.socket
! switchyard check

: configured, it takes an event to both trackers, and a switch leaves the file to its group
for at in 9001 9002; do (switchyard sink --listen 127.0.0.1:$at >/root/sink.$at 2>&1 &); done
switchyard init --config /root/config.toml sentry=http://key@127.0.0.1:9001/1 glitchtip=http://key@127.0.0.1:9002/1
install -o root -g switchyard -m 640 /root/config.toml $config
switchyard check
systemctl enable --now switchyard
until_active
[ "$(stat -c %U "/proc/$(systemctl show -P MainPID switchyard.service)")" = switchyard ]
switchyard send-test
switchyard switch glitchtip --reason "a trial"
kept
switchyard switch sentry

: an upgrade starts the new version, asks nothing, and leaves the port open and the configuration as it is
before=$(systemctl show -P MainPID switchyard.service)
sum=$(sha256sum $config)
dpkg -i /root/second.deb
systemctl is-active switchyard.socket
until_active
[ "$(systemctl show -P MainPID switchyard.service)" != "$before" ]
[ "$(sha256sum $config)" = "$sum" ]
kept
switchyard send-test

: removed, nothing runs, and configuration and journal are there
dpkg -r switchyard
! systemctl is-active switchyard.socket
! systemctl is-active switchyard.service
[ -e $config ] && [ -e /var/lib/switchyard/data/journal.db ]

: installed again, it goes on with both
dpkg -i /root/second.deb
systemctl enable --now switchyard
until_active
switchyard status

: purged, nothing is left
dpkg -P switchyard
[ ! -e /etc/switchyard ] && [ ! -e /var/lib/switchyard ] && [ ! -e /usr/bin/switchyard ]
! systemctl is-active switchyard.socket
: every step went as it should
TRIAL
chmod +x "$root/root/trial.sh"
mkdir -p "$root/etc/systemd/system/multi-user.target.wants"
ln -sf ../trial.service "$root/etc/systemd/system/multi-user.target.wants/trial.service"

# Machines without systemd of their own have no bus to register a container at.
boot="systemd-nspawn --directory=$root --boot --private-network --console=pipe --register=no --keep-unit"
timeout 240 unshare --mount sh -c "mount -t tmpfs tmpfs /run && exec $boot" >"$folder/console" 2>&1 </dev/null || true
cat "$root/root/told"
tail -1 "$root/root/told" | grep -q "every step went as it should"
