// Mocha's spec reporter, and a closing line that any reader of a log understands.

const { reporters } = require('mocha');

module.exports = class Reporter extends reporters.Spec {
	epilogue() {
		super.epilogue();
		const { passes, failures, pending } = this.stats;
		console.log(`${passes} passed, ${failures} failed, ${pending} skipped`);
	}
};
