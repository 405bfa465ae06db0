// `npm run package`: an RPM and a .deb of what is built, in build/, from packaging/package.yaml. Wants rpmbuild and dpkg-deb.
// --out DIR puts them elsewhere; --release N is for a second package of the same version.

import { execFileSync } from 'node:child_process';
import { createHash } from 'node:crypto';
import {
	chmodSync,
	copyFileSync,
	lutimesSync,
	mkdirSync,
	mkdtempSync,
	readdirSync,
	readFileSync,
	rmSync,
	statSync,
	writeFileSync,
} from 'node:fs';
import { tmpdir } from 'node:os';
import { dirname, join, resolve } from 'node:path';
import { fileURLToPath } from 'node:url';
import { parseArgs } from 'node:util';
import { parse } from 'yaml';

const project = fileURLToPath(new URL('..', import.meta.url));
const read = (name) => readFileSync(join(project, name), 'utf8');

const { values } = parseArgs({
	options: { out: { type: 'string', default: 'build' }, release: { type: 'string', default: '1' } },
});
const out = resolve(values.out);
const about = parse(read('packaging/package.yaml'));
const { version } = JSON.parse(read('package.json'));

// The time of the last commit, for both tools too, so that the same commit makes the same packages.
process.env.SOURCE_DATE_EPOCH ??= tool('git', 'log', '-1', '--format=%ct').trim();
const epoch = Number(process.env.SOURCE_DATE_EPOCH);

function tool(command, ...args) {
	try {
		return execFileSync(command, args, { cwd: project, encoding: 'utf8', stdio: ['ignore', 'pipe', 'pipe'] });
	} catch (error) {
		if (error.code === 'ENOENT') fail(`${command} is missing. On Debian: apt-get install rpm dpkg git`);
		throw new Error(`${command} failed: ${error.stderr || error.message}`);
	}
}

function fail(line) {
	console.error(line);
	process.exit(1);
}

/** Names of all files below a directory, `/`-separated, sorted; directories for which `enter` says no are left out. */
function filesBelow(directory, enter = () => true, prefix = '') {
	const entries = readdirSync(join(directory, prefix), { withFileTypes: true });
	return entries
		.flatMap((entry) => {
			const name = `${prefix}${entry.name}`;
			if (entry.isDirectory()) return enter(name) ? filesBelow(directory, enter, `${name}/`) : [];
			return entry.isFile() ? [name] : [];
		})
		.sort();
}

const LEGAL = /(^|\/)(licen[cs]e|notice|copying|copyright)[^/]*$/i;
/** Read by people, compilers, debuggers and bundlers; not by Node.js. */
const NOT_RUN = /\.(md|markdown|[cm]?ts|map|html|yml|flow|tsbuildinfo)$|(^|\/)(\.[^/]+|AUTHORS|CHANGELOG[^/]*)$/i;
const NOT_RUN_DIRECTORIES = new Set([
	'test',
	'tests',
	'doc',
	'docs',
	'example',
	'examples',
	'bench',
	'benchmark',
	'man',
	'.github',
]);

/** The files of one dependency that are needed to run it. */
function runtimeFiles(directory) {
	const { main = '' } = JSON.parse(readFileSync(join(directory, 'package.json'), 'utf8'));
	const unused = new Set(['node_modules', ...NOT_RUN_DIRECTORIES]);
	// The AWS SDK comes three times: what Node.js loads, and the same for bundlers and for compilers.
	if (main.startsWith('./dist-cjs/')) for (const name of ['dist-es', 'dist-types']) unused.add(name);
	return filesBelow(directory, (name) => !unused.has(name)).filter((name) => LEGAL.test(name) || !NOT_RUN.test(name));
}

/** What is installed here of what package-lock.json says that production needs. */
function dependencies() {
	const { packages } = JSON.parse(read('package-lock.json'));
	return Object.entries(packages).flatMap(([path, locked]) => {
		if (path === '' || locked.dev || locked.devOptional || locked.optional) return [];
		const there = JSON.parse(read(`${path}/package.json`)).version;
		if (there !== locked.version)
			fail(`${path} is version ${there}, package-lock.json says ${locked.version}: npm install`);
		const to = `${about.dependencies}/${path.slice('node_modules/'.length)}`;
		return runtimeFiles(join(project, path)).map((name) => ({
			from: `${path}/${name}`,
			to: `${to}/${name}`,
			mode: 0o644,
		}));
	});
}

/** Every file of the package: where from, where to, mode, whether it is configuration. Sorted by name. */
function contents() {
	const described = about.files.flatMap(({ from, to, mode = '0644', config = false }) => {
		const one = { from, to, mode: Number.parseInt(mode, 8), config };
		if (!statSync(join(project, from)).isDirectory()) return [one];
		return filesBelow(join(project, from)).map((name) => ({ ...one, from: `${from}/${name}`, to: `${to}/${name}` }));
	});
	const all = [...described, ...dependencies()];
	return all.sort((a, b) => (a.to < b.to ? -1 : 1));
}

/** Directories that are the package's own: those it lists and all between them and a file. */
function ownDirectories(files) {
	const own = new Set(about.directories);
	for (const { to } of files) {
		for (let path = dirname(to); about.directories.some((top) => path.startsWith(`${top}/`)); path = dirname(path))
			own.add(path);
	}
	return [...own].sort();
}

