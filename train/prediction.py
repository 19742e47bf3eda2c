"""Outputs of a network for images under noise."""

import io
from collections.abc import Callable, Sequence

import numpy as np
import torch
from numpy.typing import NDArray
from torch import Tensor, nn
from tqdm.auto import tqdm

from blastlens.noise import add_gaussian_noise
from train.networks import normalise, prepare
from train.quantise import onnx_session
from train.recipe import Recipe

BATCH = 16


def predictor(network: nn.Module, recipe: Recipe) -> Callable[[np.ndarray, Sequence[int], float], NDArray[np.float32]]:
    """A function from pixels (N, S, S, 3), rows, and sigma (0 to 255 scale) to the outputs (len(rows), D) of `network`.

    Each image has its own noise field, seeded with its row, scaled by sigma.
    """
    device = next(network.parameters()).device
    run = runner(network, recipe.image_size)

    @torch.inference_mode()
    def outputs(pixels: np.ndarray, rows: Sequence[int], sigma: float) -> NDArray[np.float32]:
        found = []
        for start in tqdm(range(0, len(rows), BATCH), desc=f"predictions at sigma {sigma:g}", unit="batch"):
            few = rows[start : start + BATCH]
            batch = np.stack([add_gaussian_noise(np.asarray(pixels[i]), sigma, seed=int(i)) for i in few])
            images = prepare(recipe, torch.from_numpy(batch).permute(0, 3, 1, 2).to(device))
            found.append(run(normalise(recipe, images)).float().cpu().numpy())
        return np.concatenate(found)

    return outputs


def runner(network: nn.Module, size: int) -> Callable[[Tensor], Tensor]:
    """The network as a function of normalized images (N, 3, size, size); on a CPU in ONNX Runtime, which takes a third
    of torch's time."""
    network.eval()
    if next(network.parameters()).device.type != "cpu":
        return network
    file = io.BytesIO()
    torch.onnx.export(
        network,
        (torch.zeros(2, 3, size, size),),
        file,
        input_names=["pixels"],
        dynamic_axes={"pixels": {0: "batch"}},
        opset_version=18,
        dynamo=False,
    )
    session = onnx_session(file.getvalue(), torch.get_num_threads())
    return lambda images: torch.from_numpy(session.run(None, {"pixels": images.contiguous().numpy()})[0])
