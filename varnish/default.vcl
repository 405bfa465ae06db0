# What a client of s3proxy meets: Varnish 7. Behind it nginx serves uploads/, and s3proxy ("the shim") takes uploads and
# brings back what only the store has. docs/edge.md says how it works and how to look into it.

vcl 4.1;

import purge;
import std;

# ---- Parameters. All of them; nothing below has to be edited. ------------------------------------------------------

# No artifact can have this name. Sick after two failures in a row, healthy after one answer of 200.
probe health {
	.url = "/.s3proxy-health";
	.interval = 1s;
	.timeout = 3s;
	.window = 2;
	.threshold = 1;
	.initial = 1;
}

# nginx/nginx.conf, `listen`.
backend nginx {
	.host = "127.0.0.1";
	.port = "8081";
	.connect_timeout = 2s;
	.first_byte_timeout = 30s;
	.between_bytes_timeout = 30s;
	.probe = health;
}

# config.yaml, `listen`. It keeps a reader's request for up to 20 s before it says `pending`: the time-out is that and
# a margin, so that one that hangs is noticed.
backend shim {
	.host = "127.0.0.1";
	.port = "9292";
	.connect_timeout = 2s;
	.first_byte_timeout = 25s;
	.between_bytes_timeout = 25s;
	.probe = health;
}

# Who may store artifacts: this machine and private networks.
acl uploaders {
	"localhost";
	"127.0.0.0"/8;
	"10.0.0.0"/8;
	"172.16.0.0"/12;
	"192.168.0.0"/16;
	"169.254.0.0"/16;
	"::1";
	"fc00::"/7;
	"fe80::"/10;
}

# Who may purge: s3proxy's commands, on this machine.
acl purgers {
	"127.0.0.0"/8;
	"::1";
}

# The largest upload: max_upload_size in config.yaml, and 64 KiB for the form around it. Keep the two the same: a body
# that s3proxy refuses has come halfway by then.
sub check_upload_size {
	if (std.bytes(req.http.Content-Length, 0B) > 1TB + 64KB) {
		return (synth(413, "larger than 1 TiB; the limit is in Varnish's s3proxy.vcl, and max_upload_size in config.yaml"));
	}
}

# From which size on an artifact is not cached but piped from nginx.
sub mark_large {
	if (std.bytes(beresp.http.Content-Length, 0B) > 64MB) {
		set bereq.http.S3proxy-Step = "large";
	}
}

# How long an artifact is served without asking nginx. A POST or PURGE takes effect at once, whatever this says.
# Longer, while a newer copy is on its way (request_grace), or cannot be had (grace).
sub lifetime_of_artifact {
	set beresp.ttl = 10m;
	set beresp.grace = 6h;
	set beresp.keep = 0s;
}

sub request_grace {
	set req.grace = 6h;
	if (std.healthy(nginx)) {
		set req.grace = 10s;
	}
}

# How long it is remembered that an artifact is large.
sub lifetime_of_marker {
	set beresp.ttl = 5s;
	set beresp.grace = 0s;
	set beresp.keep = 0s;
}

# 404 and errors. Never 0: clients would be served one after the other, or each would cause a request of its own. No
# grace: nobody is told of an error that is over.
sub lifetime_of_error {
	set beresp.ttl = 1s;
	set beresp.grace = 0s;
	set beresp.keep = 0s;
}

# ---- Requests --------------------------------------------------------------------------------------------------------

# The headers with which the steps below speak to one another and to the shim. From outside they would be forged.
sub remove_internal_headers {
	unset req.http.S3proxy-Edge;
	unset req.http.S3proxy-State;
	unset req.http.S3proxy-Step;
	unset req.http.S3proxy-Pipe;
	unset req.http.S3proxy-Fence;
	unset req.http.S3proxy-Status;
	unset req.http.S3proxy-Line;
	unset req.http.S3proxy-Type;
	unset req.http.S3proxy-Location;
	unset req.http.S3proxy-Digest;
	unset req.http.S3proxy-Retry;
}

