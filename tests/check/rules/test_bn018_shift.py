def test_a_shift_is_found_and_other_data_of_the_same_kind_are_not(kit, loader):
    x, y = kit.data(320, seed=7)
    assert kit.found("BN018", kit.healthy(), loader, serving=kit.batches(x, y)) == []
    assert "1" in kit.found("BN018", kit.healthy(), loader, serving=kit.batches(2 * x + 1, y))
