"""The policy of the diffusion experiment: physics of the task, the demonstrator, peers, a whole small run."""

from __future__ import annotations

import json
import math
from dataclasses import replace
from pathlib import Path
from typing import Any

import numpy as np
import pytest

pytest.importorskip("torch")
pytest.importorskip("gym_pusht")
pytest.importorskip("diffusers")
pytest.importorskip("matplotlib")
import itertools

import pymunk
import shapely
import torch
from diffusers import DDIMScheduler
from PIL import Image

from experiments.diffusion import run
from experiments.diffusion.policy_demos import HORIZON, Demonstrations, demonstrate, make_demonstrations
from experiments.diffusion.policy_episodes import EXECUTED, play
from experiments.diffusion.policy_expert import NORMALS, POINTS, Pusher, pushed
from experiments.diffusion.policy_model import (
    Policy,
    PolicyConfig,
    alphas_cumprod,
    policy_chain,
    to_actions,
    to_sequence,
    told,
)
from experiments.diffusion.policy_peers import bare_loop
from experiments.diffusion.policy_report import interval_of
from experiments.diffusion.policy_routes import RING, find_ways
from experiments.diffusion.policy_subject import GivenObservation, PolicySubject
from experiments.diffusion.policy_task import (
    BOXES,
    CENTRE,
    GOAL,
    INERTIA,
    OUTLINE,
    RADIUS,
    PushT,
    distance,
    local,
    rotation,
    turned,
)
from experiments.diffusion.policy_train import POLICY
from experiments.diffusion.scales import SCALES
from experiments.diffusion.settings import Setting
from experiments.diffusion.two_sample import energy_test
from experiments.kit.results import Record, Results
from outpace.diffusion import Samples, Stats, sample
from tests.experiment_runs import check_report, state

SMOKE = SCALES["smoke"].policy


@pytest.fixture(scope="module")
def task() -> PushT:
    return PushT()


def block_of(task: PushT) -> Any:
    return task._env.unwrapped.block


def test_the_blocks_geometry_is_the_tasks(task: PushT) -> None:
    task.begin(0)
    block = block_of(task)
    assert (block.mass, block.moment, tuple(block.center_of_gravity)) == (1, INERTIA, tuple(CENTRE))
    corners = {tuple(corner) for shape in block.shapes for corner in shape.get_vertices()}
    assert corners == {(x, y) for low, high in BOXES for x in (low[0], high[0]) for y in (low[1], high[1])}
    assert {tuple(corner) for corner in OUTLINE} < corners
    assert np.array_equal(task._env.unwrapped.goal_pose, GOAL)
    agent = task._env.unwrapped.agent
    assert {shape.radius for shape in agent.shapes} == {RADIUS}
    body = shapely.union_all([shapely.box(*low, *high) for low, high in BOXES])
    points = np.random.default_rng(0).uniform(-150, 250, (500, 2))
    expected = [body.distance(shapely.Point(point)) for point in points]
    assert np.allclose(distance(points).clip(0), expected)
    assert ((distance(points) < 0) == shapely.contains_xy(body, *points.T)).all()


def test_an_episode_depends_on_its_seed_and_actions_alone(task: PushT) -> None:
    actions = np.random.default_rng(1).uniform(100, 400, (30, 2))
    seen = []
    for seed in (3, 4, 3):
        first = task.begin(seed)
        seen.append([first, *(task.act(action).observation for action in actions)])
    assert np.array_equal(seen[0], seen[2]) and not np.array_equal(seen[0][0], seen[1][0])
    observation = seen[0][5]
    corner = block_of(task).local_to_world(tuple(OUTLINE[4]))
    assert np.allclose(local(np.array(corner), seen[2][-1]), OUTLINE[4], atol=1e-6)
    back = observation[2:4] + rotation(observation[4]) @ local(observation[:2], observation)
    assert np.allclose(back, observation[:2])