# One name per artifact. Every other spelling would be another object in the cache, and a POST would not replace it.
sub check_name {
	# A query is not part of a name.
	set req.url = regsub(req.url, "\?.*$", "");
	# 980 bytes, all of them encoded.
	if (req.url ~ "^.{2942}") {
		return (synth(400, "bad path: longer than 980 bytes"));
	}
	# Components that are not empty and do not begin with a dot; raw what may be raw, %XX what must be encoded: space " # %
	# < > ? [ ] ^ ` { | } and bytes from 0x80 on. Not at all: control characters, encoded slashes, backslashes.
	if (req.url !~ "^(?:/(?!\.)(?:[A-Za-z0-9._~!$&'()*+,;=:@-]++|%(?:2[0235]|3[CEF]|5[BDE]|60|7[BCD]|[89A-F][0-9A-F]))++)++$") {
		return (synth(400, "bad path: send it in its one spelling: no empty component, none that begins with a dot, no slash at the end, %XX in capitals and only where it is needed"));
	}
}

sub vcl_recv {
	# We have sent ourselves back here: to the fence (vcl_deliver), or for a large artifact.
	if (req.restarts > 0) {
		if (req.http.S3proxy-Pipe) {
			set req.backend_hint = nginx;
			return (pipe);
		}
		return (hash);
	}
	call remove_internal_headers;

	if (req.method == "PURGE" && client.ip ~ purgers) {
		call check_name;
		# Goes no further than the cache: the fence, and nothing else.
		set req.method = "GET";
		set req.http.S3proxy-Fence = "1";
		set req.http.S3proxy-Status = "200";
		set req.http.S3proxy-Line = "purged " + req.url;
		return (hash);
	}
	if (req.method != "GET" && req.method != "HEAD" && req.method != "POST") {
		return (synth(405, "there is no " + req.method + " here"));
	}
	call check_name;

	if (req.method == "POST") {
		# All that can be known before the body, so that nobody sends gigabytes for nothing.
		if (client.ip !~ uploaders) {
			return (synth(403, "this address may not store artifacts; the list is in Varnish's s3proxy.vcl"));
		}
		if (req.http.Content-Type !~ "(?i)^multipart/form-data[ \t]*(?:;|$)") {
			return (synth(415, "the body is not multipart/form-data. Send a form with one file field named file, such as curl -F 'file=@FILE' URL makes."));
		}
		call check_upload_size;
		set req.backend_hint = shim;
		if (!std.healthy(req.backend_hint)) {
			return (synth(503, "s3proxy does not answer; nothing was stored. Try again."));
		}
		set req.http.S3proxy-Edge = "1";
		return (pass);
	}

	# A body would have to be read and thrown away.
	if (req.http.Transfer-Encoding || (req.http.Content-Length && req.http.Content-Length != "0")) {
		return (synth(400, "a GET or HEAD has no body here"));
	}
	# Several ranges at once, and what is none, get everything, which RFC 9110 allows; Varnish would refuse them.
	if (req.http.Range !~ "^bytes=(?:[0-9]+-[0-9]*|-[0-9]+)$") {
		unset req.http.Range;
	}
	# The same for everyone.
	unset req.http.Cookie;
	unset req.http.Authorization;
	unset req.http.Accept;
	call request_grace;
	return (hash);
}

# A name is all that tells artifacts apart. Not the host, by which a client may call this machine as it likes.
sub vcl_hash {
	hash_data(req.url);
	return (lookup);
}

# ---- The fence -------------------------------------------------------------------------------------------------------
# A POST is answered when no cached or arriving copy of the old content is left. Its answer is saved, and it goes on as
# a lookup of its name. That waits behind a fetch in flight. What it finds is purged, and it looks again, until it
# finds nothing. There is at most one copy and one fetch in flight of a name when the answer comes; what a third lookup finds was
# fetched after it, and is new. It must stay so: no hit-for-miss, no hash_ignore_busy, no hash_always_miss.

