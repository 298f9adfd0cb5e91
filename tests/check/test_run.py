import pytest
import torch
from torch import nn

import normscope
from normscope.bibliography import cite
from normscope.check.rule import chosen, rule, rules
from normscope.check.run import check, fix, gathered
from normscope.errors import InputError
from normscope.records import CheckReport, from_json, to_json


def test_the_package_can_be_called():
    report = normscope.check(nn.Sequential(nn.BatchNorm1d(2)).state_dict())
    assert report.ran == ("BN001", "BN008", "BN009", "BN013", "BN014")


def test_rules_that_did_not_run_are_listed_with_what_they_need(kit):
    report = check(kit.network())
    assert dict(report.skipped)["BN002"] == "needs training data: give --data"
    assert {*report.ran, *dict(report.skipped)} == {one.code for one in rules()}


def test_select_and_ignore_take_codes_and_prefixes():
    assert [one.code for one in chosen(["bn00"], ["BN002", "BN005"])] == [f"BN00{n}" for n in (1, 3, 4, 6, 7, 8, 9)]
    with pytest.raises(InputError, match="came 'BN999'"):
        list(chosen(["BN999"]))


def test_codes_are_in_order_and_every_rule_is_complete():
    codes = [one.code for one in rules()]
    assert codes == [f"BN{n:03}" for n in range(1, len(codes) + 1)]
    for one in rules():
        assert one.why
        assert one.fix
        assert one.threshold
        assert all(cite(key) for key in one.sources)


@pytest.mark.parametrize("serving", [False, True])
def test_the_forward_passes_are_said_beforehand(kit, loader, serving):
    model = kit.healthy()
    said, counted = [], [0]
    handle = model.register_forward_hook(lambda *_: counted.__setitem__(0, counted[0] + 1))
    options = {"serving": loader[:10]} if serving else {}
    report = check(model, loader, max_forwards=200, announce=said.append, **options)
    handle.remove()
    assert said[0] == f"{report.planned} forward passes"
    assert report.forwards == counted[0]
    assert counted[0] == pytest.approx(report.planned, rel=0.1)


def test_causes_that_only_measuring_shows_stay_within_what_was_said(kit, loader):
    model = kit.healthy()
    model[5].running_mean[:4] += 1000
    step = kit.stepping(model, lambda x: model(x) + 0 * model(3 * x + 5))
    for _ in range(20):
        step["step"]()
    for limit in (None, 60, 300):
        report = check(model, loader, max_forwards=limit, **step)
        assert len(report.gap.causes) == 4
        assert 0.9 * report.planned <= report.forwards <= 1.1 * report.planned


def test_dropout_and_reused_layers_are_in_the_plan(kit):
    class Reused(nn.Module):
        def __init__(self):
            super().__init__()
            torch.manual_seed(0)
            self.norm, self.last, self.drop = nn.BatchNorm1d(48), nn.Linear(48, 3), nn.Dropout(0.2)

        def forward(self, x):
            return self.last(self.drop(self.norm(self.norm(x.flatten(1)))))

    report = check(Reused(), kit.batches(*kit.data()), max_forwards=100)
    assert report.forwards == pytest.approx(report.planned, rel=0.1)


def test_a_report_survives_json(kit, loader):
    model = kit.healthy()
    model[1].running_var.mul_(9)
    report = check(model, loader, max_forwards=32)
    assert report.findings
    assert from_json(to_json(report), CheckReport) == report


def test_a_fix_is_kept_when_the_held_out_loss_falls(kit):
    model = kit.healthy()
    labelled = kit.batches(kit.data()[0], model.eval()(kit.data()[0]).argmax(1))
    model[1].running_var.mul_(30)
    subject = gathered(model, labelled[:14], held_out=labelled[14:], max_forwards=16)
    active = tuple(chosen(["BN001"]))
    report = check(model, labelled[:14], held_out=labelled[14:], select=["BN001"])
    done = fix(subject, active, report)
    assert [(row.name, row.kept) for row in done.report.fixes] == [("recalibrate", True)]
    assert done.report.fixes[0].after < done.report.fixes[0].before
    assert "1 of 1 fixable findings are gone" in done.report.notes[-1]
    assert float(model[1].running_var[0]) == pytest.approx(30 * float(done.model[1].running_var[0]), rel=0.1)


def test_the_forward_passes_of_a_fix_are_said_beforehand(kit, loader):
    model, said, counted = kit.healthy(), [], [0]
    model[1].running_var.mul_(30)
    rules_ = tuple(chosen())
    subject = gathered(model, loader[:14], held_out=loader[14:], max_forwards=100)
    report = check(model, loader[:14], held_out=loader[14:], max_forwards=100)
    with kit.every_forward(counted):
        fix(subject, rules_, report, said.append)
    number, words = said[0].split(" ", 1)
    assert words == "forward passes to fix and check again"
    assert counted[0] == pytest.approx(int(number), rel=0.1)


def test_a_loss_that_is_nan_in_both_modes_is_not_split(kit, loader):
    report = check(kit.healthy(), loader, loss=lambda output, _: output.sum() * torch.nan, max_forwards=32)
    assert report.gap is None
    assert "NaN or inf in train mode too" in report.notes[-1]


def test_a_fix_that_makes_the_held_out_loss_worse_is_not_kept(kit):
    model = kit.healthy()
    x, _ = kit.data()
    model[1].running_var.mul_(30)
    liked = kit.batches(x, model.eval()(x).argmax(1))
    active = tuple(chosen(["BN001"]))
    subject = gathered(model, liked, max_forwards=16)
    done = fix(subject, active, check(model, liked, select=["BN001"]))
    assert [row.kept for row in done.report.fixes] == [False]
    assert torch.equal(done.model[1].running_var, model[1].running_var)


@pytest.mark.parametrize(
    ("call", "words"),
    [
        (lambda _: check({"weight": torch.zeros(2)}), "it has no batch norm"),
        (lambda kit: check(nn.Linear(2, 2), kit.batches(*kit.data(32))), "at least one batch-norm layer"),
        (lambda kit: check(kit.network(), []), "expected the training data to yield batches, came none"),
        (
            lambda kit: check(kit.network(), [(torch.full((4, 3, 4, 4), torch.nan), torch.zeros(4).long())]),
            "has NaN or inf",
        ),
        (lambda kit: check(kit.network(), optimizer=None, step=lambda: None, select=["BN008"]), "to run the network"),
        (lambda kit: check(kit.network(), [torch.zeros(4, 5)]), "given input 0 .4, 5., raised RuntimeError"),
        (
            lambda kit: check(kit.network(), [(torch.zeros(4, 3, 4, 4), torch.zeros(4, 2))] * 2),
            "the loss does not take",
        ),
        (lambda kit: check(kit.network(), kit.batches(*kit.data(64)), held_out=[kit.data(8)[0]]), "without targets"),
        (lambda _: rule("BN123"), "BN001 to BN020"),
    ],
)
def test_clear_words_for_bad_input(kit, call, words):
    with pytest.raises(InputError, match=words):
        call(kit)
