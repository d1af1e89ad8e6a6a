"""Unmodified pipelines and models of diffusers: their own loops with the same noise, fewer calls, errors."""

from __future__ import annotations

import subprocess
import sys
from pathlib import Path
from types import SimpleNamespace
from typing import Any

import numpy as np
import pytest

pytest.importorskip("torch")
diffusers = pytest.importorskip("diffusers")

import torch  # noqa: E402

from outpace import diffusion  # noqa: E402
from outpace.core.errors import OutpaceError  # noqa: E402
from outpace.diffusion.images import converted, grid  # noqa: E402
from outpace.diffusion.noise import PRIOR, Noise  # noqa: E402
from outpace.diffusion.sources import open_source  # noqa: E402
from tests.diffusion_pipelines import save_pipeline, tiny_unet  # noqa: E402

STEPS, NUM, SEED = 30, 3, 7
SHAPE = (3, 8, 8)


@pytest.fixture(autouse=True)
def one_thread() -> None:
    torch.set_num_threads(1)


@pytest.fixture(scope="module")
def folder(tmp_path_factory: pytest.TempPathFactory) -> Path:
    return save_pipeline(tmp_path_factory.mktemp("pipeline"))


@pytest.fixture
def pipeline(folder: Path) -> Any:
    """Loaded from disk as anybody would."""
    loaded = diffusers.DDPMPipeline.from_pretrained(folder, low_cpu_mem_usage=False)
    loaded.set_progress_bar_config(disable=True)
    return loaded


@pytest.fixture
def our_noise(monkeypatch: pytest.MonkeyPatch) -> None:
    """diffusers draw what `sample` draws for SEED: first states, then step after step."""
    drawn = [PRIOR]

    def randn_tensor(shape: Any, **options: Any) -> torch.Tensor:
        samples = torch.arange(shape[0])
        noise = Noise(SEED).normal(
            samples, torch.full_like(samples, drawn[-1]), shape[1:], dtype=torch.float32
        )
        drawn.append(drawn[-1] + 1)
        return noise

    for module in (
        diffusers.pipelines.ddpm.pipeline_ddpm,
        diffusers.schedulers.scheduling_ddpm,
        diffusers.schedulers.scheduling_euler_ancestral_discrete,
        diffusers.schedulers.scheduling_dpmsolver_multistep,
    ):
        monkeypatch.setattr(module, "randn_tensor", randn_tensor)


def their_loop(model: Any, scheduler: Any, *labels: torch.Tensor) -> torch.Tensor:
    """As the documentation of diffusers samples a model. Noise comes from `our_noise`."""
    scheduler.set_timesteps(STEPS)
    start = diffusers.pipelines.ddpm.pipeline_ddpm.randn_tensor((NUM, *SHAPE))
    state = start * scheduler.init_noise_sigma
    with torch.no_grad():
        for time in scheduler.timesteps:
            output = model(scheduler.scale_model_input(state, time), time, *labels)
            state = scheduler.step(getattr(output, "sample", output), time, state).prev_sample
    return state


def test_plain_sampling_is_the_pipelines_own(pipeline: Any, our_noise: None) -> None:
    fast = diffusion.accelerate(pipeline, draft=None)
    ours = fast(NUM, num_inference_steps=STEPS, seed=SEED, output_type="np")
    theirs = pipeline(NUM, num_inference_steps=STEPS, output_type="np")
    assert ours.images.shape == (NUM, 8, 8, 3)
    np.testing.assert_allclose(ours.images, theirs.images, atol=1e-4)
    assert ours.images.std() > 0.1
    assert ours.stats.sequential_calls.tolist() == [STEPS] * NUM


def test_one_step_windows_are_plain_sampling_too(pipeline: Any, our_noise: None) -> None:
    fast = diffusion.accelerate(pipeline, draft="frozen", window=1)
    ours = fast(NUM, num_inference_steps=STEPS, seed=SEED, output_type="pt").images
    theirs = pipeline(NUM, num_inference_steps=STEPS, output_type="pt").images
    torch.testing.assert_close(ours, theirs, rtol=0, atol=1e-4)
    wrong = fast(NUM, num_inference_steps=STEPS, seed=SEED + 1, output_type="pt").images
    assert (wrong - theirs).abs().max() > 0.1


@pytest.mark.parametrize("draft", ["stale", "frozen", "carried", "picard:sweeps=1"])
def test_drafts_save_calls(pipeline: Any, draft: str) -> None:
    before = {name: value.clone() for name, value in pipeline.unet.state_dict().items()}
    fast = diffusion.accelerate(pipeline, draft=draft, window=6)
    output = fast(batch_size=NUM, num_inference_steps=STEPS, seed=SEED, output_type="pt", num_at_once=2)
    assert output.images.shape == (NUM, *SHAPE)
    assert 0 <= output.images.min() and output.images.max() <= 1
    assert output.stats.sequential_calls.max() < STEPS and output.stats.speedup_calls > 1.2
    again = fast(NUM, num_inference_steps=STEPS, seed=SEED, output_type="pt")
    torch.testing.assert_close(again.images, output.images, rtol=0, atol=1e-3)
    assert pipeline.scheduler.num_inference_steps is None
    assert all(torch.equal(value, before[name]) for name, value in pipeline.unet.state_dict().items())


