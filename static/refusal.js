// The one kind of error whose message is for the visitor: a sentence that says what was wrong and what would do.

export class Refusal extends Error {}
