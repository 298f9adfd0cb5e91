def test_a_bias_before_batch_norm_is_style(kit):
    report = kit.check(kit.network(bias=True), select=["BN004"])
    assert [(f.layer, f.style) for f in report.findings] == [("0", True)]
    assert kit.found("BN004", kit.network()) == []