sub vcl_hit {
	if (!req.http.S3proxy-Fence) {
		return (deliver);
	}
	if (req.http.S3proxy-Fence == "3") {
		return (synth(200));
	}
	purge.hard();
	set req.http.S3proxy-Fence = std.integer(req.http.S3proxy-Fence, 1) + 1;
	return (restart);
}

sub vcl_miss {
	if (!req.http.S3proxy-Fence) {
		return (fetch);
	}
	# What is too old to be served, and would be used for revalidation or in grace.
	purge.hard();
	return (synth(200));
}

# ---- To nginx and the shim, in one fetch -----------------------------------------------------------------------------
# Step by step: `local` (nginx), on its 404 `store` (the shim, which fetches), when that is ready `again` (nginx). All of it
# is one fetch of one object, behind which everyone else who wants it waits: the store is asked once.

sub vcl_backend_fetch {
	if (bereq.method == "POST") {
		# Counts from the end of the body on: a large file has to reach the disk.
		set bereq.first_byte_timeout = 600s;
		set bereq.between_bytes_timeout = 600s;
		return (fetch);
	}
	# Always the whole artifact: what is cached serves every condition, range and encoding.
	unset bereq.http.If-None-Match;
	unset bereq.http.If-Modified-Since;
	unset bereq.http.If-Match;
	unset bereq.http.If-Unmodified-Since;
	unset bereq.http.If-Range;
	unset bereq.http.Range;
	unset bereq.http.Accept-Encoding;
	if (!bereq.http.S3proxy-Step) {
		set bereq.http.S3proxy-Step = "local";
	}
	if (bereq.http.S3proxy-Step == "store") {
		set bereq.backend = shim;
		set bereq.http.S3proxy-Edge = "1";
	} else {
		set bereq.backend = nginx;
		unset bereq.http.S3proxy-Edge;
	}
	return (fetch);
}

sub vcl_backend_response {
	if (bereq.method == "POST") {
		return (deliver);
	}
	unset beresp.http.Vary;
	unset beresp.http.Set-Cookie;
	if (bereq.http.S3proxy-Step == "store") {
		if (beresp.http.S3proxy-State == "ready") {
			set bereq.http.S3proxy-Step = "again";
			return (retry);
		}
		if (beresp.http.S3proxy-State == "pending") {
			if (bereq.retries < 20) {
				return (retry);
			}
			return (error(503, "it is still being fetched from the store. Try again."));
		}
		if (beresp.status < 400) {
			return (error(502, "what listens at s3proxy's address is not s3proxy; see varnish/default.vcl and listen: in config.yaml"));
		}
		# An error, in the shim's words.
		if (beresp.status >= 500 && bereq.is_bgfetch) {
			return (abandon);
		}
		call lifetime_of_error;
		return (deliver);
	}
	if (beresp.status == 200) {
		call mark_large;
		if (bereq.http.S3proxy-Step == "large") {
			# Only the headers were wanted. vcl_backend_error makes the marker.
			return (error(200, "large"));
		}
		call lifetime_of_artifact;
		return (deliver);
	}
	if (beresp.status == 404 && bereq.http.S3proxy-Step == "local") {
		set bereq.http.S3proxy-Step = "store";
		return (retry);
	}
	if (beresp.status == 404) {
		return (error(503, "s3proxy has it, and nginx does not find it. Try again; if it stays so, nginx's user may not read uploads/, or its root is another one."));
	}
	return (error(502, "nginx answered with " + beresp.status + "; see its error log"));
}

