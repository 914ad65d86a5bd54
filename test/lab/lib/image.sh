# shellcheck shell=bash
# The machine's kernel, initrd and root disk, made from Debian packages. An image is kept under a key that is made of
# all that goes into it, so that it is built again when, and only when, one of those files changes.

# image_key: the machine that it is primed in and where its packages come from are a part of it, too.
image_key() {
	{
		cat lib/image.sh image/*
		declare -f qemu_arguments
		echo "$LAB_SUITE $MAIN $SECURITY"
	} | sha256sum | cut -c1-16
}

# without_comments FILE prints a list.
without_comments() { sed 's/#.*//; /^ *$/d' "$1"; }

# mirror SUITE LABEL prints where this computer's apt gets a suite from, else any of that label: a mirror has all of them.
mirror() {
	# shellcheck disable=SC2016 # the names are apt's
	apt-get indextargets --format '$(RELEASE) $(REPO_URI) $(LABEL)' 'Created-By: Packages' 2>/dev/null |
		awk -v suite="$1" -v label="$2" '$1 == suite && !exact { exact = $2 } $3 == label && !any { any = $2 } END { print exact ? exact : any }'
}

# mirrors sets MAIN and SECURITY to where Debian comes from; the latter may be empty.
mirrors() {
	MAIN=${LAB_MIRROR:-$(mirror "$LAB_SUITE" Debian)}
	SECURITY=${LAB_SECURITY:-$(mirror "$LAB_SUITE-security" Debian-Security)}
}

# build_image sets IMAGE to the folder of an image that is up to date.
build_image() {
	mirrors
	if [[ -z $MAIN ]]; then
		# apt knows the labels only of what it has read.
		limited 300 apt-get update -qq </dev/null
		mirrors
	fi
	[[ -n $MAIN ]] || die "apt knows no mirror of Debian; name one in LAB_MIRROR, and one of its security updates in LAB_SECURITY"
	IMAGE=$LAB_DIR/images/$(image_key)
	[[ ! -e $IMAGE/complete ]] || return 0
	packages mmdebstrap:mmdebstrap mke2fs:e2fsprogs cpio:cpio zstd:zstd qemu-system-x86_64:qemu-system-x86 xz:xz-utils
	local started=$SECONDS
	say "building the machine's image, once: some two minutes"
	rm -rf --one-file-system "$LAB_DIR/images"
	mkdir -p "$IMAGE"
	# In memory where there is room: dpkg is much faster there.
	local work=$LAB_DIR
	(($(df --output=avail -m /dev/shm | tail -1) < 4000 || $(awk '/MemAvailable/ { print int($2 / 1024) }' /proc/meminfo) < 6000)) || work=/dev/shm
	WORK=$(mktemp -d "$work/lab-image.XXXXXX")
	# A process of its own, that can be ended with all it has started.
	WORK=$WORK IMAGE=$IMAGE MAIN=$MAIN SECURITY=$SECURITY limited 1200 \
		bash -euo pipefail -c '. lib/common.sh && . lib/image.sh && make_image'
	rm -rf --one-file-system "$WORK"
	WORK=''
	prime
	touch "$IMAGE/complete"
	say "the image took $((SECONDS - started)) s"
}

# make_image makes the image in IMAGE.
make_image() {
	root_folder "$WORK/root"
	kernel "$WORK/root"
	initrd "$WORK/root" "$WORK/initrd"
	configure "$WORK/root"
	mke2fs -q -t ext4 -O ^has_journal,^metadata_csum -E lazy_itable_init=1,root_owner=0:0 -m 0 -d "$WORK/root" "$IMAGE/root.img" 3G >/dev/null
}

# root_folder unpacks Debian, and the package of the kernel beside it.
root_folder() {
	local root=$1
	{
		echo "deb $MAIN $LAB_SUITE main"
		echo "deb $MAIN $LAB_SUITE-updates main"
		[[ -z $SECURITY ]] || echo "deb $SECURITY $LAB_SUITE-security main"
	} >"$WORK/sources"
	# shellcheck disable=SC2016 # the hook's variables are mmdebstrap's
	mmdebstrap --mode=root --variant=minbase --format=directory --quiet \
		--aptopt='APT::Install-Recommends "false"' --aptopt='Acquire::Languages "none"' --dpkgopt=force-unsafe-io \
		--dpkgopt='path-exclude=/usr/share/man/*' --dpkgopt='path-exclude=/usr/share/doc/*' \
		--dpkgopt='path-exclude=/usr/share/locale/*' --dpkgopt='path-exclude=/usr/share/info/*' \
		--include="$(without_comments image/packages | paste -sd,)" \
		--customize-hook='cd "$1/root" && export APT_CONFIG=$MMDEBSTRAP_APT_CONFIG &&
			apt-get -qq download "$(apt-cache depends linux-image-amd64 | sed -n "s/.*Depends: \(linux-image-[0-9].*\)/\1/p" | head -n1)"' \
		"$LAB_SUITE" "$root" - <"$WORK/sources" >"$IMAGE/mmdebstrap.log" 2>&1 || {
		tail -n 20 "$IMAGE/mmdebstrap.log" >&2
		die "cannot install Debian into a folder"
	}
}

# kernel takes the kernel out of its package, with the modules of the list and all they depend on.
kernel() {
	local root=$1 package version module
	package=$(echo "$root"/root/linux-image-*.deb)
	dpkg-deb -x "$package" "$root/k"
	rm "$package"
	version=$(ls "$root/k/lib/modules")
	cp "$root/k/boot/vmlinuz-$version" "$IMAGE/vmlinuz"
	chroot "$root" depmod -b /k "$version"
	local modules=$root/usr/lib/modules/$version
	mkdir -p "$modules"
	cp "$root/k/lib/modules/$version"/modules.{builtin,builtin.modinfo,order} "$modules/"
	without_comments image/modules | while read -r module _; do
		chroot "$root" modprobe -d /k -S "$version" --show-depends "$module" 2>/dev/null || say "the kernel has no module $module"
	done | awk -v skip="/k/lib/modules/$version/" '/^insmod/ { print substr($2, length(skip) + 1) }' | sort -u |
		(cd "$root/k/lib/modules/$version" && cpio -pdm --quiet "$modules")
	chroot "$root" depmod "$version"
	rm -rf "$root/k"
	echo "$version" >"$IMAGE/kernel-version"
}

# initrd packs busybox, init and the modules that the root disk needs.
initrd() {
	local root=$1 dir=$2 file
	mkdir -p "$dir"/{bin,dev,proc,sys,mnt,m}
	cp "$root/bin/busybox" "$dir/bin/"
	cp image/init "$dir/init"
	without_comments image/modules | awk '$2 == "initrd" { print $1 }' | while read -r module; do
		chroot "$root" modprobe -S "$(<"$IMAGE/kernel-version")" --show-depends "$module"
	done | awk '/^insmod/ && !seen[$2]++ { print $2 }' | while read -r file; do
		cp "$root$file" "$dir/m/"
		basename "$file" >>"$dir/m/order"
	done
	(cd "$dir" && find . | cpio -o -H newc -R 0:0 --quiet | gzip -1) >"$IMAGE/initrd"
}

# configure makes the machine quick to boot and quiet, and puts the lab's agent into it.
configure() {
	local root=$1 unit
	echo lab >"$root/etc/hostname"
	echo '127.0.0.1 localhost lab' >"$root/etc/hosts"
	: >"$root/etc/fstab"
	echo 1ab1ab1ab1ab1ab1ab1ab1ab1ab1ab1a >"$root/etc/machine-id"
	sed -i 's/^root:[^:]*:/root::/' "$root/etc/shadow"
	chroot "$root" useradd --create-home --shell /bin/bash --uid 1000 person
	for unit in apt-daily.timer apt-daily-upgrade.timer dpkg-db-backup.timer e2scrub_all.timer e2scrub_reap.service \
		fstrim.timer logrotate.timer getty@tty1.service libvirt-guests.service systemd-pstore.service \
		systemd-tmpfiles-clean.timer; do
		ln -sf /dev/null "$root/etc/systemd/system/$unit"
	done
	# The journal in memory, and all of it.
	mkdir -p "$root/etc/systemd/journald.conf.d"
	printf '[Journal]\nStorage=volatile\nRateLimitBurst=0\nRuntimeMaxUse=64M\n' >"$root/etc/systemd/journald.conf.d/lab.conf"
	# libvirtd stays when nobody talks to it: a daemon that comes and goes would be a difference between snapshots.
	echo 'LIBVIRTD_ARGS=' >"$root/etc/default/libvirtd"
	# AppArmor confines libvirtd, and with it the hook, as on any Debian; a profile for each guest is left out: compiling one
	# takes longer in emulation than all the rest of a start.
	echo 'security_driver = "none"' >>"$root/etc/libvirt/qemu.conf"
	mkdir -p "$root/lab"
	install -m 755 image/lab-agent "$root/usr/local/sbin/lab-agent"
	install -m 644 image/lab-agent.service "$root/etc/systemd/system/lab-agent.service"
	ln -sf ../lab-agent.service "$root/etc/systemd/system/multi-user.target.wants/lab-agent.service"
	chroot "$root" ldconfig
	chroot "$root" systemd-hwdb update 2>/dev/null || :
	# /etc and /var are up to date: without these, systemd's ConditionNeedsUpdate services run at each boot.
	touch "$root/etc/.updated" "$root/var/.updated"
	touch -r "$root/usr" "$root/etc/.updated" "$root/var/.updated"
}

# prime boots once with a disk that keeps its changes: libvirt asks QEMU what it can do, AppArmor compiles its profiles,
# and both keep the answers.
prime() {
	local try
	cp --sparse=always "$IMAGE/root.img" "$IMAGE/root.img.0"
	for try in 1 2 3; do
		new_run prime
		boot keep
		if request prime 300 && power_off 60; then
			rm -rf "$IMAGE/root.img.0" "$RUN"
			return 0
		fi
		say "the first boot failed ($try of 3, see $RUN)"
		end_machine
		cp --sparse=always "$IMAGE/root.img.0" "$IMAGE/root.img"
	done
	die "the image does not boot"
}
