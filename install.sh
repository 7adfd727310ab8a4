#!/bin/sh
# Builds and installs ssmproxy; see usage below. POSIX sh, no other tools than
# Go and what POSIX has.
set -eu

usage() {
	cat <<'END'
usage: ./install.sh [--prefix DIR] [--ssh-config]   build and install, or update
       ./install.sh --uninstall [--prefix DIR]      take all of that away again
       ./install.sh --demo [--serve]                see it work, without installing

  --prefix DIR    install DIR/bin/ssmproxy; ~/.local/bin/ssmproxy without it
  --ssh-config    make ssh use it for hosts i-* and mi-*: one Include line at the
                  top of ~/.ssh/config, and ~/.ssh/ssmproxy.config
  --demo          run ssh, scp and sftp through a Session Manager that runs on
                  this machine for the occasion: no AWS account is needed, and
                  nothing is left behind
  --serve         keep the demo's service up, to connect from another terminal

It needs Go, and for --demo an OpenSSH client.
END
}

say() { printf '%s\n' "$*"; }
fail() {
	printf 'install.sh: %s\n' "$@" >&2
	exit 1
}
misused() {
	printf 'install.sh: %s\n' "$*" >&2
	usage >&2
	exit 2
}

action=install prefix='' sshconfig=no serve=no
while [ $# -gt 0 ]; do
	case $1 in
	--prefix)
		[ $# -gt 1 ] || misused "--prefix needs a directory"
		prefix=$2
		shift
		;;
	--prefix=*) prefix=${1#*=} ;;
	--ssh-config) sshconfig=yes ;;
	--uninstall) action=uninstall ;;
	--demo) action=demo ;;
	--serve) serve=yes ;;
	-h | --help)
		usage
		exit
		;;
	*) misused "unknown argument $1" ;;
	esac
	shift
done
[ $action = demo ] || [ $serve = no ] || misused "--serve goes with --demo"
[ $action = install ] || [ $sshconfig = no ] || misused "--ssh-config does not go with --$action"
[ $action != demo ] || [ -z "$prefix" ] || misused "--prefix does not go with --demo"

case $0 in
*/*) here=${0%/*} ;;
*) here=. ;;
esac
here=$(CDPATH='' cd -- "$here" && pwd)

if [ $action != demo ]; then
	if [ -z "$prefix" ]; then
		[ -n "${HOME:-}" ] || fail "HOME is not set: give --prefix DIR"
		prefix=$HOME/.local
	fi
	case $prefix in
	/*) ;;
	*) prefix=$PWD/$prefix ;;
	esac
	bindir=${prefix%/}/bin
	bin=$bindir/ssmproxy
fi

tmp=''
cleanup() {
	[ -z "$tmp" ] || rm -rf "$tmp"
}
trap cleanup EXIT
trap 'exit 129' HUP
trap 'exit 130' INT
trap 'exit 143' TERM
tempdir() {
	tmp=$(mktemp -d "${TMPDIR:-/tmp}/ssmproxy.XXXXXX")
}

# --- Go -----------------------------------------------------------------------

# at_least HAVE WANT compares dotted numbers.
at_least() {
	awk -v have="$1" -v want="$2" 'BEGIN {
		split(have, h, "."); n = split(want, w, ".")
		for (i = 1; i <= n; i++) if (h[i] + 0 != w[i] + 0) exit !(h[i] + 0 > w[i] + 0)
	}'
}

# need_go ends the script, saying what to install, unless there is a Go that
# can build this: itself, or by the toolchain that it fetches (GOTOOLCHAIN).
need_go() {
	want=$(sed -n 's/^go \([0-9.]*\).*/\1/p' "$here/go.mod")
	advice="install Go $want or later, from https://go.dev/doc/install or with your system's package manager, and run this again"
	command -v go >/dev/null 2>&1 || fail "there is no go command on PATH" "$advice"
	# In the module's directory Go says which toolchain would build it, having
	# fetched it where need be.
	have=$(cd "$here" && go env GOVERSION 2>/dev/null) || have=''
	if [ -z "$have" ]; then
		have=$(cd / && GOTOOLCHAIN=local go env GOVERSION 2>/dev/null) || have='of unknown version'
		at_least "${have#go}" "$want" || fail "$(command -v go) is too old: $have" "$advice"
		(cd "$here" && go env GOVERSION >/dev/null) || fail "go does not work in $here"
	fi
	number=$(say "$have" | sed -n 's/.*go\([0-9][0-9.]*\).*/\1/p')
	at_least "$number" "$want" || fail "$(command -v go) is too old: $have" "$advice"
}

