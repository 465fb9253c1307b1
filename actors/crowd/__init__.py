"""The simulated crowd: a small language world with known helpfulness and harm, and annotators who see them noisily.

``world`` loads and checks a world; ``gold`` says what a response really is; ``annotators`` say what people would
have answered; ``prompts`` and ``corpus`` feed training; ``vocabulary`` feeds the tokenizer; ``oracle`` bounds what
any policy can reach; ``generator`` makes new worlds. Nothing here knows a word of any particular world: wordings are
templates. Does not belong here: what a run does with a judgement (`cluster.runs`), and judges of real answers
(`actors.judging.judges`).
"""
