"""What pairs of edits teach, and the edit predicted for a photograph."""

from dataclasses import replace
from pathlib import Path

import numpy as np
import pytest
import torch
from PIL import Image

from kt_batch.errors import DamagedError
from kt_batch.kernels.clipping import newly_clipped
from kt_batch.kernels.descriptors import DESCRIPTORS, describe
from kt_batch.kernels.quadratic import IDENTITY, apply_map, basis, moments, reference_map
from kt_batch.methods.retouch.config import FitConfig
from kt_batch.methods.retouch.features import FAMILIES, TONES_AND_COLOUR_CAST, Scale, choose_landmarks
from kt_batch.methods.retouch.fit import Fit, PairTable, fit_pairs
from kt_batch.methods.retouch.predict import confidence, contributions, guarded, keeps_tones, predict

ROOT = Path(__file__).parents[3]
PAIRS = ROOT.parent / "shared" / "data" / "images" / "hdr"


def photograph(seed: int) -> np.ndarray:
    """Return a smooth picture `(24, 32, 3)` whose brightness and colours depend on the seed."""
    random = np.random.default_rng(seed)
    rows, columns = np.mgrid[0:24, 0:32] / 32
    waves = [np.sin(4 * random.random() * rows + 5 * random.random() * columns + 6 * random.random()) for _ in range(3)]
    exposure, contrast = random.uniform(0.15, 0.7), random.uniform(0.1, 0.3)
    noise = random.normal(size=(24, 32, 3)) * 0.03
    return np.clip(exposure + contrast * np.stack(waves, axis=-1) + noise, 0, 1).astype(np.float32)


def towards_middle_grey(pixels: np.ndarray) -> np.ndarray:
    """Edit a picture as a photographer would: dark ones get brighter, bright ones darker."""
    wanted = reference_map(pixels, IDENTITY * (0.45 / max(float(pixels.mean()), 0.1)) ** 0.5)
    return wanted.astype(np.float32)


def table_of(seeds: list[int]) -> PairTable:
    pictures = [photograph(seed) for seed in seeds]
    measured = [moments(picture, towards_middle_grey(picture)) for picture in pictures]
    return PairTable.sorted_by_id(
        [f"{seed * 2654435761 % 2**32:016x}" for seed in seeds],
        np.array([describe(picture) for picture in pictures]),
        np.array([each.gram for each in measured]),
        np.array([each.cross for each in measured]),
        np.array([each.power for each in measured]),
        np.array([newly_clipped(picture, towards_middle_grey(picture)) for picture in pictures]),
    )


def colours(picture: np.ndarray) -> np.ndarray:
    return picture.reshape(-1, 3)


def difference(picture: np.ndarray, left: np.ndarray, right: np.ndarray) -> float:
    """Return the mean difference of colour between two maps of a picture."""
    return float(np.abs(basis(colours(picture)) @ (left - right)).mean())


def read(path: Path) -> np.ndarray:
    return np.asarray(Image.open(path).convert("RGB"), np.float32) / 255


def psnr(result: np.ndarray, wanted: np.ndarray) -> float:
    return float(-10 * np.log10(np.square(result.astype(np.float64) - wanted).mean()))


# ---- the definition, written out -------------------------------------------------------------------------------------


KERNELS = ["additive", "additive", "rbf", "rbf", "linear", "linear"]
RIDGES = [0.003, 0.01, 0.003, 0.01, 0.01, 0.03]


def kernel_matrix(kind: str, rows: np.ndarray) -> np.ndarray:
    count, width = rows.shape
    result = np.empty((count, count))
    for i in range(count):
        for j in range(count):
            gaps = rows[i] - rows[j]
            result[i, j] = {
                "linear": rows[i] @ rows[j] / width,
                "rbf": np.exp(-0.5 * (gaps @ gaps) / width),
                "additive": np.mean(np.exp(-0.5 * gaps**2)),
            }[kind]
    return result


