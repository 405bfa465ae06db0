/** What all commands share: common flags, signals, and errors to exit codes. */

import { existsSync } from 'node:fs';
import { join } from 'node:path';
import { Command, Flags } from '@oclif/core';
import { type Context, createContext, resolveRoot } from './context.js';
import { explain, isS3proxyError, S3proxyError } from './errors.js';
import { describeError, type Log } from './log.js';
import { exitCodeOf, type RunResult } from './operations/run-items.js';
import { Interruption } from './terminal/interruption.js';
import { createProgress, type TerminalProgress } from './terminal/progress.js';
import { bytesText, countText } from './terminal/words.js';

/** For the help of every command. */
export const EXIT_CODES = `Exit codes: 0 done; 1 some items failed, each is named on stderr, the others are done; 2 bad usage; 3 bad config.yaml or key; 4 no such artifact; 5 could not get a lock in time; 6 the store cannot be reached or refuses; 130 or 143 stopped by SIGINT or SIGTERM before all was done.`;

export interface CommonFlags {
	readonly root?: string | undefined;
	readonly quiet: boolean;
}

export abstract class S3proxyCommand extends Command {
	static override enableJsonFlag = true;

	static override baseFlags = {
		root: Flags.string({
			description: 'the root: the directory with config.yaml and all state',
			env: 'S3PROXY_ROOT',
			helpGroup: 'COMMON',
			helpValue: 'DIR',
		}),
		quiet: Flags.boolean({ description: 'say only what went wrong', helpGroup: 'COMMON' }),
	};

	#interruption: Interruption | undefined;
	#progress: TerminalProgress | undefined;
	#quiet = false;
	/** With `log: json`, for everything on stderr: whoever reads it parses every line. */
	#jsonLog: Log | undefined;

	/**
	 * Runs `work` with the context of the root that the flags name.
	 * @param options.keys `required`: fail when there is none; `unchecked`: for the command that mends them
	 */
	protected async withContext<T>(
		flags: CommonFlags,
		options: { keys: 'required' | 'optional' | 'unchecked' },
		work: (context: Context) => Promise<T>,
	): Promise<T> {
		this.#quiet = flags.quiet;
		const visible = process.stderr.isTTY && !flags.quiet && !this.jsonEnabled();
		const progress = createProgress({ visible });
		this.#progress = progress;
		const write = (line: string) => progress.above(() => process.stderr.write(line));
		const interruption = new Interruption((line) => {
			if (this.#jsonLog === undefined) write(`${line}\n`);
			else this.#jsonLog.info(line);
		});
		this.#interruption = interruption;
		try {
			const context = await this.#createContext(flags, progress, interruption, write);
			if (context.config.log === 'json') this.#jsonLog = context.log;
			try {
				if (options.keys === 'required') await context.keyring();
				if (options.keys === 'optional') await context.keyringIfAny();
				return await work(context);
			} finally {
				await context.close();
			}
		} finally {
			interruption.ignore();
			progress.end();
		}
	}

	async #createContext(
		flags: CommonFlags,
		progress: TerminalProgress,
		{ stopping, abandon }: Interruption,
		write: (line: string) => void,
	): Promise<Context> {
		const root = await resolveRoot(flags.root ?? this.#defaultRoot());
		return createContext(root, { progress, stopping, abandon, write, quiet: flags.quiet });
	}

	#defaultRoot(): string {
		return existsSync(join(this.config.root, 'config.yaml')) ? this.config.root : process.cwd();
	}

	/** A line of human output; nothing with --quiet or --json. */
	protected say(line: string): void {
		if (this.#quiet) return;
		// The bar is on the same terminal.
		this.#progress?.above(() => this.log(line));
	}

	/** Says what a run did (`encrypted`, `encrypt`) and sets the exit code. */
	protected report(result: RunResult, past: string, verb: string): RunResult {
		if (result.busy) this.say(`another ${verb} is running on this root; nothing was done`);
		else if (result.done + result.failed === 0) this.say(`nothing to ${verb}`);
		else this.say(`${past} ${countText(result.done, 'artifact')} (${bytesText(result.bytes)})${failures(result)}`);
		if (result.incomplete) this.say('some were left for the next run');
		return this.exitWith(result);
	}

	/** Sets the exit code that says how a run ended. */
	protected exitWith(result: RunResult): RunResult {
		const stopped = result.incomplete ? this.#interruption?.exitCode : undefined;
		process.exitCode = stopped ?? exitCodeOf(result);
		return result;
	}

	protected override async catch(thrown: Error & { exitCode?: number }): Promise<unknown> {
		const error = this.jsonEnabled() && isUsageError(thrown) ? asOurs(thrown) : explain(thrown, this.id ?? 's3proxy');
		if (!isS3proxyError(error)) return super.catch(thrown);
		if (this.jsonEnabled()) {
			const { code, message, hint } = error;
			this.logJson({ error: { code, message, ...(hint === undefined ? {} : { hint }) } });
		} else if (this.#jsonLog !== undefined) {
			this.#jsonLog.error(describeError(error), { code: error.code });
		} else {
			const { chalkStderr } = await import('chalk');
			process.stderr.write(`${chalkStderr.red('error:')} ${error.message}\n`);
			if (error.hint !== undefined) process.stderr.write(`${error.hint}\n`);
		}
		process.exitCode = this.#exitCodeOf(error);
		return undefined;
	}

	#exitCodeOf(error: S3proxyError): number {
		return (error.code === 'stopping' ? this.#interruption?.exitCode : undefined) ?? error.outcome.exit;
	}
}

function failures({ failed }: RunResult): string {
	return failed === 0 ? '' : `, ${failed} failed`;
}

/** An error of oclif's parser, which on a terminal it shows best itself. */
function isUsageError(error: Error & { oclif?: { exit?: number } }): boolean {
	return error.oclif?.exit === 2;
}

/** The same for --json: oclif would print the parser and all that it knows. */
function asOurs({ message }: Error): S3proxyError {
	return new S3proxyError('bad-usage', message.split('\nSee more help')[0] ?? message, { hint: 'See --help.' });
}
