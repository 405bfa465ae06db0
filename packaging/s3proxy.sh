#!/bin/sh
# /usr/bin/s3proxy: the command line on the installed root. All that works on a root has to be one user, so when root calls,
# this goes on as the user s3proxy. Another root (--root, S3PROXY_ROOT) is its caller's business.

become=
if [ -z "$S3PROXY_ROOT" ]; then
	export S3PROXY_ROOT=/opt/s3proxy
	[ "$(id -u)" != 0 ] || become=s3proxy
	for argument; do
		case $argument in --root | --root=*) become= ;; esac
	done
fi

if [ -z "$become" ]; then
	exec /usr/bin/node /opt/s3proxy/bin/run.js "$@"
fi

# As the units have it; read before the change of user, because only root may.
if [ -f /etc/s3proxy/credentials ]; then
	while IFS= read -r line || [ -n "$line" ]; do
		case $line in [A-Z]*=*) export "$line" ;; esac
	done </etc/s3proxy/credentials
fi
umask 022
export HOME=/opt/s3proxy
exec setpriv --reuid=s3proxy --regid=s3proxy --init-groups --no-new-privs /usr/bin/node /opt/s3proxy/bin/run.js "$@"