def by_the_definition(table: PairTable, descriptors: np.ndarray) -> np.ndarray:
    """Solve the twelve ridge regressions over pairs and the photograph together, with explicit Kronecker products."""
    maps = []
    few = [DESCRIPTORS.index(name) for name in TONES_AND_COLOUR_CAST]
    count = len(table.ids)
    for columns in (few, list(range(33))):
        pairs = table.descriptors[:, columns]
        everything = np.vstack([pairs, descriptors[columns]])
        rows = np.clip((everything - pairs.mean(0)) / (pairs.std(0) + 1e-9), -2.5, 2.5)
        for kind, ridge in zip(KERNELS, RIDGES, strict=True):
            kernel = kernel_matrix(kind, rows)
            train = kernel[:count, :count]
            centred = kernel[:, :count] - kernel[:, :count].mean(1)[:, None] - train.mean(0)[None] + train.mean()
            values, vectors = np.linalg.eigh(centred[:count])
            kept = values > 1e-5 * values.max()
            psi = centred @ vectors[:, kept] / np.sqrt(values[kept])
            seen = np.hstack([np.ones((count + 1, 1)), psi])
            change = np.eye(10)
            if kind == "additive":
                change = np.linalg.inv(np.linalg.cholesky(table.gram.mean(0) + 1e-6 * np.eye(10))).T
            left, right = np.zeros((10 * seen.shape[1],) * 2), np.zeros((10 * seen.shape[1], 3))
            for j in range(count):
                left = left + np.kron(np.outer(seen[j], seen[j]), change.T @ table.gram[j] @ change) / count
                right = right + np.kron(seen[j][:, None], change.T @ table.cross[j]) / count
            penalty = np.diag([1e-4] * 10 + [ridge] * 10 * (seen.shape[1] - 1))
            prior = np.zeros((len(penalty), 3))
            prior[:10] = np.linalg.solve(change, IDENTITY)
            solution = np.linalg.solve(left + penalty, right + penalty @ prior)
            maps.append(change @ np.kron(seen[count], np.eye(10)) @ solution)
    mean: np.ndarray = np.mean(maps, axis=0)
    return mean


def test_the_prediction_is_the_mean_of_twelve_ridge_regressions() -> None:
    table, new = table_of(list(range(9))), describe(photograph(100))
    fit = fit_pairs(table, FitConfig())
    assert IDENTITY + contributions(fit, new).sum(0) == pytest.approx(by_the_definition(table, new), abs=1e-9)
    assert sum(len(family.ridges) for family in FAMILIES) == 12


def test_the_common_map_is_the_ridge_regression_of_all_pixels_towards_the_identity() -> None:
    table = table_of([1, 2, 3, 4])
    gram, cross = table.gram.mean(0) + 1e-4 * np.eye(10), table.cross.mean(0) + 1e-4 * IDENTITY
    assert fit_pairs(table, FitConfig()).common_map == pytest.approx(np.linalg.solve(gram, cross), abs=1e-10)


# ---- what it learns --------------------------------------------------------------------------------------------------


def test_the_edit_fits_the_photograph_where_one_map_for_all_cannot() -> None:
    fit = fit_pairs(table_of(list(range(40))), FitConfig())
    gains = []
    for seed in range(100, 120):
        before = photograph(seed)
        wanted = towards_middle_grey(before)
        edit = predict(fit, describe(before), colours(before))
        own, common = (psnr(apply_map(before, each), wanted) for each in (edit.coefficients, fit.common_map))
        gains.append(own - common)
    assert np.mean(gains) > 4


def test_pairs_without_an_edit_teach_no_edit() -> None:
    table = table_of([1, 2, 3, 4, 5])
    table = replace(table, cross=table.gram @ IDENTITY)
    fit = fit_pairs(table, FitConfig())
    edit = predict(fit, describe(photograph(9)), colours(photograph(9)))
    assert edit.coefficients == pytest.approx(IDENTITY, abs=1e-12)
    assert edit.shares == pytest.approx(np.full(5, 0.2))


@pytest.mark.parametrize("seeds", [[1], [1, 2], [1, 2, 3]])
def test_one_two_or_three_pairs_are_enough_for_an_edit(seeds: list[int]) -> None:
    fit = fit_pairs(table_of(seeds), FitConfig())
    edit = predict(fit, describe(photograph(50)), colours(photograph(50)))
    assert np.isfinite(edit.coefficients).all()
    assert edit.shares.sum() == pytest.approx(1)
    assert 0 < edit.confidence <= 1


def test_a_single_pair_teaches_its_own_global_map_kept_cautious() -> None:
    fit = fit_pairs(table_of([1]), FitConfig())
    edit = predict(fit, describe(photograph(1)), colours(photograph(1)))
    assert edit.confidence == 1
    cautious = 0.9 * fit.common_map + 0.1 * IDENTITY
    assert difference(photograph(1), edit.coefficients, cautious) < 0.002


