// The kind of error whose message is for the user: what was wrong, and what would be accepted.

export class Refusal extends Error {}