# version is what git calls this tree; nothing where git does not know it.
version() {
	[ -e "$here/.git" ] || return 0 # a tarball, perhaps inside another repository
	git -C "$here" describe --tags --always --dirty 2>/dev/null || :
}

# build DIR PACKAGE... builds the packages into DIR, stripped and static, and
# shows how it gets on.
build() {
	into=$1
	shift
	stamp=$(version)
	{
		cd "$here" && CGO_ENABLED=0 go build -v -trimpath -buildvcs=false \
			-ldflags "-s -w${stamp:+ -X main.version=$stamp}" -o "$into/" "$@" 2>&1 &&
			: >"$tmp/built"
	} | tee "$tmp/build.log" | progress
	[ -e "$tmp/built" ] || {
		# All but the progress: package paths, one a line.
		grep -v '^[A-Za-z0-9._/-]*$' "$tmp/build.log" >&2 || :
		fail "the build failed"
	}
}

# progress shows the packages that go build -v names: on a terminal as a moving
# line, otherwise as a line now and then. A build with nothing to do says
# nothing.
progress() {
	if [ -t 2 ] && [ "${TERM:-dumb}" != dumb ]; then
		awk '{
			printf "\r\033[Kcompiling %d: %.50s", NR, $0
			fflush()
		} END { if (NR) printf "\r\033[K" }' >&2
	else
		awk 'NR % 100 == 1 {
			printf "compiling: %d %s\n", NR, $0
			fflush()
		}' >&2
	fi
}

# --- ~/.ssh -------------------------------------------------------------------

# The line that goes into ~/.ssh/config. ssh looks for the file in ~/.ssh.
include='Include ssmproxy.config'
# The first line of ~/.ssh/ssmproxy.config, and how its second one begins: what
# --uninstall has to undo.
signature='# Written by the install.sh of ssmproxy, whose --uninstall removes it.'
undo='# undo:'

if [ -n "${HOME:-}" ]; then
	sshdir=$HOME/.ssh
	config=$sshdir/config
	block=$sshdir/ssmproxy.config
	backup=$sshdir/config.before-ssmproxy
fi

ours() { [ -f "$block" ] && [ "$(head -n 1 "$block")" = "$signature" ]; }
included() { [ -f "$config" ] && grep -Fqx -- "$include" "$config"; }

# overwrite FILE NEW gives FILE the contents of NEW: in place, so that its mode,
# its owner and the links to it stay.
overwrite() {
	cat "$2" >"$1" && cmp -s "$1" "$2"
}

# proxy_command prints the path of the binary as ProxyCommand needs it: quoted
# for the shell where it must be, % doubled for ssh.
proxy_command() {
	case $bin in
	*[!A-Za-z0-9_./@:+,-]*) say "$bin" | sed "s/%/%%/g; s/'/'\\\\''/g; s/^/'/; s/\$/'/" ;;
	*) say "$bin" ;;
	esac
}

write_ssh_config() {
	[ -n "${HOME:-}" ] || fail "HOME is not set"
	if [ -e "$block" ] && ! ours; then
		fail "$block exists and is not from this script: move it away first"
	fi
	if [ -L "$config" ] && [ ! -e "$config" ]; then
		fail "$config is a link to a file that does not exist"
	fi
	if [ -e "$config" ] && ! included && [ ! -w "$config" ]; then
		fail "$config cannot be written: put this line at its top yourself, then run this again" "$include"
	fi

	steps=''
	if ours; then
		steps=$(sed -n "2s/^$undo//p" "$block")
	fi
	if [ ! -d "$sshdir" ]; then
		(umask 077 && mkdir "$sshdir")
		steps="$steps directory"
	fi
	if ! included; then
		[ -e "$config" ] || steps="$steps config"
		steps="$steps include"
	fi

	# The block first: an Include of a file that is not there yet is harmless,
	# but what there is to undo must be on record before it is done.
	path=$(proxy_command | sed 's/[\\&|]/\\&/g')
	{
		say "$signature"
		say "$undo$steps"
		"$bin" --ssh-config | sed "s|ProxyCommand ssmproxy|ProxyCommand $path|"
	} >"$tmp/block"
	if ! cmp -s "$tmp/block" "$block"; then
		(umask 077 && cat "$tmp/block" >"$block")
		say "wrote $block"
	fi
	if included; then
		return
	fi
	if [ -e "$config" ]; then
		cp -p "$config" "$backup"
		{ say "$include" && cat "$config"; } >"$tmp/config"
		overwrite "$config" "$tmp/config" || {
			cat "$backup" >"$config" || :
			fail "$config could not be written"
		}
		say "added one line to the top of $config: $include"
		say "(as it was: $backup)"
	else
		(umask 077 && say "$include" >"$config")
		say "wrote $config: $include"
	fi
}