def test_identical_pairs_teach_what_one_of_them_teaches() -> None:
    one = table_of([3])
    many = PairTable.sorted_by_id(
        [f"{number:016x}" for number in range(6)],
        *(np.repeat(array, 6, axis=0) for array in (one.descriptors, one.gram, one.cross, one.power, one.clipped)),
    )
    fit = fit_pairs(many, FitConfig())
    edit = predict(fit, describe(photograph(8)), colours(photograph(8)))
    alone = predict(fit_pairs(one, FitConfig()), describe(photograph(8)), colours(photograph(8)))
    assert difference(photograph(3), edit.coefficients, alone.coefficients) < 0.002
    assert edit.shares == pytest.approx(np.full(6, 1 / 6), abs=1e-3)


def test_the_order_in_which_pairs_come_changes_no_byte() -> None:
    seeds = list(range(12))
    forward, backward = (fit_pairs(table_of(order), FitConfig()).to_arrays() for order in (seeds, seeds[::-1]))
    assert all(forward[name].tobytes() == backward[name].tobytes() for name in forward)


def test_the_number_of_threads_changes_no_byte() -> None:
    table, before = table_of(list(range(30))), torch.get_num_threads()
    arrays = []
    for threads in (1, 2):
        torch.set_num_threads(threads)
        arrays.append(fit_pairs(table, FitConfig()).to_arrays())
    torch.set_num_threads(before)
    assert all(arrays[0][name].tobytes() == arrays[1][name].tobytes() for name in arrays[0])


# ---- which pairs shaped it -------------------------------------------------------------------------------------------


def test_shares_add_up_to_one_and_the_contributions_to_the_edit() -> None:
    fit = fit_pairs(table_of(list(range(12))), FitConfig())
    picture = photograph(70)
    edit = predict(fit, describe(picture), colours(picture))
    assert len(edit.shares) == 12
    assert edit.shares.sum() == pytest.approx(1)


def test_a_pair_seen_again_has_the_largest_share() -> None:
    table = table_of(list(range(12)))
    fit = fit_pairs(table, FitConfig())
    picture = photograph(5)
    edit = predict(fit, describe(picture), colours(picture))
    assert fit.landmark_ids[int(edit.shares.argmax())] == f"{5 * 2654435761 % 2**32:016x}"


def test_without_a_pair_the_edit_loses_what_that_pair_contributed_to_the_right_hand_side() -> None:
    table, new = table_of(list(range(6))), describe(photograph(30))
    silent = replace(table, cross=table.cross.copy())
    silent.cross[2] = table.gram[2] @ IDENTITY  # the same photograph, left as it is
    whole, rest = (contributions(fit_pairs(each, FitConfig()), new) for each in (table, silent))
    assert whole.sum(0) - whole[2] == pytest.approx(rest.sum(0), abs=1e-10)


# ---- more pairs than landmarks ---------------------------------------------------------------------------------------


def test_with_few_landmarks_all_pairs_still_count() -> None:
    table = table_of(list(range(60)))
    exact, bounded = fit_pairs(table, FitConfig()), fit_pairs(table, FitConfig(landmarks=20))
    assert len(bounded.landmark_ids) == len(bounded.members[0].influence) == 20
    assert len(bounded.ids) == 60
    assert bounded.common_map == pytest.approx(exact.common_map, abs=1e-10)
    for seed in range(100, 106):
        picture = photograph(seed)
        near, far = (predict(fit, describe(picture), colours(picture)) for fit in (exact, bounded))
        assert far.shares.sum() == pytest.approx(1)
        assert difference(picture, near.coefficients, far.coefficients) < 0.03


def test_landmarks_are_spread_out_and_ties_go_to_the_first() -> None:
    line = np.zeros((6, 33))
    line[:, 0] = [0, 0, 4, -4, 4, 1]
    assert choose_landmarks(line, 3).tolist() == [0, 2, 3]
    assert choose_landmarks(line, 6).tolist() == list(range(6))


def test_alike_pairs_may_be_fewer_than_landmarks() -> None:
    assert choose_landmarks(np.zeros((5, 33)), 3).tolist() == [0]


# ---- the gate and the guard ------------------------------------------------------------------------------------------


def test_confidence_is_whole_at_a_pair_and_falls_with_distance() -> None:
    fit = fit_pairs(table_of(list(range(15))), FitConfig())
    scale = Scale.of(fit.descriptors)
    near = fit.descriptors[4]
    steps = [confidence(fit, near + away * scale.deviation) for away in (0, 1, 2, 3)]
    assert steps[0] == 1
    assert steps == sorted(steps, reverse=True)
    assert steps[-1] < 0.5


