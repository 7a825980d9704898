"""Sources read off names, HMDB51's own traps among them."""

import pytest
from hypothesis import given
from hypothesis import strategies as st

from engine.data.sources import OWN_SOURCE, find_source


@pytest.mark.parametrize(
    ("stem", "label", "source"),
    [
        ("April_09_brush_hair_u_nm_np1_ba_goo_0", "brush_hair", "April_09"),
        ("Film_(2)_[a]_&_b!_#3;_~x@y+_climb_stairs_f_cm_np2_ri_bad_12", "climb_stairs",
         "Film_(2)_[a]_&_b!_#3;_~x@y+"),
        ("wave_wave_wave_f_nm_np1_fr_med_0", "wave", "wave_wave"),
        ("kick_ball_kick_h_nm_np1_le_goo_3", "kick", "kick_ball"),
    ],
)  # fmt: skip
def test_hmdb51(stem: str, label: str, source: str) -> None:
    assert find_source(stem, label) == (source, "HMDB51")


def test_ucf101_and_kinetics() -> None:
    assert find_source("v_Archery_g08_c02", "Archery") == ("Archery_g08", "UCF101")
    assert find_source("0wR5jVB-WPk_000417_000427", "x") == ("0wR5jVB-WPk", "Kinetics")


@pytest.mark.parametrize(
    "stem", ["holiday", "a_b_c_d_e_f_g_h", "_wave_f_nm_np1_fr_med_0", "x_walk_f_nm_np1_fr_med_0"]
)
def test_other_names_are_their_own_source(stem: str) -> None:
    assert find_source(stem, "wave") == (f"wave/{stem}", OWN_SOURCE)


@given(
    st.text(st.sampled_from("ab_()&!#;[]+~@0"), min_size=1, max_size=20),
    st.sampled_from(["wave", "climb_stairs", "a", "b_a"]),
    st.integers(0, 200),
)
def test_the_source_comes_back_from_any_name(source: str, label: str, number: int) -> None:
    stem = f"{source}_{label}_f_cm_np1_ba_goo_{number}"
    assert find_source(stem, label) == (source, "HMDB51")
