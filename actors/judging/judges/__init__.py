"""Those who judge an answer: gold's refusal words, score models, a language model behind an address, people through a file.

A new judge brings the methods of `protocol.Judge`: a name that says whose word it is, what it can judge (its capabilities), and
verdicts in the order of the questions, with None where it could not decide. It never invents a verdict, and what it kept of its
replies is enough to judge again without it.
"""