def test_confidence_is_whole_up_to_twice_the_spacing_of_the_pairs_and_a_ninth_at_three_times() -> None:
    fit = fit_pairs(table_of(list(range(15))), FitConfig())
    nearest = np.square(fit.scale.standardise(fit.descriptors, 4) - fit.scale.standardise(fit.descriptors[4], 4))
    assert nearest.mean(1).min() == 0
    away = fit.descriptors[4].copy()
    away[0] += fit.scale.deviation[0]
    distance = np.square(fit.scale.standardise(fit.descriptors, 4) - fit.scale.standardise(away, 4)).mean(1).min()
    for novelty, expected in ((1, 1), (2, 1), (3, 1 / 9), (10, 1 / 100), (6**0.5, 6 ** (-0.5))):
        assert confidence(replace(fit, spacing=distance / novelty), away) == pytest.approx(expected)


def test_a_second_edit_of_each_photograph_leaves_the_spacing_as_it_is() -> None:
    table = table_of(list(range(15)))
    again = PairTable.sorted_by_id(
        [*table.ids, *(f"{number:016x}" for number in range(15))],
        np.concatenate([table.descriptors, table.descriptors + 1e-4]),  # the same file at another size
        *(np.concatenate([column, column]) for column in (table.gram, table.cross, table.power, table.clipped)),
    )
    assert fit_pairs(again, FitConfig()).spacing == pytest.approx(fit_pairs(table, FitConfig()).spacing, rel=0.2)


def test_an_edit_of_a_photograph_unlike_all_pairs_is_drawn_to_no_edit() -> None:
    fit = fit_pairs(table_of(list(range(15))), FitConfig())
    negative = np.zeros((20, 20, 3), np.float32)
    negative[:2, :2, 2] = 1
    edit = predict(fit, describe(negative), colours(negative))
    assert edit.confidence < 0.2
    assert np.abs(apply_map(negative, edit.coefficients) - negative).mean() < 0.05


def test_an_edit_learnt_from_synthetic_pairs_is_applied_whole_to_any_photograph() -> None:
    table = table_of(list(range(15)))
    careful, whole = (fit_pairs(replace(table, synthetic=synthetic), FitConfig()) for synthetic in (False, True))
    for picture in (photograph(50), np.zeros((20, 20, 3), np.float32)):
        edit, drawn_back = (predict(fit, describe(picture), colours(picture)) for fit in (whole, careful))
        assert edit.confidence == 1
        assert np.allclose(
            drawn_back.coefficients - IDENTITY, 0.9 * drawn_back.confidence * (edit.coefficients - IDENTITY)
        )
    assert "synthetic" not in careful.to_arrays()
    assert [Fit.from_arrays(fit.to_arrays()).synthetic for fit in (careful, whole)] == [False, True]
    with pytest.raises(DamagedError, match="'synthetic' of a fit"):
        Fit.from_arrays(whole.to_arrays() | {"synthetic": np.ones(2)})


@pytest.mark.parametrize(
    ("name", "coefficients", "kept"),
    [
        ("identity", IDENTITY, True),
        ("half the contrast", IDENTITY * 0.5, True),
        ("flat", IDENTITY * 0.05 + np.eye(10)[:, :1] * 0.4, False),
        ("negative", -IDENTITY + np.eye(10)[:, :1], False),
    ],
)
def test_maps_that_flatten_or_invert_tones_are_found(name: str, coefficients: np.ndarray, kept: bool) -> None:
    assert keeps_tones(coefficients, colours(photograph(3)), clipping=1.0) is kept


def test_a_map_that_clips_more_than_the_pairs_do_is_drawn_back() -> None:
    brighter = IDENTITY + 0.9 * np.eye(10)[:, :1]
    picture = colours(photograph(3))
    clips = newly_clipped(picture, basis(picture) @ brighter)
    assert clips > 0.05
    assert keeps_tones(brighter, picture, clips)
    assert not keeps_tones(brighter, picture, clips - 0.01)


def test_the_guard_leads_from_the_predicted_map_over_the_common_one_to_no_edit() -> None:
    own, common = np.full((2, 10, 3), 3.0), np.full((2, 10, 3), 1.0)
    assert [guarded(own, common, guard)[0, 0, 0] for guard in (1, 0.75, 0.5, 0.25, 0)] == [3, 2, 1, 0.5, 0]


# ---- as arrays -------------------------------------------------------------------------------------------------------


@pytest.mark.parametrize("count", [1, 2, 7])
def test_a_fit_comes_back_from_its_arrays(count: int) -> None:
    fit = fit_pairs(table_of(list(range(count))), FitConfig(landmarks=5))
    again = Fit.from_arrays(fit.to_arrays())
    picture = photograph(44)
    first, second = (predict(each, describe(picture), colours(picture)) for each in (fit, again))
    assert again.ids == fit.ids
    assert first.coefficients.tobytes() == second.coefficients.tobytes()
    assert first.shares.tobytes() == second.shares.tobytes()