def test_coverage_does_not_depend_on_the_order_of_the_blocks_boxes(
    task: PushT, monkeypatch: pytest.MonkeyPatch
) -> None:
    shapes = vars(pymunk.Body)["shapes"].fget
    assert shapes is not None
    found = []
    for across in (True, False):

        def ordered(body: pymunk.Body, across: bool = across) -> list[pymunk.Shape]:
            return sorted(shapes(body), key=lambda shape: shape.get_vertices()[0].x, reverse=across)

        monkeypatch.setattr(pymunk.Body, "shapes", property(ordered))
        covers = []
        for seed in range(40):
            task.begin(seed)
            block_of(task).position, block_of(task).angle = (250.0 + seed, 240.0), 0.1 * seed
            covers.append(task.act(np.array([20.0, 20.0])).coverage)
        found.append(covers)
    assert found[0] == found[1] and np.mean(found[0]) > 0.1


@pytest.mark.parametrize("contact", range(0, len(POINTS), 5))
def test_pushes_do_what_the_demonstrator_thinks(task: PushT, contact: int) -> None:
    """Against the physics: push along the normal for some steps, and compare the arc of the same length."""
    task.begin(0)
    angle, space = 3.0, task._env.unwrapped
    block_of(task).angle, block_of(task).position = angle, (230.0, 200.0)
    start = np.array([230.0, 200.0]) + rotation(angle) @ (POINTS[contact] - NORMALS[contact] * (RADIUS + 1))
    space.agent.position, space.agent.velocity = tuple(start), (0, 0)
    space.space.step(0.01)
    first = now = space.get_obs()
    depth = -1.0
    for _ in range(10):
        missing = POINTS[contact] - NORMALS[contact] * RADIUS - local(now[:2], now)
        sideways = missing - (missing @ NORMALS[contact]) * NORMALS[contact]
        aim = local(now[:2], now) + 2 * sideways + 12 * NORMALS[contact]
        before = now
        now = task.act(now[2:4] + rotation(now[4]) @ aim).observation
        depth += float((now - before)[:2] @ rotation((now[4] + before[4]) / 2) @ NORMALS[contact])
    centres = [one[2:4] + rotation(one[4]) @ CENTRE for one in (first, now)]
    shift, turn = (centres[1] - centres[0]) @ rotation(first[4]), float(turned(now[4] - first[4]))
    shifts, turns = pushed(np.array(depth))
    assert np.hypot(*shift) > 15 and np.hypot(*(shifts[contact] - shift)) < 0.1 * np.hypot(*shift)
    assert turns[contact] == pytest.approx(turn, abs=0.03 + 0.1 * abs(turn))


def test_ways_lead_around_the_block_on_either_side() -> None:
    observation = np.array([0.0, 0.0, 256.0, 200.0, 0.0])
    start, goals = np.array([0.0, -60.0]), np.array([[0.0, 150.0], [0.0, -100.0]])
    ways = find_ways(start, goals, observation)
    assert ways.lengths[1] == pytest.approx(40) and ways.lengths[0] > 210
    sides = set()
    for seed in range(30):
        points = [start, *ways.route(0, np.random.default_rng(seed))]
        length = sum(np.hypot(*(b - a)) for a, b in itertools.pairwise(points))
        sides.add(np.sign(points[2][0]))
        assert length >= ways.lengths[0] - 1e-9
        for a, b in itertools.pairwise(points):
            line = a + np.linspace(0, 1, 100)[:, None] * (b - a)
            assert distance(line).min() > RADIUS
    assert sides == {-1.0, 1.0}
    # A wall on the left leaves one side, walls on both none: corners of the ring lie beyond them.
    beside = np.array([0.0, 0.0, -RING[0, 0] - 10, 200.0, 0.0])
    alone = find_ways(start, goals, beside)
    assert {np.sign(alone.route(0, np.random.default_rng(seed))[1][0]) for seed in range(30)} == {1.0}
    inside = find_ways(np.array([20.0, 40.0]), goals, observation)  # in a corner of the block
    assert np.isfinite(inside.lengths).all()


