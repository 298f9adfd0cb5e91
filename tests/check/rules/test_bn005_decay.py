import torch


def test_decay_on_affine_numbers_is_found_by_group(kit):
    model = kit.network()
    every = torch.optim.AdamW(model.parameters(), weight_decay=0.1)
    assert kit.found("BN005", model, optimizer=every) == [""]
    apart = torch.optim.AdamW(
        [
            {"params": [p for p in model.parameters() if p.dim() > 1], "weight_decay": 0.1},
            {"params": [p for p in model.parameters() if p.dim() == 1], "weight_decay": 0.0},
        ]
    )
    assert kit.found("BN005", model, optimizer=apart) == []