undo_ssh_config() {
	[ -n "${HOME:-}" ] && ours || return 0
	steps="$(sed -n "2s/^$undo//p" "$block") "
	case $steps in *' include '*)
		if included; then
			line=$(grep -Fnx -- "$include" "$config" | sed 's/:.*//; 1q')
			# head and tail, unlike sed, keep a last line without newline.
			{
				[ "$line" -eq 1 ] || head -n "$((line - 1))" "$config"
				tail -n "+$((line + 1))" "$config"
			} >"$tmp/config"
			overwrite "$config" "$tmp/config" || fail "$config could not be written: remove the line $include yourself"
			say "removed the line from $config: $include"
		fi
		;;
	esac
	case $steps in *' config '*)
		if [ -f "$config" ] && [ ! -s "$config" ]; then
			rm "$config"
			say "removed $config, which has nothing else in it"
		fi
		;;
	esac
	if [ -e "$backup" ]; then
		if cmp -s "$backup" "$config"; then
			rm "$backup"
		else
			say "kept $backup: $config has changed since"
		fi
	fi
	rm "$block"
	say "removed $block"
	case $steps in *' directory '*)
		rmdir "$sshdir" 2>/dev/null || :
		;;
	esac
}

# --- what was asked for -------------------------------------------------------

install() {
	need_go
	tempdir
	say "building ssmproxy"
	build "$tmp" .
	if cmp -s "$tmp/ssmproxy" "$bin"; then
		say "$bin is up to date ($("$bin" --version))"
	else
		mkdir -p "$bindir"
		# Into place by renaming: the old one may be running.
		new=$bindir/.ssmproxy.$$
		if ! { cp "$tmp/ssmproxy" "$new" && chmod 755 "$new" && mv -f "$new" "$bin"; }; then
			rm -f "$new"
			fail "$bin could not be written"
		fi
		say "installed $bin ($("$bin" --version))"
	fi
	[ $sshconfig = no ] || write_ssh_config
	found=$(command -v ssmproxy) || found=''
	case :$PATH: in
	*":$bindir:"*)
		[ "$found" = "$bin" ] || say "note: $found comes first on PATH"
		;;
	*)
		say "note: $bindir is not on PATH; put this into your shell's profile:"
		say "    export PATH=\"$bindir:\$PATH\""
		;;
	esac
	if [ -n "${HOME:-}" ] && ours; then
		say "ready: ssh USER@i-... goes through Session Manager"
	else
		say "next: ./install.sh --ssh-config, or put this into ~/.ssh/config yourself:"
		"$bin" --ssh-config | sed 's/^/    /'
	fi
}

uninstall() {
	tempdir
	undo_ssh_config
	if [ -e "$bin" ]; then
		rm "$bin"
		say "removed $bin"
	else
		say "$bin is not there"
	fi
}

demo() {
	need_go
	command -v ssh >/dev/null 2>&1 || fail "there is no ssh command on PATH: install an OpenSSH client"
	tempdir
	say "building ssmproxy and the demo"
	build "$tmp" . ./ssmstream/ssmtest/demo
	# From here on the demo has the directory, and removes it when it ends.
	if [ $serve = yes ]; then
		exec "$tmp/demo" -dir "$tmp" -serve
	fi
	exec "$tmp/demo" -dir "$tmp"
}

$action
