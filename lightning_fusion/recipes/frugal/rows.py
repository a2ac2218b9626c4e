"""Names of the rows of the recipe frugal."""

MAIN, SEEN = "FrugalFoE", "FrugalFoE (calibration set of all domains)"
CONFIDENT, AVERAGE = "all experts, most confident", "all experts, softmax average"
BEST, STACKING = "best single expert", "all experts, logistic stacking"
VALUE = "accuracy - trade_off * cost"
"""Metric of the advice: what the policy maximizes."""
SIMPLICITY = (AVERAGE, BEST, CONFIDENT, STACKING, MAIN)
"""Methods that can answer new samples, the simplest first."""
IN_SCOPE, SCOPE_AUROC = "accuracy in scope", "AUROC of the risk, out of scope vs in scope"
HALF_COVERAGE, SCOPE_COVERAGE = "error at 50 % coverage", "error at the coverage of the in-scope samples"
MAJORITY = "majority-class baseline (zero cost)"
COVERAGES = (1.0, 0.9, 0.8, 0.7, 0.5)
"""Fractions of the samples, those of lowest risk first, at which the report gives the accuracy."""
TRADE_OFFS = (1.0, 0.5, 0.2, 0.1, 0.05, 0.03, 0.02, 0.01)
"""Default trade-offs of the curves, as loss per mean cost of an expert."""
NEIGHBORS = (10, 20, 50, 100)  # of the sensitivity table
MOST_EXHAUSTIVE = 10  # experts
SETTINGS = {"random subsets": "number of experts", "confidence cascade": "threshold"}
"""Parameters of the rules along their curves; that of others is the trade-off."""
SINGLE = (
    BEST,
    "all experts, kNN",
    "all experts, masked MLP",
    STACKING,
    MAJORITY,
    "oracle (lowest-cost correct expert)",
)
"""Rules that have one cost, and no curve."""
BY_PROBABILITY = f"{MAIN}, maximum probability"
