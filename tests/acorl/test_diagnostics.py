from lightning_fusion.acorl.diagnostics import accuracy_warnings, trial_warnings

FINE = {"val_accuracy": 0.8, "val_pool_accuracy": 0.7, "val_fused_accuracy": 0.85}


def test_failures_of_classifiers_are_named():
    assert accuracy_warnings(FINE) == []
    assert accuracy_warnings({}) == []
    assert "the training diverged" in accuracy_warnings(FINE | {"val_loss": float("nan")})[0]
    assert "is far below the experts" in accuracy_warnings(FINE | {"val_accuracy": 0.3})[0]
    assert "fusing gains nothing" in accuracy_warnings(FINE | {"val_fused_accuracy": 0.7})[0]
    assert "alone (0.900) is better than the fusion (0.850" in accuracy_warnings(FINE | {"val_accuracy": 0.9})[0]


def test_failures_of_models_of_speakers_are_named():
    fine = {"val_fused_eer": 0.05, "val_expert_a_eer": 0.1, "val_expert_b_eer": 0.2, "val_eer": 0.3}
    assert trial_warnings(fine) == []
    assert trial_warnings({"val_fused_eer": 0.05}) == []
    assert (
        "EER of the best expert 0.100, fused with the new model 0.100"
        in trial_warnings(fine | {"val_fused_eer": 0.1})[0]
    )