@pytest.mark.parametrize(
    "scheduler",
    [
        lambda: diffusers.DDPMScheduler(prediction_type="v_prediction"),
        lambda: diffusers.EulerAncestralDiscreteScheduler(),
        lambda: diffusers.DPMSolverMultistepScheduler(algorithm_type="sde-dpmsolver++", solver_order=1),
    ],
    ids=["ddpm", "euler", "dpm"],
)
def test_bare_models_with_a_scheduler(scheduler: Any, our_noise: None) -> None:
    unet = tiny_unet()
    fast = diffusion.accelerate(unet, scheduler(), draft=None)
    ours = fast(NUM, num_inference_steps=STEPS, seed=SEED, output_type="latent").images
    theirs = their_loop(unet, scheduler())
    torch.testing.assert_close(ours, theirs, rtol=1e-3, atol=1e-3 * float(theirs.abs().max()))


def test_class_labels_are_conditions(our_noise: None) -> None:
    unet = tiny_unet(num_class_embeds=4)
    labels = torch.tensor([3, 0, 2])
    fast = diffusion.accelerate(unet, diffusers.DDPMScheduler(), draft=None)
    options: dict[str, Any] = {"num_inference_steps": STEPS, "seed": SEED, "output_type": "latent"}
    ours = fast(NUM, conditions=labels, **options).images
    theirs = their_loop(unet, diffusers.DDPMScheduler(), labels)
    torch.testing.assert_close(ours, theirs, rtol=0, atol=2e-3)
    other = fast(NUM, conditions=labels.flip(0), **options).images
    assert (other - theirs)[0].abs().max() > 2e-2
    with pytest.raises(OutpaceError, match="told classes; accepted is conditions=labels"):
        fast(NUM, **options)
    with pytest.raises(OutpaceError, match="2 conditions for 3 samples"):
        fast(NUM, conditions=labels[:2], **options)
    without = diffusion.accelerate(tiny_unet(), diffusers.DDPMScheduler(), draft=None)
    with pytest.raises(OutpaceError, match="told no classes, accepted is conditions=None"):
        without(NUM, conditions=labels, **options)


def test_a_folder_of_a_model_of_classes_is_refused(tmp_path: Path) -> None:
    """The command line has no classes to tell it."""
    unet = tiny_unet(num_class_embeds=4)
    diffusers.DDPMPipeline(unet, diffusers.DDPMScheduler()).save_pretrained(tmp_path)
    with pytest.raises(OutpaceError, match="the model is told classes"):
        open_source(str(tmp_path), 5)


def test_functions_that_return_tensors() -> None:
    told: list[tuple[torch.dtype, torch.dtype]] = []

    def model(x: torch.Tensor, t: torch.Tensor) -> torch.Tensor:
        told.append((x.dtype, t.dtype))
        return 0.5 * x

    fast = diffusion.accelerate(model, diffusers.DDPMScheduler(), shape=(5,), window="adaptive:most=4")
    output = fast(2, num_inference_steps=10, output_type="latent")
    assert output.images.shape == (2, 5) and set(told) == {(torch.float32, torch.int64)}
    told.clear()
    fast = diffusion.accelerate(model, diffusers.EulerAncestralDiscreteScheduler(), shape=(5,))
    fast(2, num_inference_steps=10, output_type="latent")
    assert set(told) == {(torch.float32, torch.float32)}
    with pytest.raises(OutpaceError, match=r"shape \(5,\) are no images; accepted is output_type='latent'"):
        fast(2, num_inference_steps=10)


def test_models_in_half_precision_are_told_exact_times() -> None:
    class Half(torch.nn.Module):
        def __init__(self) -> None:
            super().__init__()
            self.weight = torch.nn.Parameter(torch.tensor([0.5], dtype=torch.bfloat16))
            self.times: set[int] = set()

        def forward(self, x: torch.Tensor, t: torch.Tensor) -> torch.Tensor:
            assert x.dtype == torch.bfloat16
            self.times |= set(t.tolist())
            return self.weight * x

    model = Half().eval()
    fast = diffusion.accelerate(model, diffusers.DDPMScheduler(), shape=SHAPE, draft="stale")
    images = fast(2, num_inference_steps=1000, output_type="latent").images
    assert images.dtype == torch.float32 and model.times == set(range(1000))


