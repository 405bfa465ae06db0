# What both packages do on the machine. packaging/build.js puts these functions into each of their scripts and calls one.

UNITS='s3proxy.service s3proxy-encrypt.timer s3proxy-upload.timer s3proxy-repair.timer'
RUNS='s3proxy-encrypt.service s3proxy-upload.service s3proxy-repair.service'
RUNNING=/run/s3proxy-upgrade.units

systemd_runs() {
	[ -d /run/systemd/system ]
}

# Modules are loaded when they are needed first: a process may not live on while its files are replaced. So everything stops
# here, as it does for SIGTERM, and what ran starts again in after_files. Repair goes first: it starts the timers as it ends.
before_files() {
	systemd_runs || return 0
	systemctl stop s3proxy-repair.service 2>/dev/null || true
	# shellcheck disable=SC2086
	systemctl list-units --plain --no-legend --state=active,activating,reloading $UNITS | cut -d ' ' -f 1 >>$RUNNING
	# shellcheck disable=SC2086
	systemctl stop $UNITS $RUNS 2>/dev/null || true
}

after_files() {
	systemd-sysusers s3proxy.conf
	# It wants /proc, which the building of an image may not have.
	systemd-tmpfiles --create s3proxy.conf || echo 's3proxy: its state directories will be made by the next boot' >&2
	if systemd_runs; then
		systemctl daemon-reload
		if [ -s $RUNNING ] && ! xargs systemctl start <$RUNNING; then
			echo 's3proxy: not everything that ran before could be started again: systemctl status "s3proxy*"' >&2
		fi
		rm -f $RUNNING
	fi
	if [ ! -e /opt/s3proxy/keys/latest ]; then
		cat <<-'END'
			s3proxy is installed, and has no key yet. Make one, and keep a copy of /opt/s3proxy/keys in a safe place:
			  s3proxy rotate-key
			Then choose a store in /opt/s3proxy/config.yaml, and start it:
			  systemctl enable --now s3proxy.service s3proxy-encrypt.timer s3proxy-upload.timer s3proxy-repair.timer
			Varnish and nginx in front of it: /usr/share/doc/s3proxy/README.md
		END
	fi
}

before_removal() {
	systemd_runs || return 0
	# shellcheck disable=SC2086
	systemctl disable --quiet --now $UNITS 2>/dev/null || true
	# shellcheck disable=SC2086
	systemctl stop $RUNS 2>/dev/null || true
}

after_removal() {
	# rpm gives a changed config.yaml another name; it stays the configuration of this root.
	if [ -e /opt/s3proxy/config.yaml.rpmsave ] && [ ! -e /opt/s3proxy/config.yaml ]; then
		mv /opt/s3proxy/config.yaml.rpmsave /opt/s3proxy/config.yaml
	fi
	! systemd_runs || systemctl daemon-reload
	echo 's3proxy is removed. Its keys, its artifacts and its user are still there: /opt/s3proxy'
}