/** Lays the files out below `stage` as they will be on the machine. */
function layOut(stage, files) {
	for (const { from, to, mode } of files) {
		mkdirSync(dirname(stage + to), { recursive: true, mode: 0o755 });
		copyFileSync(join(project, from), stage + to);
		chmodSync(stage + to, mode);
	}
	for (const { to } of files) {
		for (let path = to; path !== '/'; path = dirname(path)) lutimesSync(stage + path, epoch, epoch);
	}
}

const script = (...lines) => `${['set -e', read('packaging/scripts.sh'), ...lines].join('\n')}\n`;

function buildDeb(work, stage, files) {
	const control = join(stage, 'DEBIAN');
	mkdirSync(control);
	const put = (name, text, mode = 0o644) => {
		writeFileSync(join(control, name), text);
		chmodSync(join(control, name), mode);
		lutimesSync(join(control, name), epoch, epoch);
	};
	const bytes = files.reduce((sum, { to }) => sum + statSync(stage + to).size, 0);
	const fields = {
		Package: about.name,
		Version: `${version}-${values.release}`,
		Section: about.deb.section,
		Priority: 'optional',
		Architecture: 'all',
		'Installed-Size': Math.ceil(bytes / 1024),
		Maintainer: about.maintainer,
		Depends: about.deb.requires.join(', '),
		Recommends: about.deb.recommends.join(', '),
		Description: `${about.summary}\n ${about.description.trimEnd().replaceAll('\n', '\n ')}`,
	};
	put(
		'control',
		Object.entries(fields)
			.map(([name, value]) => `${name}: ${value}\n`)
			.join(''),
	);
	put(
		'conffiles',
		files
			.filter(({ config }) => config)
			.map(({ to }) => `${to}\n`)
			.join(''),
	);
	const md5 = (name) => createHash('md5').update(readFileSync(name)).digest('hex');
	put(
		'md5sums',
		files
			.filter(({ config }) => !config)
			.map(({ to }) => `${md5(stage + to)}  ${to.slice(1)}\n`)
			.join(''),
	);
	const shell = (...lines) => `#!/bin/sh\n${script(...lines)}`;
	put('preinst', shell('case $1 in install | upgrade) before_files ;; esac'), 0o755);
	put('postinst', shell('case $1 in configure | abort-*) after_files ;; esac'), 0o755);
	put('prerm', shell('case $1 in remove) before_removal ;; esac'), 0o755);
	put('postrm', shell('case $1 in remove) after_removal ;; esac'), 0o755);
	const file = join(work, `${about.name}_${version}-${values.release}_all.deb`);
	tool('dpkg-deb', '--root-owner-group', '-Zxz', '--build', stage, file);
	rmSync(control, { recursive: true });
	return file;
}

function buildRpm(work, stage, files) {
	const octal = (mode) => mode.toString(8).padStart(4, '0');
	const listed = [
		...ownDirectories(files).map((path) => `%dir %attr(0755,root,root) "${path}"`),
		...files.map(
			({ to, mode, config }) => `${config ? '%config(noreplace) ' : ''}%attr(${octal(mode)},root,root) "${to}"`,
		),
	];
	// A "%" begins a macro.
	const literal = (text) => text.replaceAll('%', '%%');
	const spec = `
Name: ${about.name}
Version: ${version}
Release: ${values.release}
Summary: ${about.summary}
License: ${about.license}
BuildArch: noarch
AutoReqProv: no
${about.rpm.requires.map((one) => `Requires: ${one}\n`).join('')}${about.rpm.recommends.map((one) => `Recommends: ${one}\n`).join('')}
%description
${literal(about.description)}
%install
cp -a ${stage}/. %{buildroot}
%pre
${literal(script('before_files'))}
%posttrans
${literal(script('after_files'))}
%preun
${literal(script('[ "$1" != 0 ] || before_removal'))}
%postun
${literal(script('[ "$1" != 0 ] || after_removal'))}
%files
${listed.join('\n')}
`;
	const specFile = join(work, `${about.name}.spec`);
	writeFileSync(specFile, spec);
	const macros = {
		_topdir: join(work, 'rpm'),
		_rpmdir: work,
		_rpmfilename: '%{name}-%{version}-%{release}.%{arch}.rpm',
		_binary_payload: 'w6.xzdio',
		_buildhost: 'localhost',
		__os_install_post: '%{nil}',
		use_source_date_epoch_as_buildtime: '1',
		clamp_mtime_to_source_date_epoch: '1',
	};
	const defines = Object.entries(macros).flatMap(([name, value]) => ['--define', `${name} ${value}`]);
	tool('rpmbuild', ...defines, '-bb', specFile);
	return join(work, `${about.name}-${version}-${values.release}.noarch.rpm`);
}

const work = mkdtempSync(join(tmpdir(), 's3proxy-package-'));
try {
	const files = contents();
	const stage = join(work, 'stage');
	mkdirSync(stage, { mode: 0o755 });
	layOut(stage, files);
	mkdirSync(out, { recursive: true });
	const bytes = files.reduce((sum, { to }) => sum + statSync(stage + to).size, 0);
	for (const build of [buildDeb, buildRpm]) {
		const file = build(work, stage, files);
		const target = join(out, file.slice(work.length + 1));
		copyFileSync(file, target);
		const size = (statSync(target).size / 2 ** 20).toFixed(1);
		console.log(`${target}: ${size} MiB, ${files.length} files, ${(bytes / 2 ** 20).toFixed(1)} MiB installed`);
	}
} catch (error) {
	fail(error.message);
} finally {
	rmSync(work, { recursive: true, force: true });
}
