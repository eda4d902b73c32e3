#!/bin/sh
# Run by mmdebstrap on the machine that builds, with the new root as $1 and this directory as $2.
set -eu
root=$1 here=$2

install -D -m 644 "$here/../guest_agent.py" "$root/usr/local/lib/lab/guest_agent.py"
install -D -m 755 "$here/lab-identity" "$root/usr/local/sbin/lab-identity"
install -m 644 "$here/lab-agent.service" "$here/lab-identity.service" "$root/etc/systemd/system/"
chroot "$root" systemctl enable lab-agent.service lab-identity.service

# An initrd with just what reaches the disk and the link: unpacking Debian's full one takes longer
# than the rest of the boot under emulation.
printf '%s\n' virtio_pci virtio_blk virtio_net ext4 >> "$root/etc/initramfs-tools/modules"
printf 'MODULES=list\nCOMPRESS=zstd\nRESUME=none\n' > "$root/etc/initramfs-tools/conf.d/lab"
chroot "$root" update-initramfs -u

# There for the tests that start them; none runs or listens by itself.
for unit in ssh.service ssh.socket sshd-keygen.service stunnel4.service stunnel.target \
            tinyproxy.service nginx.service nftables.service usbipd.service; do
    chroot "$root" systemctl disable "$unit" 2>/dev/null || true
done
# What would wake up in the middle of a test.
for unit in apt-daily.timer apt-daily-upgrade.timer dpkg-db-backup.timer e2scrub_all.timer \
            e2scrub_reap.service fstrim.timer logrotate.timer man-db.timer getty@tty1.service \
            systemd-tmpfiles-clean.timer serial-getty@ttyS0.service systemd-pstore.service; do
    ln -sf /dev/null "$root/etc/systemd/system/$unit"
done

printf '/dev/vda / ext4 rw,noatime 0 1\n' > "$root/etc/fstab"
printf 'lab\n' > "$root/etc/hostname"
cat > "$root/etc/hosts" <<'HOSTS'
127.0.0.1 localhost
::1 localhost ip6-localhost ip6-loopback
10.77.0.1 node
10.77.0.2 host
10.77.0.3 backup
fd77::1 node
fd77::2 host
fd77::3 backup
HOSTS
mkdir -p "$root/var/log/journal"
printf '[Journal]\nStorage=persistent\nRateLimitIntervalSec=0\nSyncIntervalSec=5s\n' |
    install -D -m 644 /dev/stdin "$root/etc/systemd/journald.conf.d/lab.conf"
printf 'Acquire::Languages "none";\nAPT::Install-Recommends "false";\n' > "$root/etc/apt/apt.conf.d/90lab"
# An empty id is replaced by a fresh one at the first boot.
: > "$root/etc/machine-id"
chroot "$root" passwd -d root >/dev/null