def test_diffusers_are_needed_for_pipelines_alone(folder: Path) -> None:
    code = f"""
import sys
sys.modules["diffusers"] = sys.modules["PIL"] = None
from outpace import diffusion
from outpace.diffusion.folders import load_pipeline
levels = diffusion.variance_preserving(4)
diffusion.sample(diffusion.GaussianMixture.random(2, 2).denoiser(levels), diffusion.chain(levels), (2,))
try:
    load_pipeline({str(folder)!r})
except diffusion.pipelines.OutpaceError as error:
    print(error)
"""
    done = subprocess.run([sys.executable, "-c", code], capture_output=True, text=True, check=True)
    assert done.stdout.startswith("pipelines need the extra diffusion (pip install 'outpace[diffusion]'): ")


def test_output_types(pipeline: Any) -> None:
    fast = diffusion.accelerate(pipeline)
    options: dict[str, Any] = {"num_inference_steps": 5, "seed": 1}
    arrays = fast(2, output_type="np", **options).images
    theirs = pipeline.numpy_to_pil(arrays)
    for mine, other in zip(fast(2, **options).images, theirs, strict=True):
        assert mine.mode == other.mode == "RGB" and mine.tobytes() == other.tobytes()
    latents = fast(2, output_type="latent", **options).images
    assert latents.min() < -0.5  # not moved to 0 ... 1
    with pytest.raises(OutpaceError, match="output_type is 'jpg', accepted are pil, np, pt, latent"):
        fast(2, output_type="jpg", **options)


def test_a_grid_shows_every_image() -> None:
    samples = torch.linspace(-1, 1, 5)[:, None, None, None].expand(5, 1, 2, 3)
    image = grid(samples)
    assert image.mode == "L" and image.size == (3 * 3 + 2, 2 * 2 + 1)
    pixels = np.array(image)
    assert [int(pixels[0, 0]), int(pixels[1, 6]), int(pixels[3, 0])] == [0, 64, 191]
    assert (pixels[2] == 255).all() and (pixels[:, 3] == 255).all() and (pixels[3:, 8:] == 255).all()
    [gray] = converted(samples[:1], "pil")
    assert gray.mode == "L" and gray.size == (3, 2)
    with pytest.raises(OutpaceError, match="images of 2 channels; accepted are 1 or 3"):
        grid(torch.zeros(1, 2, 4, 4))


# --- refused ------------------------------------------------------------------------------------------------


def test_pipelines_that_cannot_be_accelerated(pipeline: Any) -> None:
    ddim = diffusers.DDIMPipeline(unet=pipeline.unet, scheduler=pipeline.scheduler)
    with pytest.raises(
        OutpaceError, match=r"^DDIMScheduler adds no noise.*accepted instead is DDPMScheduler\."
    ):
        diffusion.accelerate(ddim)
    assert (
        diffusion.accelerate(ddim, diffusers.DDPMScheduler.from_config(ddim.scheduler.config)).shape == SHAPE
    )
    latent = SimpleNamespace(components={"vae": 1, "unet": pipeline.unet, "scheduler": 2, "safety": None})
    with pytest.raises(
        OutpaceError, match="made of vae, unet, scheduler; accepted are pipelines of unet and sch"
    ):
        diffusion.accelerate(latent)


def test_models_that_cannot_be_accelerated() -> None:
    unet, scheduler = tiny_unet(), diffusers.DDPMScheduler()
    for model, options, message in [
        ("name", {}, "str cannot be called; accepted are pipelines and models"),
        (unet, {"scheduler": None}, "a model alone has no steps"),
        (lambda x, t: x, {}, r"no config with in_channels and sample_size; accepted is shape=\(...\)"),
        (tiny_unet(out_channels=6), {}, "gives 6 channels for 3: it predicts its variance too"),
        (tiny_unet().train(), {}, r"training mode, accepted is model\.eval\(\)"),
        (
            unet,
            {"draft": "frosen"},
            "unknown draft 'frosen', accepted are carried, frozen, none, picard, stale",
        ),
        (unet, {"draft": "stale:held=all"}, "held is 'all', accepted are prediction, output, increment"),
        (unet, {"draft": "picard:draft=none"}, "accepted are others than none"),
        (unet, {"window": "wide"}, "window is 'wide', accepted are whole numbers >= 1, adaptive, fixed"),
        (unet, {"window": 8.5}, r"window is 8\.5, accepted are whole numbers >= 1, adaptive, fixed"),
        (unet, {"window": "-3"}, "window is -3, accepted are whole numbers from 1 to 65536"),
    ]:
        with pytest.raises(OutpaceError, match=message):
            given: Any = options
            diffusion.accelerate(model, **{"scheduler": scheduler, **given})
    wide = diffusion.accelerate(lambda x, t: torch.cat([x, x], 1), scheduler, shape=SHAPE)
    with pytest.raises(
        OutpaceError, match=r"step 0: the model's output is .*6, 8, 8.*, accepted is .*3, 8, 8"
    ):
        wide(1, num_inference_steps=5)
    broken = diffusion.accelerate(lambda x, t: x / (t > 500)[:, None, None, None], scheduler, shape=SHAPE)
    with pytest.raises(OutpaceError, match=r"step 2 of 5 \(time 400\): the model's output is not finite"):
        broken(1, num_inference_steps=5)