# No answer, or one that we made up above.
sub vcl_backend_error {
	set beresp.http.Content-Type = "text/plain; charset=utf-8";
	if (bereq.http.S3proxy-Step == "large") {
		set beresp.http.S3proxy-State = "large";
		set beresp.status = 200;
		set beresp.body = "";
		call lifetime_of_marker;
		return (deliver);
	}
	# What is in the cache, if older, is better than an error.
	if (bereq.is_bgfetch) {
		return (abandon);
	}
	set bereq.http.S3proxy-Line = beresp.reason;
	if (beresp.reason ~ "^Backend fetch failed|^Service Unavailable") {
		if (bereq.method == "POST") {
			set bereq.http.S3proxy-Line = "s3proxy did not answer; it may have been stored or not. Send it again.";
		} else if (bereq.http.S3proxy-Step == "store") {
			set bereq.http.S3proxy-Line = "s3proxy does not answer. Try again.";
		} else {
			set bereq.http.S3proxy-Line = "nginx does not answer. Try again.";
		}
	}
	# Its own reason instead of ours.
	set beresp.status = beresp.status;
	if (beresp.status == 503) {
		set beresp.http.Retry-After = "2";
	}
	set beresp.http.Cache-Control = "no-store";
	set beresp.http.S3proxy-Line = bereq.http.S3proxy-Line;
	set beresp.body = bereq.http.S3proxy-Line + {"
"};
	call lifetime_of_error;
	return (deliver);
}

# ---- Answers -----------------------------------------------------------------------------------------------------------

sub vcl_deliver {
	# To the fence with every answer after which there may be new content. (Not 4xx: nothing was stored.)
	if (req.method == "POST" && (resp.status < 400 || resp.status >= 500)) {
		set req.http.S3proxy-Fence = "1";
		set req.http.S3proxy-Status = resp.status;
		set req.http.S3proxy-Line = resp.http.S3proxy-Line;
		set req.http.S3proxy-Type = resp.http.Content-Type;
		set req.http.S3proxy-Location = resp.http.Location;
		set req.http.S3proxy-Digest = resp.http.Repr-Digest;
		set req.http.S3proxy-Retry = resp.http.Retry-After;
		# The body is read.
		set req.method = "GET";
		unset req.http.Content-Length;
		unset req.http.Transfer-Encoding;
		return (restart);
	}
	if (resp.http.S3proxy-State == "large") {
		set req.http.S3proxy-Pipe = "1";
		return (restart);
	}
	unset resp.http.S3proxy-State;
	unset resp.http.S3proxy-Line;
	unset resp.http.X-Varnish;
	unset resp.http.Via;
	return (deliver);
}

# Large: the bytes go through as they come, so memory stays flat and a range begins at once. One request for each
# connection: what the client sends after it would go to nginx unseen.
sub vcl_pipe {
	set bereq.http.Connection = "close";
	return (pipe);
}

# Answers of our own: one line, like the shim's.
sub vcl_synth {
	set resp.http.Content-Type = "text/plain; charset=utf-8";
	if (req.http.S3proxy-Fence) {
		set resp.status = std.integer(req.http.S3proxy-Status, 500);
		if (req.http.S3proxy-Type != "") {
			set resp.http.Content-Type = req.http.S3proxy-Type;
		}
		if (req.http.S3proxy-Location != "") {
			set resp.http.Location = req.http.S3proxy-Location;
		}
		if (req.http.S3proxy-Digest != "") {
			set resp.http.Repr-Digest = req.http.S3proxy-Digest;
		}
		if (req.http.S3proxy-Retry != "") {
			set resp.http.Retry-After = req.http.S3proxy-Retry;
		}
	} else {
		set req.http.S3proxy-Line = resp.reason;
		# Its own reason instead of ours.
		set resp.status = resp.status;
	}
	if (resp.status == 405) {
		set resp.http.Allow = "GET, HEAD, POST";
	}
	if (resp.status >= 400) {
		set resp.http.Cache-Control = "no-store";
	}
	if (resp.status == 503 && !resp.http.Retry-After) {
		set resp.http.Retry-After = "2";
	}
	# Otherwise all of a body that nobody wants would be read first.
	if (req.http.Content-Length || req.http.Transfer-Encoding) {
		set resp.http.Connection = "close";
	}
	unset resp.http.X-Varnish;
	set resp.body = req.http.S3proxy-Line + {"
"};
	return (deliver);
}