def test_the_demonstrator_succeeds_in_several_ways(task: PushT) -> None:
    shown = [demonstrate(task, seed) for seed in range(10, 18)]
    assert sum(success for *_, success in shown) >= 6
    for observations, actions, _ in shown:
        assert len(observations) == len(actions) <= 300
        assert actions.min() >= 0 and actions.max() <= 512
    again = demonstrate(task, 10)
    assert np.array_equal(again[0], shown[0][0]) and np.array_equal(again[1], shown[0][1])
    # The same observation, other random numbers: the agent sets out in clearly different directions.
    first = task.begin(15)
    aims = np.array([Pusher(np.random.default_rng(seed)).act(first) for seed in range(40)])
    headings = (aims - first[:2]) @ np.array([1, 1j])
    assert np.abs(np.angle(headings / headings[0])).max() > 0.5


def test_windows_stay_in_their_episode() -> None:
    random = np.random.default_rng(0)
    lengths = np.array([5, 40, 1])
    observations, actions = random.normal(size=(46, 5)), random.normal(size=(46, 2))
    pairs, sequences = Demonstrations(observations, actions, lengths, 3).windows()
    assert pairs.shape == (46, 2, 5) and sequences.shape == (46, HORIZON, 2)
    row = 0
    for begin, length in zip([0, 5, 45], lengths, strict=True):
        for moment in range(length):
            mine = observations[begin : begin + length]
            assert np.array_equal(pairs[row], [mine[max(moment - 1, 0)], mine[moment]])
            following = [min(moment + ahead, length - 1) for ahead in range(HORIZON)]
            assert np.array_equal(sequences[row], actions[begin : begin + length][following])
            row += 1


