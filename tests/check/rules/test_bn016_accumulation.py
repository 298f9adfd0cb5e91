def test_accumulation_is_found_and_plain_steps_are_not(kit):
    model = kit.healthy()
    report = kit.check(model, select=["BN016"], **kit.stepping(model, every=4))
    assert dict(report.findings[0].numbers)["batches per step"] == 4
    assert kit.found("BN016", model, **kit.stepping(model)) == []
    assert kit.found("BN016", model, **kit.stepping(model, lambda x: model(x) + model(2 * x))) == []
