"""Names of the rows of the recipe frugal."""

MAIN, SEEN = "FrugalFoE", "FrugalFoE (validation of all domains)"
CONFIDENT, AVERAGE = "all experts, most confident", "all experts, softmax average"
IN_SCOPE, TOLD_APART = "accuracy in scope", "AUROC of the risk, out of scope against in scope"
HALF_ANSWERED, SCOPE_ANSWERED = "error with half the samples answered", "error with as many answered as are in scope"
NOBODY = "nobody (most frequent class)"
ANSWERED = (1.0, 0.9, 0.8, 0.7, 0.5)
"""Shares of the samples, those of least risk, whose accuracy the report tells."""
TRADE_OFFS = (1.0, 0.5, 0.2, 0.1, 0.05, 0.03, 0.02, 0.01)
"""Trade-offs of the curves, unless others are given."""
NEIGHBORS = (10, 20, 50, 100)  # of the sensitivity table
MOST_EXHAUSTIVE = 10  # experts
SINGLE = (
    "best single expert",
    "all experts, kNN",
    "all experts, masked MLP",
    "all experts, logistic stacking",
    NOBODY,
    "oracle (cheapest right one)",
)
"""Rules that have one cost, and no curve."""
BY_PROBABILITY = f"{MAIN}, by its probability"