def test_demonstrations_are_the_same_from_parts_and_from_disk(
    tmp_path: Path, task: PushT, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr("experiments.diffusion.policy_demos.PART", 2)
    made = make_demonstrations(tmp_path, 3)
    assert made.tried == 3 and len(list(tmp_path.iterdir())) == 2
    kept = [shown for seed in range(3) if (shown := demonstrate(task, seed))[2]]
    assert made.lengths.tolist() == [len(one) for one, *_ in kept] and len(kept) >= 2
    assert np.array_equal(made.observations, np.concatenate([one for one, *_ in kept]))
    (tmp_path / "000002-000003.npz").unlink()
    assert make_demonstrations(tmp_path, 3).data_hash == made.data_hash
    side_by_side = make_demonstrations(tmp_path / "again", 3, processes=2)
    assert side_by_side.data_hash == made.data_hash


def test_what_the_network_sees_turns_and_moves_with_the_block() -> None:
    random = np.random.default_rng(0)
    pairs = random.uniform(100, 400, (6, 2, 5))
    pairs[:, :, 4] = random.uniform(0, 2 * math.pi, (6, 2))
    actions = pairs[:, 1, None, :2] + random.normal(0, 30, (6, HORIZON, 2))
    sequence = to_sequence(pairs, actions)
    assert np.allclose(to_actions(pairs, sequence), actions, atol=1e-3)
    angle, shift = 1.1, np.array([7.0, -3.0])
    moved, turn = pairs.copy(), rotation(angle)
    moved[..., :2], moved[..., 2:4] = pairs[..., :2] @ turn.T + shift, pairs[..., 2:4] @ turn.T + shift
    moved[..., 4] += angle
    assert np.allclose(to_sequence(moved, actions @ turn.T + shift), sequence, atol=1e-3)
    agent, motion = slice(0, 2), slice(-5, None)
    assert np.allclose(told(moved)[:, agent], told(pairs)[:, agent], atol=1e-3)
    assert np.allclose(told(moved)[:, motion], told(pairs)[:, motion], atol=1e-3)
    assert not np.allclose(told(moved), told(pairs), atol=1e-3)
    whole = pairs.copy()
    whole[..., 4] += 2 * math.pi
    assert np.allclose(told(whole), told(pairs), atol=1e-4)


@pytest.fixture(scope="module")
def policy() -> Policy:
    """Not trained, so that every level of noise matters to what it says."""
    torch.manual_seed(0)
    return Policy(PolicyConfig(width=32, num_blocks=1)).eval().requires_grad_(False)


def test_ddim_is_diffusers(policy: Policy) -> None:
    scheduler = DDIMScheduler(
        num_train_timesteps=100, beta_schedule="squaredcos_cap_v2", prediction_type="sample",
        clip_sample=True, set_alpha_to_one=True,
    )  # fmt: skip
    assert np.allclose(alphas_cumprod(), scheduler.alphas_cumprod, rtol=1e-4)
    scheduler.set_timesteps(100)
    told_of = torch.randn(3, policy.told_mean.shape[0], generator=torch.Generator().manual_seed(1))
    states = torch.randn(3, HORIZON, 2, generator=torch.Generator().manual_seed(5))
    for step in scheduler.timesteps:
        said = policy(states, torch.full((3,), float(step)), told_of)
        states = scheduler.step(said, step, states, use_clipped_model_output=True).prev_sample
    drawn = bare_loop(policy, told_of, 100, seed=5)
    assert torch.allclose(drawn.samples, states, atol=1e-3)
    assert drawn.stats.sequential_calls.tolist() == [100] * 3
    few = bare_loop(policy, told_of, 7, seed=5).samples
    assert not torch.allclose(few, states, atol=1e-2)


def test_the_bare_loop_has_plain_samplings_law_and_ddim_another(policy: Policy) -> None:
    told_of = torch.zeros(400, policy.told_mean.shape[0])
    plain = sample(policy, policy_chain(12), (HORIZON, 2), 400, conditions=told_of, seed=0).samples
    loop_of, ddim = (bare_loop(policy, told_of, 12, eta=eta, seed=3).samples for eta in (1.0, 0.0))
    assert energy_test(loop_of, plain, most=500)[1] > 0.01
    assert energy_test(ddim, plain, most=500)[1] < 0.01


def test_the_judge_compares_given_the_observation() -> None:
    """Samples whose mixture over observations is right, each for the wrong observation."""
    random = torch.Generator().manual_seed(0)
    places = torch.arange(4.0)[:, None, None].expand(4, HORIZON, 2).repeat(10, 1, 1)

    def drawn(number: int) -> torch.Tensor:
        noise = torch.randn(number, *places.shape, generator=random)
        return (places + 0.3 * noise).flatten(0, 1)

    judge = GivenObservation(4, 999)
    plain, same = drawn(2), drawn(1)
    assert judge.of(same, plain)["p"] > 0.01
    wrong = same.unflatten(0, (10, 4)).flip(1).flatten(0, 1)
    assert judge.of(wrong, plain)["p"] == pytest.approx(1 / 1000)
    assert energy_test(wrong, plain, most=199)[1] > 0.01


def test_samples_are_for_their_observations(policy: Policy) -> None:
    pairs = np.random.default_rng(0).uniform(100, 400, (3, 2, 5))
    subject = PolicySubject(policy, pairs)
    expected = torch.from_numpy(told(pairs))
    assert torch.equal(subject.conditions(6, 17), expected.repeat(2, 1))
    assert torch.equal(subject.conditions(1, 17), expected[2:])
    assert torch.equal(subject.conditions(1, 18), expected[:1])


def test_episodes_carry_out_eight_actions_of_each_decision(policy: Policy) -> None:
    asked: list[int] = []

    def stay(conditions: torch.Tensor, number: int) -> Samples:
        asked.append(len(conditions))
        stats = Stats.zero(5, len(conditions), 1)
        stats.sequential_calls += 3
        return Samples(torch.zeros(len(conditions), HORIZON, 2), stats)

    episodes = play(policy, [8, 10], stay)  # in which the agent begins far from the block
    decisions = math.ceil(300 / EXECUTED)
    assert asked == [2] * decisions
    task = PushT()
    for episode in episodes:
        assert (episode.length, episode.decisions, episode.calls) == (300, decisions, 3 * decisions)
        # Nothing is pushed, so that the reward is that of any moment.
        coverage = task.act(task.begin(episode.seed)[:2]).coverage
        assert episode.reward == pytest.approx(coverage / 0.95) and not episode.success


def test_episodes_of_the_demonstrators_own_actions_succeed(policy: Policy, task: PushT) -> None:
    """Side by side with one that stays: what is decided for one episode is done in that one."""
    seed = 11
    observations, actions, success = demonstrate(task, seed)
    assert success
    whole = Demonstrations(observations, actions, np.array([len(actions)]), 1).windows()

    def decide(conditions: torch.Tensor, number: int) -> Samples:
        sequences = torch.zeros(len(conditions), HORIZON, 2)
        if number * EXECUTED < len(actions):
            moment = slice(number * EXECUTED, number * EXECUTED + 1)
            assert np.allclose(conditions[-1], told(whole[0][moment])[0], atol=1e-5)
            sequences[-1] = torch.from_numpy(to_sequence(whole[0][moment], whole[1][moment])[0])
        return Samples(sequences, Stats.zero(1, len(conditions), 1))

    stays, plays = play(policy, [seed + 1, seed], decide)
    assert plays.success and plays.reward == 1 and plays.length == len(actions)
    assert plays.decisions == math.ceil(len(actions) / EXECUTED)
    assert not stays.success and stays.length == 300


def test_intervals_are_those_of_a_normal_mean() -> None:
    random = np.random.default_rng(0)
    one, two = random.normal(1, 1, 400), random.normal(0, 2, 400)
    value, low, high = interval_of(list(one), list(two))
    difference = one - two
    half = 1.96 * difference.std() / 20
    assert value == pytest.approx(difference.mean())
    assert (low, high) == pytest.approx((value - half, value + half), abs=0.1 * half)
    assert interval_of([1.0, 0.5], [1.0, 0.5]) == (0, 0, 0)


@pytest.fixture(scope="module")
def made(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """A work folder after a run of this part."""
    work = tmp_path_factory.mktemp("policy")
    run_smoke(work)
    return work


def run_smoke(work: Path) -> None:
    run.main(["--scale", "smoke", "--part", "policy", "--threads", "1", "--work", str(work)])


def of(work: Path, kind: str, **values: Any) -> list[Record]:
    return Results(work / "smoke" / "results.jsonl").of(kind, subject=POLICY, **values)


def test_a_short_run_comes_to_a_report(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    """Every step once, with hardly any training; what comes out of more is what the slow tests look at."""
    few: dict[str, Any] = {"demonstrations": 2, "observations": 2, "repeats": 4, "episodes": 1, "steps": 4}
    short = replace(SCALES["smoke"], policy=replace(SMOKE, **few))
    monkeypatch.setitem(SCALES, "smoke", short)
    run_smoke(tmp_path)
    for setting in SMOKE.sweep.settings():
        assert len(of(tmp_path, "setting", **setting.record)) == 1
        (played,) = of(tmp_path, "episodes", **setting.record)
        assert len(played["reward"]) == 1
    check_report(tmp_path / "smoke", "policy.png")


@pytest.mark.slow
def test_every_setting_is_measured_and_plays(made: Path) -> None:
    settings = SMOKE.sweep.settings()
    chains = {one.chain for one in settings}
    assert len(of(made, "setting")) == len(settings) and len(of(made, "plain")) == len(chains)
    for setting in settings:
        (record,) = of(made, "setting", **setting.record)
        assert record["num"] == SMOKE.observations * SMOKE.repeats
        assert record["plain_calls"] == record["num"] * setting.chain.steps
        (played,) = of(made, "episodes", **setting.record)
        assert len(played["reward"]) == len(played["success"]) == SMOKE.episodes
        assert all(0 <= reward <= 1 for reward in played["reward"])
        assert sum(played["calls"]) < setting.chain.steps * sum(played["decisions"])
        assert sum(played["evaluations"]) >= sum(played["calls"])
    assert len(of(made, "episodes")) == len(settings) + len(chains) + 1 + len(SMOKE.ddim)
    first, again = of(made, "episodes", draft=None, **SMOKE.sweep.base.record)
    assert (first["again"], again["again"]) == (False, True) and first["reward"] != again["reward"]
    for record in of(made, "episodes", draft=None):
        assert record["calls"] == record["evaluations"] == [record["steps"] * n for n in record["decisions"]]
    run_of = json.loads((made / "smoke" / POLICY / "run.json").read_text())
    assert run_of["losses"][-1][1] < 0.7 * run_of["losses"][0][1]


@pytest.mark.slow
def test_the_report_shows_what_was_measured(made: Path) -> None:
    report = (made / "smoke" / "REPORT.md").read_text()
    assert "$" not in report and str(made) not in report and "`--part policy`" not in report
    base = SMOKE.sweep.base
    (stale,) = of(made, "episodes", **Setting(base, "stale", SMOKE.sweep.window).record)
    plain, _ = of(made, "episodes", draft=None, **base.record)
    line = next(
        line for line in report.splitlines() if line.startswith(f"| {base.steps} | 1 | `stale` | 4 |")
    )
    per_decision = [sum(one["calls"]) / sum(one["decisions"]) for one in (stale, plain)]
    assert line.endswith(f" | {per_decision[1] / per_decision[0]:.2f} |")
    assert (
        f" | {np.mean(stale['reward']):.3f} | {np.mean(stale['reward']) - np.mean(plain['reward']):+.3f} ("
        in line
    )
    for name in ("bare loop", "ddim, 2 steps"):
        wall = 1e3 * np.median([one["wall_s"] for one in of(made, "time", draft=name)])
        assert f"| {name} | - | {wall:.2f} | " in report
    walls = {
        one: [record["wall_s"] for record in of(made, "time", **one.record)] for one in SMOKE.sweep.settings()
    }
    best = min(np.median(some) for some in walls.values() if some)
    bare = np.median([one["wall_s"] for one in of(made, "time", draft="bare loop")])
    assert f"with {bare / best:.2f} times the bare loop's speed" in report
    with Image.open(made / "smoke" / "policy.png") as image:
        assert min(image.size) > 200


@pytest.mark.slow
def test_a_second_run_does_nothing_and_a_killed_one_goes_on(
    made: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    before = state(made)
    run_smoke(made)
    assert state(made) == before
    assert capsys.readouterr().out == ""
    smoke = made / "smoke"
    record = json.loads((smoke / POLICY / "run.json").read_text())
    del record["finished"]
    (smoke / POLICY / "run.json").write_text(json.dumps(record))
    weights = (smoke / POLICY / "model.safetensors").read_bytes()
    (smoke / POLICY / "model.safetensors").unlink()
    lines = (smoke / "results.jsonl").read_bytes().splitlines(keepends=True)
    kept = next(number for number, line in enumerate(lines) if b'"kind": "episodes"' in line) + 3
    (smoke / "results.jsonl").write_bytes(b"".join(lines[:kept]) + lines[kept][:30])
    run_smoke(made)
    assert (smoke / POLICY / "model.safetensors").read_bytes() == weights
    again = Results(smoke / "results.jsonl").records
    assert [json.loads(line) for line in lines[:kept]] == again[:kept]

    def untimed(records: list[Record]) -> list[Record]:
        timed = ("wall_s", "plain_wall_s")
        named = [one for one in records if one["kind"] != "run" and one.get("window") != "priced"]
        return [{key: value for key, value in one.items() if key not in timed} for one in named]

    # Who measured is written again; what a price decides may differ from run to run.
    assert untimed(again) == untimed([json.loads(line) for line in lines])
