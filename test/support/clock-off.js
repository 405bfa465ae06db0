// A preload (`node --import`): this process's clock is CLOCK_OFF milliseconds off.

const off = Number(process.env.CLOCK_OFF);
const { Date: RealDate } = globalThis;

globalThis.Date = class extends RealDate {
	constructor(...args) {
		super(...(args.length === 0 ? [RealDate.now() + off] : args));
	}

	static now() {
		return RealDate.now() + off;
	}
};