@pytest.mark.parametrize("name", sorted(fit_pairs(table_of([1, 2, 3]), FitConfig()).to_arrays()))
def test_an_array_that_is_missing_misshapen_or_not_finite_is_damage(name: str) -> None:
    arrays = fit_pairs(table_of([1, 2, 3]), FitConfig()).to_arrays()
    without = {key: array for key, array in arrays.items() if key != name}
    damaged = [without, without | {name: arrays[name][None]}, without | {name: arrays[name].astype(np.float32)}]
    if arrays[name].dtype == np.float64 and arrays[name].size:
        damaged.append(without | {name: np.full_like(arrays[name], np.nan)})
    for each in damaged:
        with pytest.raises(DamagedError, match="fit"):
            Fit.from_arrays(each)


@pytest.mark.parametrize(
    ("name", "value"),
    [("landmarks", [0, 0, 1]), ("landmarks", [0, 1, 3]), ("landmarks", [-1, 0, 1]), ("spacing", [0.0])],
)
def test_positions_and_distances_that_cannot_be_are_damage(name: str, value: list[float]) -> None:
    arrays = fit_pairs(table_of([1, 2, 3]), FitConfig()).to_arrays()
    with pytest.raises(DamagedError, match="of a fit"):
        Fit.from_arrays(arrays | {name: np.array(value, arrays[name].dtype)})


def test_a_fit_of_absurd_numbers_gives_no_edit_but_an_error() -> None:
    arrays = fit_pairs(table_of([1, 2, 3]), FitConfig()).to_arrays()
    for name in ("common", "member0.influence"):
        absurd = Fit.from_arrays(arrays | {name: np.full_like(arrays[name], 1e200)})
        with pytest.raises(DamagedError, match="colour map with a coefficient"):
            predict(absurd, describe(photograph(1)), colours(photograph(1)))


def test_a_deviation_of_zero_and_ids_out_of_order_are_damage() -> None:
    arrays = fit_pairs(table_of([1, 2, 3]), FitConfig()).to_arrays()
    for damage in ({"deviation": np.zeros(33)}, {"ids": arrays["ids"][::-1].copy()}):
        with pytest.raises(DamagedError, match="of a fit"):
            Fit.from_arrays(arrays | damage)


def test_a_table_of_pairs_is_sorted_and_of_one_length() -> None:
    table = table_of([1, 2, 3])
    assert list(table.ids) == sorted(table.ids)
    with pytest.raises(ValueError, match="ascending"):
        replace(table, ids=table.ids[::-1])
    with pytest.raises(ValueError, match="gram"):
        replace(table, gram=table.gram[:2])
    with pytest.raises(ValueError, match="at least one pair"):
        fit_pairs(table.take([]), FitConfig())


# ---- real pairs ------------------------------------------------------------------------------------------------------


@pytest.mark.slow
@pytest.mark.skipif(not PAIRS.is_dir(), reason=f"the research pairs are not at {PAIRS}")
def test_left_out_photographs_of_an_expert_come_two_decibels_nearer_than_with_one_map_for_all() -> None:
    names = sorted(path.name for path in (PAIRS / "input").glob("*.png"))
    pairs = [(read(PAIRS / "input" / name), read(PAIRS / "target" / name)) for name in names]
    measured = [moments(before, after) for before, after in pairs]
    descriptors = np.array([describe(before) for before, _ in pairs])
    grams, crosses, powers = (
        np.array([getattr(each, name) for each in measured]) for name in ("gram", "cross", "power")
    )
    clipped = np.array([newly_clipped(before, after) for before, after in pairs])
    table = PairTable(tuple(f"{row:016x}" for row in range(len(pairs))), descriptors, grams, crosses, powers, clipped)
    scores = []
    for row, (before, after) in enumerate(pairs):
        fit = fit_pairs(table.take(other for other in range(len(pairs)) if other != row), FitConfig())
        edit = predict(fit, descriptors[row], colours(before)[::17])
        results = (before, apply_map(before, fit.common_map), apply_map(before, edit.coefficients))
        scores.append([psnr(result, after) for result in results])
    none, common, own = np.array(scores).T
    assert none.mean() == pytest.approx(19.43, abs=0.01)
    assert own.mean() >= common.mean() + 2
    assert (own > common).sum() >= 16
    assert (own < none - 1).sum() <= 1
