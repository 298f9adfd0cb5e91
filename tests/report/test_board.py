import html

from normscope.bibliography import cite
from normscope.probes import catalog
from normscope.records import Measurement
from normscope.report import render_measurements
from normscope.report.glossary import PROBES
from normscope.report.measured import figure, sorted_out
from normscope.report.page import LIMIT


def test_each_probe_quantity_and_layer_has_its_place(measurements, hostile):
    text = render_measurements(measurements, f"Scope {hostile}")
    for part in ("moments", "drift of the mean", "conv1.norm", "noise", "saved by torch", "whole network", "3.20e−7"):
        assert part in text
    assert "not measured" in text
    assert "not run: no closure" in text
    assert "<script" not in text
    assert text.count('<svg class="spark"') == 8
    assert "1 of them gave no number" in text


def test_few_layers_are_drawn_over_steps_and_many_over_layers(measurements):
    found = sorted_out(measurements)
    drift, noise = found["moments"][0], found["noise"][0]
    assert [series.name for series in figure(drift).series][:1] == ["conv1.norm"]
    assert figure(drift).x_label == "Step"
    assert [series.name for series in figure(noise).series] == ["measured", "theory"]
    assert figure(found["smoothness"][0]) is None


def test_steps_are_put_in_order_and_the_last_is_the_last():
    items = [Measurement("p", "q", "l", step, float(step)) for step in (3, 1, 2)]
    layer = sorted_out(items)["p"][0].layers[0]
    assert layer.steps == (1, 2, 3)
    assert layer.last == 3.0


def test_a_deep_network_at_every_step_stays_under_two_megabytes():
    items = [
        Measurement("moments", quantity, f"layer{layer}.bn", step, layer + step / 7, "", 1.0, "saved by torch")
        for quantity in ("mean", "deviation", "drift", "range")
        for layer in range(100)
        for step in range(200)
    ]
    assert len(render_measurements(items, "Deep").encode()) < LIMIT


def test_no_measurement_at_all_is_still_a_page():
    assert "0 measurements" in render_measurements([], "Empty")


def test_each_probe_of_a_loop_says_what_its_numbers_mean():
    assert set(PROBES) == set(catalog.PROBES)
    for probe, (says, keys) in PROBES.items():
        page = render_measurements([Measurement(probe, "quantity", "bn1", 0, 1.0)], "One")
        assert html.escape(says, quote=True).replace("&#x27;", "&#39;") in page
        assert all(str(cite(key)).partition("(")[0].replace("&", "&amp;") in page for key in keys)
