"""What would each candidate have led to? Every candidate of a decision is executed and the episode finished from there.

Whole episodes judge a verifier by one bit each. From a recorded episode of a *base* condition one can go back to any
decision, execute each of its M candidates, and finish under the base with the same noises for all: the success of
candidate m is then known, and with it how well a verifier's scores order the candidates and what its pick is worth.
The answer is about one decision by the verifier among decisions by the base.
"""
