"""Networks that several jobs of one process use."""

from __future__ import annotations

import torch

from kt_batch.models.weights import EncoderSource
from kt_batch.pipelines.networks import encoder_of, placed


def test_a_network_on_another_device_is_a_copy_and_the_kept_one_stays() -> None:
    kept = encoder_of(EncoderSource()).network
    elsewhere = placed(kept, torch.device("meta"))
    assert {each.device.type for each in elsewhere.parameters()} == {"meta"}
    assert {each.device.type for each in kept.parameters()} == {"cpu"}
    assert placed(kept, torch.device("cpu")) is kept
